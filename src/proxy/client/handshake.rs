//! TLS handshakes with clients.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::{HandshakeKind, ProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::dial::socket::Socket;
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

/// Performs a client's TLS handshake, within `timeout`.
pub(crate) async fn accept(
    worker: &Worker,
    socket: Socket,
    server: &tls::Server,
    deadline: &Deadline,
    timeout: Duration,
) -> HandshakeOutcome {
    let time_limit = HandshakeDeadline::new(worker, deadline, timeout);
    let metrics = worker.metrics();
    let mut first = [0];
    let has_data = std::future::poll_fn(|cx| match socket.poll_peek(cx, &mut first, 0) {
        Poll::Ready(peeked) => Poll::Ready(peeked.is_ok_and(|n| n > 0)),
        Poll::Pending if time_limit.expired(cx) => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    });
    if !has_data.await {
        metrics.tls_handshake_failed("unused");
        return HandshakeOutcome::Gone;
    }
    if first[0] != HANDSHAKE_RECORD {
        metrics.tls_handshake_failed("plain_http");
        return HandshakeOutcome::Plain(socket);
    }
    let Some(_permit) = HandshakePermit::take(worker, deadline, timeout) else {
        metrics.tls_handshake_failed("shed");
        return HandshakeOutcome::Gone;
    };
    let Some(live) = server.live() else { return HandshakeOutcome::Gone };
    let mut accepting = TlsAcceptor::from(Arc::clone(&live.config)).accept(socket).into_fallible();
    let accepted = std::future::poll_fn(|cx| match Pin::new(&mut accepting).poll(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending if time_limit.expired(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match accepted.await {
        Some(Ok(stream)) => {
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
        Some(Err((error, socket))) => {
            metrics.tls_handshake_failed(failure_label(&error));
            tracing::debug!(%error, "TLS handshake failed");
            HandshakeOutcome::Failed(socket)
        }
        None => {
            metrics.tls_handshake_failed("timeout");
            HandshakeOutcome::Gone
        }
    }
}

/// A handshake older than this may be aborted in favour of a new one. Legitimate handshakes finish
/// faster, even when many clients connect at once.
const MIN_HANDSHAKE_TIME: Duration = Duration::from_secs(1);

/// Counts a handshake in progress until dropped.
struct HandshakePermit<'a>(&'a Worker);

impl<'a> HandshakePermit<'a> {
    /// Counts a handshake. At the limit, aborts the oldest one if it has taken longer than
    /// [`MIN_HANDSHAKE_TIME`]; otherwise returns `None`. Aborting younger ones would let no
    /// handshake finish when many clients connect at once.
    fn take(worker: &'a Worker, deadline: &Deadline, timeout: Duration) -> Option<Self> {
        let limit = worker.view().snapshot.config.limits.handshakes;
        if worker.handshakes.get() >= limit
            && !worker.deadlines.expire_earliest(Class::Handshake, timeout.saturating_sub(MIN_HANDSHAKE_TIME))
        {
            return None;
        }
        if !worker.draining() {
            deadline.set_as(Class::Handshake, timeout);
        }
        worker.handshakes.set(worker.handshakes.get() + 1);
        Some(Self(worker))
    }
}

impl Drop for HandshakePermit<'_> {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
    }
}

/// A handshake's deadline. It is shortened once Homing shuts down.
pub(crate) struct HandshakeDeadline<'a> {
    worker: &'a Worker,
    deadline: &'a Deadline,
    shortened: Cell<bool>,
}

impl<'a> HandshakeDeadline<'a> {
    pub(crate) fn new(worker: &'a Worker, deadline: &'a Deadline, timeout: Duration) -> Self {
        deadline.set(timeout.min(if worker.draining() { DRAINING_FIRST_REQUEST } else { Duration::MAX }));
        Self { worker, deadline, shortened: Cell::new(worker.draining()) }
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
