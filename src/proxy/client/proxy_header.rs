//! Receives PROXY headers: a proxy in front of Homing sends the client's address before TLS and
//! HTTP.
//!
//! Only trusted peers may send one. The header is first peeked at, then read up to its last byte,
//! because TLS or HTTP follows.

use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;

use tokio::io::AsyncReadExt;

use super::acceptor::Arrival;
use super::connection;
use super::handshake::HandshakeDeadline;
use super::refusal::{place_for, refuse};
use crate::dial::socket::Socket;
use crate::model::ProxyProtocol;
use crate::proxy::connection_counts::{CountedClient, client_key};
use crate::proxy::listener_settings::ListenerSettings;
use crate::proxy::worker::Worker;
use crate::proxy_protocol::{self, Header, MAX_V2_BYTES, Parsed};

/// Initial buffer size in bytes, enough for nearly all headers.
const INITIAL_BYTES: usize = 256;

/// Serves a connection that may start with a PROXY header, until it closes.
pub(crate) fn serve(
    worker: Rc<Worker>,
    arrival: Arrival,
    settings: ListenerSettings,
) -> impl Future<Output = ()> {
    // Boxed, to free its memory once the header is read.
    let identified = Box::pin(identify(Rc::clone(&worker), arrival, settings));
    async move {
        let Some((arrival, settings, _held)) = identified.await else { return };
        match settings.tls.clone() {
            None => connection::serve(worker, arrival, &settings).await,
            Some(tls) => connection::serve_secure(worker, arrival, tls).await,
        }
    }
}

/// Reads the header and counts the connection against its client's limit. `None` if the connection
/// was refused and is closed.
async fn identify(
    worker: Rc<Worker>,
    arrival: Arrival,
    settings: ListenerSettings,
) -> Option<(Arrival, ListenerSettings, Option<CountedClient>)> {
    let before = arrival.peer.ip();
    let arrival = match read_header(&worker, arrival, settings.proxy_protocol).await {
        Ok(arrival) => arrival,
        Err(reason) => {
            worker.metrics().proxy_header_refused(reason);
            return None;
        }
    };
    // The client that the header names has the same limit as if it had connected directly.
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

/// Reads the header and returns the connection with the header's addresses.
///
/// # Errors
/// The metrics label, if the connection must be closed.
async fn read_header(
    worker: &Worker,
    arrival: Arrival,
    mode: ProxyProtocol,
) -> Result<Arrival, &'static str> {
    let view = worker.view();
    let config = &view.snapshot.config;
    if !config.client_ip.trusts(arrival.peer.ip()) {
        return match mode {
            ProxyProtocol::Required => Err("untrusted"),
            // If it sends a header anyway, parsing that as TLS or HTTP fails.
            ProxyProtocol::Optional | ProxyProtocol::Off => Ok(arrival),
        };
    }
    let deadline = worker.deadlines.register(client_key(arrival.peer.ip()));
    let time_limit = HandshakeDeadline::new(worker, &deadline, config.timeouts.proxy_protocol);
    let Arrival { mut socket, peer, destination } = arrival;
    let Some((header, len)) = peek_header(&socket, &time_limit).await? else {
        return match mode {
            ProxyProtocol::Required => Err("missing"),
            ProxyProtocol::Optional | ProxyProtocol::Off => Ok(Arrival { socket, peer, destination }),
        };
    };
    // Does not wait: the whole header has arrived.
    let mut taken = vec![0; len];
    socket.read_exact(&mut taken).await.map_err(|_| "client_gone")?;
    Ok(match header {
        Header::Tcp { source, destination } => {
            let source = SocketAddr::new(source.ip().to_canonical(), source.port());
            Arrival { socket, peer: source, destination: Some(Box::new(destination)) }
        }
        // The proxy's own connection, or no IP addresses given: keep those of the socket.
        Header::Local | Header::Unknown | Header::Unix => Arrival { socket, peer, destination },
    })
}

/// Waits for the whole header and returns it with its length. `None` if the connection does not
/// start with a header.
async fn peek_header(
    socket: &Socket,
    time_limit: &HandshakeDeadline<'_>,
) -> Result<Option<(Header, usize)>, &'static str> {
    let mut seen = vec![0; INITIAL_BYTES];
    let mut known = 0;
    loop {
        let more = std::future::poll_fn(|cx| match socket.poll_peek(cx, &mut seen, known) {
            Poll::Ready(Ok(n)) if n > known => Poll::Ready(Ok(n)),
            Poll::Ready(_) => Poll::Ready(Err(if known == 0 { "unused" } else { "client_gone" })),
            Poll::Pending if time_limit.expired(cx) => Poll::Ready(Err("timeout")),
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
                tracing::debug!(%error, "invalid PROXY header, connection closed");
                return Err("malformed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_of_an_idle_connection_stays_small() {
        fn future_size<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let size = future_size(serve);
        assert!(size <= 768, "the task of an idle connection takes {size} bytes");
    }
}
