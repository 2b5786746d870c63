//! The PROXY protocol from clients: a proxy in front says whose connection it
//! relays, before TLS and before HTTP.
//!
//! Only trusted peers are asked. The header is looked at where it lies and
//! then taken, itself and not a byte more: what follows it is TLS or HTTP.

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::AsyncReadExt;

use super::acceptor::Arrival;
use super::connection;
use super::handshake::HandshakeDeadline;
use super::refusal::{place_for, refuse};
use crate::model::ProxyProtocol;
use crate::proxy::connection_counts::Held;
use crate::proxy::listener_settings::ListenerSettings;
use crate::proxy::wire::socket::Socket;
use crate::proxy::worker::Worker;
use crate::proxy_protocol::{self, Header, MAX_V2_BYTES, Parsed};

/// Room for what nearly all headers need.
const USUAL: usize = 256;

/// Serves a connection on a listener that speaks the protocol, until it ends.
pub(crate) fn serve(
    worker: Rc<Worker>,
    arrival: Arrival,
    settings: ListenerSettings,
) -> impl Future<Output = ()> {
    // Boxed, so that a connection holds no room for its header later.
    let entering = Box::pin(enter(Rc::clone(&worker), arrival, settings));
    async move {
        let Some((arrival, settings, _held)) = entering.await else { return };
        match settings.tls.clone() {
            None => connection::serve(worker, arrival, &settings).await,
            Some(tls) => connection::serve_secure(worker, arrival, tls).await,
        }
    }
}

/// The connection with its client's addresses and place; `None`: it is closed.
async fn enter(
    worker: Rc<Worker>,
    arrival: Arrival,
    settings: ListenerSettings,
) -> Option<(Arrival, ListenerSettings, Option<Held>)> {
    let before = arrival.peer.ip();
    let arrival = match receive(&worker, arrival, settings.proxy_protocol).await {
        Ok(arrival) => arrival,
        Err(reason) => {
            worker.metrics().proxy_header_refused(reason);
            return None;
        }
    };
    // Whom the header names has as many places as if it had come itself.
    let client = arrival.peer.ip();
    let place = if client == before { Ok(None) } else { place_for(&worker, client) };
    match place {
        Ok(held) => Some((arrival, settings, held)),
        Err(refusal) => {
            refuse(&worker, &arrival.socket, settings.tls.is_none(), refusal, arrival.peer);
            None
        }
    }
}

/// The connection, with the addresses that its header gives it; or why it is
/// closed, in a word for the metrics.
async fn receive(worker: &Worker, arrival: Arrival, mode: ProxyProtocol) -> Result<Arrival, &'static str> {
    let view = worker.view();
    let config = &view.snapshot.config;
    if !config.client_ip.trusts(arrival.peer.ip()) {
        return match mode {
            ProxyProtocol::Required => Err("untrusted"),
            // A header of theirs is no HTTP, and refused as such.
            ProxyProtocol::Optional | ProxyProtocol::Off => Ok(arrival),
        };
    }
    let deadline = worker.deadlines.register();
    let patience = HandshakeDeadline::new(worker, &deadline, config.timeouts.proxy_protocol);
    let Arrival { mut socket, peer, destination } = arrival;
    let Some((header, len)) = look(&socket, &patience).await? else {
        return match mode {
            ProxyProtocol::Required => Err("missing"),
            ProxyProtocol::Optional | ProxyProtocol::Off => Ok(Arrival { socket, peer, destination }),
        };
    };
    // It is there, whole: this does not wait.
    let mut taken = vec![0; len];
    socket.read_exact(&mut taken).await.map_err(|_| "client_gone")?;
    Ok(match header {
        Header::Tcp { source, destination } => {
            let source = SocketAddr::new(source.ip().to_canonical(), source.port());
            Arrival { socket, peer: source, destination: Some(Box::new(destination)) }
        }
        // The proxy's own, or nobody's in particular: the socket's addresses count.
        Header::Local | Header::Unknown | Header::Unix => Arrival { socket, peer, destination },
    })
}

/// The header and its length, once it has come whole; `None`: there is none.
async fn look(
    socket: &Socket,
    patience: &HandshakeDeadline<'_>,
) -> Result<Option<(Header, usize)>, &'static str> {
    let mut seen = vec![0; USUAL];
    let mut known = 0;
    loop {
        let more = std::future::poll_fn(|cx| match socket.poll_peek(cx, &mut seen, known) {
            Poll::Ready(Ok(n)) if n > known => Poll::Ready(Ok(n)),
            Poll::Ready(_) => Poll::Ready(Err(if known == 0 { "unused" } else { "client_gone" })),
            Poll::Pending if patience.ended(cx) => Poll::Ready(Err("timeout")),
            Poll::Pending => Poll::Pending,
        });
        known = more.await?;
        match proxy_protocol::parse(&seen[..known]) {
            Ok(Parsed::Complete { header, len }) => return Ok(Some((header, len))),
            Ok(Parsed::NotProxy) => return Ok(None),
            Ok(Parsed::Partial) if known < seen.len() => {}
            Ok(Parsed::Partial) if known < MAX_V2_BYTES => seen.resize(MAX_V2_BYTES, 0),
            Ok(Parsed::Partial) => return Err("malformed"),
            Err(error) => {
                tracing::debug!(%error, "a connection is closed");
                return Err("malformed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_waits_holds_no_room_for_its_header() {
        fn future_size<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let size = future_size(serve);
        assert!(size <= 768, "the task of an idle connection takes {size} bytes");
    }
}
