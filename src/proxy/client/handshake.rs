//! TLS handshakes: with clients, and with backends.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::connection::FIRST;
use crate::model::Backend;
use crate::proxy::backend::http2;
use crate::proxy::route::without_port;
use crate::proxy::wire::deadline::{Class, Deadline};
use crate::proxy::wire::socket::Socket;
use crate::proxy::wire::stream::Stream;
use crate::proxy::worker::Worker;
use crate::tls::{self, Identities};

/// The first byte of a TLS connection: a record with a handshake message in it.
const HANDSHAKE_RECORD: u8 = 22;
/// Sessions remembered of one backend, by one worker.
const SESSIONS: usize = 8;

/// What became of a client's connection.
pub(crate) enum Accepted {
    /// It is encrypted.
    Secure(Stream, Box<Secure>),
    /// It speaks HTTP where TLS is spoken.
    Plain(Socket),
    /// The handshake failed; the client was told why, if it can be.
    Failed(Socket),
    /// There is nobody any more.
    Gone,
}

/// What is known of a client by its handshake.
#[derive(Debug)]
pub(crate) struct Secure {
    /// The host that it asked for (SNI), in lower case, and the certificates it
    /// was chosen from.
    asked_for: Option<(Box<str>, Arc<Identities>)>,
    /// Did it choose HTTP/2 (ALPN)?
    pub(crate) http2: bool,
    /// Its certificate's subject and digest.
    certificate: Option<Box<(String, String)>>,
}

impl Secure {
    /// May it ask for this host (as in Host)? A client that named another host
    /// in its handshake may only if the certificate that it got is for both:
    /// then it may use the connection for both (RFC 9110 §7.4).
    pub(crate) fn may_ask_for(&self, host: &str) -> bool {
        let Some((name, identities)) = &self.asked_for else { return true };
        let host = without_port(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        host.is_empty()
            || host.eq_ignore_ascii_case(name)
            || identities.covers(name, &host.to_ascii_lowercase())
    }

    /// Subject and digest of its certificate, if it showed one.
    pub(crate) fn certificate(&self) -> Option<(&str, &str)> {
        self.certificate.as_deref().map(|(subject, digest)| (subject.as_str(), digest.as_str()))
    }

    /// What its certificate calls it: its subject or, where that is empty, its digest.
    pub(crate) fn certificate_name(&self) -> Option<&str> {
        let (subject, digest) = self.certificate()?;
        Some(if subject.is_empty() { digest } else { subject })
    }
}

/// Shakes hands with a client, `patience` at most.
pub(crate) async fn accept(
    worker: &Worker,
    socket: Socket,
    server: &tls::Server,
    deadline: &Deadline,
    patience: Duration,
) -> Accepted {
    let whole = patience;
    let patience = Patience::new(worker, deadline, patience);
    let metrics = &worker.metrics;
    let mut first = [0];
    let began = std::future::poll_fn(|cx| match socket.poll_peek(cx, &mut first, 0) {
        Poll::Ready(peeked) => Poll::Ready(peeked.is_ok_and(|n| n > 0)),
        Poll::Pending if patience.ended(cx) => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    });
    if !began.await {
        metrics.tls_handshake_failed("unused");
        return Accepted::Gone;
    }
    if first[0] != HANDSHAKE_RECORD {
        metrics.tls_handshake_failed("plain_http");
        return Accepted::Plain(socket);
    }
    let Some(_turn) = Turn::take(worker, deadline, whole) else {
        metrics.tls_handshake_failed("shed");
        return Accepted::Gone;
    };
    let Some(live) = server.live() else { return Accepted::Gone };
    let mut accepting = TlsAcceptor::from(Arc::clone(&live.config)).accept(socket).into_fallible();
    let accepted = std::future::poll_fn(|cx| match Pin::new(&mut accepting).poll(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending if patience.ended(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    match accepted.await {
        Some(Ok(stream)) => {
            let session = stream.get_ref().1;
            let name = session.server_name().map(|name| name.to_ascii_lowercase().into_boxed_str());
            let certificate = session.peer_certificates().and_then(|chain| chain.first());
            let secure = Secure {
                http2: session.alpn_protocol() == Some(b"h2"),
                asked_for: name.map(|name| (name, Arc::clone(&live.identities))),
                certificate: certificate.map(|shown| Box::new(tls::client_identity(shown))),
            };
            let newest = session.protocol_version() == Some(ProtocolVersion::TLSv1_3);
            metrics.tls_handshake(newest, session.handshake_kind() == Some(HandshakeKind::Resumed));
            Accepted::Secure(Stream::Tls(Box::new(TlsStream::Server(stream))), Box::new(secure))
        }
        Some(Err((error, socket))) => {
            metrics.tls_handshake_failed(reason(&error));
            tracing::debug!(%error, "TLS handshake failed");
            Accepted::Failed(socket)
        }
        None => {
            metrics.tls_handshake_failed("timeout");
            Accepted::Gone
        }
    }
}

/// A handshake that has taken this long may have to make room for another one:
/// an honest one takes less, even if many come at once.
const UNHURRIED: Duration = Duration::from_secs(1);

/// A handshake in the count of those in progress, for as long as this lives.
struct Turn<'a>(&'a Worker);

impl<'a> Turn<'a> {
    /// One more, if there are not too many, or the slowest of them can go. Were
    /// it always the oldest that goes, a crowd would see none of its handshakes end.
    fn take(worker: &'a Worker, deadline: &Deadline, patience: Duration) -> Option<Self> {
        let limit = worker.view().snapshot.config.limits.handshakes;
        if worker.handshakes.get() >= limit
            && !worker.deadlines.expire_oldest(Class::Handshake, patience.saturating_sub(UNHURRIED))
        {
            return None;
        }
        if !worker.draining() {
            deadline.set_as(Class::Handshake, patience);
        }
        worker.handshakes.set(worker.handshakes.get() + 1);
        Some(Self(worker))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
    }
}

/// How long a client is waited for: less once Homing stops.
pub(crate) struct Patience<'a> {
    worker: &'a Worker,
    deadline: &'a Deadline,
    hurried: Cell<bool>,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(worker: &'a Worker, deadline: &'a Deadline, patience: Duration) -> Self {
        deadline.set(patience.min(if worker.draining() { FIRST } else { Duration::MAX }));
        Self { worker, deadline, hurried: Cell::new(worker.draining()) }
    }

    /// Is it at its end? If not, the task is woken when it is.
    pub(crate) fn ended(&self, cx: &mut Context<'_>) -> bool {
        if self.worker.draining() && !self.hurried.replace(true) {
            self.deadline.set(FIRST);
        }
        self.deadline.expired(cx)
    }
}

/// Why a handshake failed, in a word for the metrics.
fn reason(error: &io::Error) -> &'static str {
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

/// How connections to a backend are encrypted.
#[derive(Debug)]
pub(crate) struct ToBackend {
    client: Arc<tls::Client>,
    name: Option<ServerName<'static>>,
    /// The configuration with this backend's sessions, and what it comes from.
    config: RefCell<Option<(Arc<ClientConfig>, Arc<ClientConfig>)>>,
}

impl ToBackend {
    pub(crate) fn new(client: Arc<tls::Client>, backend: &Backend) -> Self {
        let name = client.server_name(&backend.address.host());
        Self { client, name, config: RefCell::default() }
    }

    /// Is this how `client` says, and will say?
    pub(crate) fn is(&self, client: &Arc<tls::Client>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// The socket's; what TLS has against the backend, as [`is_tls_failure`] tells.
    pub(crate) async fn connect(&self, socket: Socket) -> io::Result<Stream> {
        let unusable = || io::Error::new(io::ErrorKind::InvalidInput, "TLS is not configured");
        let (Some(name), Some(config)) = (self.name.clone(), self.config()) else { return Err(unusable()) };
        // What a handshake fails of is the backend's TLS, whatever the system says.
        let stream = TlsConnector::from(config).connect(name, socket).await.map_err(|error| {
            if tls_error(&error).is_some() { error } else { io::Error::other(Broken(error)) }
        })?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }

    fn config(&self) -> Option<Arc<ClientConfig>> {
        let current = self.client.config()?;
        let mut own = self.config.borrow_mut();
        match &*own {
            Some((base, own)) if Arc::ptr_eq(base, &current) => Some(Arc::clone(own)),
            _ => {
                let made = tls::with_sessions(&current, SESSIONS);
                *own = Some((current, Arc::clone(&made)));
                Some(made)
            }
        }
    }
}

/// The backend broke off in a handshake.
#[derive(Debug, thiserror::Error)]
#[error("the backend broke off the TLS handshake: {0}")]
struct Broken(#[source] io::Error);

/// Is it TLS that failed, and not the connection below?
pub(crate) fn is_tls_failure(error: &io::Error) -> bool {
    let inner = http2::unshared(error).get_ref();
    inner.is_some_and(|inner| inner.is::<rustls::Error>() || inner.is::<Broken>())
}

/// Where a request would be with https, on this port.
pub(crate) fn https_location(host: &str, port: u16, path_and_query: &str) -> String {
    let host = without_port(host);
    let path = if path_and_query.starts_with('/') { path_and_query } else { "/" };
    if port == 443 { format!("https://{host}{path}") } else { format!("https://{host}:{port}{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_keeps_host_path_and_query_and_changes_the_port() {
        assert_eq!(https_location("a.example:8080", 443, "/x?y"), "https://a.example/x?y");
        assert_eq!(https_location("[::1]:80", 8443, "/"), "https://[::1]:8443/");
        assert_eq!(https_location("[::1]", 443, "*"), "https://[::1]/");
    }
}
