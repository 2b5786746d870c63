//! TLS handshakes with clients.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::{HandshakeKind, ProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::dial::socket::Socket;
use crate::proxy::connection_counts::client_key;
use crate::proxy::handshake_slots::RECORD_HEADER;
use crate::proxy::notices::Limit;
use crate::proxy::request::origin::Secure;
use crate::proxy::wire::deadline::{Class, Deadline};
use crate::proxy::wire::stream::Stream;
use crate::proxy::worker::Worker;
use crate::tls;

/// The first byte of a TLS connection: the record type of handshake messages (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// Time allowed for a new connection to send its first request while Homing is shutting down.
pub(crate) const DRAINING_FIRST_REQUEST: Duration = Duration::from_secs(1);

/// The outcome of a handshake.
pub(crate) enum HandshakeOutcome {
    /// The connection is encrypted.
    Secure(Stream, Box<Secure>),
    /// The client sent something other than TLS, such as plain HTTP.
    Plain(Socket),
    /// The handshake failed. An alert was sent if possible.
    Failed(Socket),
    /// The connection is closed.
    Gone,
}

/// Performs the TLS handshake of a client at the address `peer`, within `timeout`.
pub(crate) async fn accept(
    worker: &Worker,
    socket: Socket,
    peer: IpAddr,
    server: &tls::Server,
    deadline: &Deadline,
    timeout: Duration,
) -> HandshakeOutcome {
    let time_limit = HandshakeDeadline::new(worker, deadline, timeout);
    let metrics = worker.metrics();
    match wait_for_hello(worker, &socket, &time_limit).await {
        Hello::Complete => {}
        Hello::Absent => {
            metrics.tls_handshake_failed("unused");
            return HandshakeOutcome::Gone;
        }
        Hello::Cut(reason) => {
            metrics.tls_handshake_failed(reason);
            return HandshakeOutcome::Gone;
        }
        Hello::NotTls => {
            metrics.tls_handshake_failed("plain_http");
            return HandshakeOutcome::Plain(socket);
        }
    }
    time_limit.keep();
    let limit = worker.view().snapshot.config.limits.handshakes;
    let Some(permit) = worker.handshakes.take(client_key(peer), worker.coarse_now(), limit) else {
        worker.notices.turned_away(Limit::Handshakes, worker.coarse_now(), &peer);
        metrics.tls_handshake_failed("shed");
        return HandshakeOutcome::Gone;
    };
    let turn = std::future::poll_fn(|cx| match permit.poll_turn(cx) {
        Poll::Pending if time_limit.expired(cx) => Poll::Ready(None),
        turn => turn.map(Some),
    });
    match turn.await {
        Some(true) => {}
        Some(false) => {
            worker.notices.turned_away(Limit::Handshakes, worker.coarse_now(), &peer);
            metrics.tls_handshake_failed("displaced");
            return HandshakeOutcome::Gone;
        }
        None => {
            metrics.tls_handshake_failed("timeout");
            return HandshakeOutcome::Gone;
        }
    }
    // Serves what else has arrived before this handshake computes.
    tokio::task::yield_now().await;
    let Some(live) = server.live() else { return HandshakeOutcome::Gone };
    let mut accepting = TlsAcceptor::from(Arc::clone(&live.config)).accept(socket).into_fallible();
    let accepted = std::future::poll_fn(|cx| {
        let accepted = Pin::new(&mut accepting).poll(cx);
        permit.computed();
        match accepted {
            Poll::Ready(accepted) => Poll::Ready(Ok(accepted)),
            Poll::Pending if permit.displaced(cx) => Poll::Ready(Err("displaced")),
            Poll::Pending if time_limit.expired(cx) => Poll::Ready(Err("timeout")),
            Poll::Pending => Poll::Pending,
        }
    });
    match accepted.await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            let name = session.server_name().map(|name| name.to_ascii_lowercase().into_boxed_str());
            let certificate = session.peer_certificates().and_then(|chain| chain.first());
            let secure = Secure {
                http2: session.alpn_protocol() == Some(b"h2"),
                server_name: name.map(|name| (name, Arc::clone(&live.identities))),
                certificate: certificate.map(|shown| Box::new(tls::client_identity(shown))),
            };
            let newest = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
            metrics.tls_handshake(newest, session.handshake_kind() == Some(HandshakeKind::Resumed));
            HandshakeOutcome::Secure(Stream::Tls(Box::new(TlsStream::Server(stream))), Box::new(secure))
        }
        Ok(Err((error, socket))) => {
            metrics.tls_handshake_failed(failure_label(&error));
            tracing::debug!(%error, "TLS handshake failed");
            HandshakeOutcome::Failed(socket)
        }
        Err(reason) => {
            if reason == "displaced" {
                worker.notices.turned_away(Limit::Handshakes, worker.coarse_now(), &peer);
            }
            metrics.tls_handshake_failed(reason);
            HandshakeOutcome::Gone
        }
    }
}

/// What a new connection has sent.
enum Hello {
    /// A complete record, which holds the `ClientHello` or is invalid.
    Complete,
    /// Nothing in time.
    Absent,
    /// A part of a record, and no more. Holds the metrics label.
    Cut(&'static str),
    /// Something else than TLS.
    NotTls,
}

/// Waits for the first record without reading it. Until then, the connection costs no more than its
/// socket.
async fn wait_for_hello(worker: &Worker, socket: &Socket, time_limit: &HandshakeDeadline<'_>) -> Hello {
    let mut known = 0;
    std::future::poll_fn(|cx| {
        loop {
            let mut seen = worker.peeked.borrow_mut();
            let n = match socket.poll_peek(cx, &mut seen, known) {
                Poll::Ready(Ok(n)) if n > known => n,
                Poll::Ready(_) if known == 0 => return Poll::Ready(Hello::Absent),
                Poll::Ready(_) => return Poll::Ready(Hello::Cut("client_gone")),
                Poll::Pending if !time_limit.expired(cx) => return Poll::Pending,
                Poll::Pending if known == 0 => return Poll::Ready(Hello::Absent),
                Poll::Pending => return Poll::Ready(Hello::Cut("timeout")),
            };
            known = n;
            let length = match seen[..n] {
                [HANDSHAKE_RECORD, _, _, high, low, ..] => usize::from(u16::from_be_bytes([high, low])),
                [HANDSHAKE_RECORD, ..] => continue,
                _ => return Poll::Ready(Hello::NotTls),
            };
            if n >= (RECORD_HEADER + length).min(seen.len()) {
                return Poll::Ready(Hello::Complete);
            }
        }
    })
    .await
}

/// A handshake's deadline. It is shortened once Homing shuts down.
pub(crate) struct HandshakeDeadline<'a> {
    worker: &'a Worker,
    deadline: &'a Deadline,
    shortened: Cell<bool>,
}

impl<'a> HandshakeDeadline<'a> {
    pub(crate) fn new(worker: &'a Worker, deadline: &'a Deadline, timeout: Duration) -> Self {
        let timeout = timeout.min(if worker.draining() { DRAINING_FIRST_REQUEST } else { Duration::MAX });
        deadline.set_as(Class::Silent, timeout);
        Self { worker, deadline, shortened: Cell::new(worker.draining()) }
    }

    /// Keeps the connection from being closed to make room for others.
    fn keep(&self) {
        self.deadline.keep();
    }

    /// Returns true if the deadline has passed. If not, the task is woken when it has.
    pub(crate) fn expired(&self, cx: &mut Context<'_>) -> bool {
        if self.worker.draining() && !self.shortened.replace(true) {
            self.deadline.set(DRAINING_FIRST_REQUEST);
        }
        self.deadline.expired(cx)
    }
}

/// Returns the metrics label for a failed handshake.
fn failure_label(error: &io::Error) -> &'static str {
    use rustls::Error as E;
    match tls_error(error) {
        Some(E::NoCertificatesPresented | E::InvalidCertificate(_)) => "client_certificate",
        Some(E::AlertReceived(_)) => "refused_by_client",
        Some(E::PeerIncompatible(_) | E::NoApplicationProtocol) => "incompatible",
        Some(_) => "protocol",
        None => "client_gone",
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
