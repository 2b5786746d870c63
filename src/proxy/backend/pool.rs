//! The pool of connections to one backend. Each worker has its own, so there are no locks.
//!
//! The connection used last is reused first, so that the others reach the idle timeout. An idle
//! connection with anything to read (its end, or unexpected bytes) is not reused.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_rustls::TlsStream;

use super::announced::Announced;
use super::asker::Asker;
use super::http2::{self, Links};
use super::lease::{BackendStream, OpenConnection};
use crate::dial::connect_error::ConnectError;
use crate::dial::dialer::{Connection, Dialer};
use crate::dial::names::{Name, Names};
use crate::h1::{HeadError, HeadLimits};
use crate::model::line::{Line, Place};
use crate::model::live::BackendLive;
use crate::model::snapshot::UpstreamState;
use crate::model::{Backend, Pool as Settings, ProxyVersion, Upstream};
use crate::proxy::connection_counts::client_key;
use crate::proxy::wire::stream::Stream;
use crate::telemetry::UpstreamMetrics;
use crate::tls;

/// How long an HTTP/2 stream has to end after its response.
const STREAM_END_TIMEOUT: Duration = Duration::from_secs(5);
/// TLS sessions kept for resumption, per backend and worker.
const TLS_SESSIONS: usize = 8;
/// The shortest time between two warnings about one backend.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A worker's connections to one backend.
#[derive(Debug)]
pub(crate) struct BackendPool {
    worker: usize,
    dialer: Dialer,
    /// The version of the name's addresses that connections were last compared with.
    name_version: Cell<u64>,
    /// The address as a Host, for requests without one.
    authority: Box<str>,
    /// The version of the PROXY header to send, if any.
    proxy_protocol: Option<ProxyVersion>,
    /// When a warning was last logged.
    warned: Cell<Option<Instant>>,
    live: Arc<BackendLive>,
    settings: Cell<Settings>,
    /// Whether the backend has a connection limit.
    limited: Cell<bool>,
    /// Idle HTTP/1.1 connections, last used last.
    idle: RefCell<Vec<Idle>>,
    /// The connections, if the backend speaks HTTP/2.
    links: Option<Rc<Links>>,
}

#[derive(Debug)]
struct Idle {
    stream: BackendStream,
    since: Instant,
}

impl BackendPool {
    /// Creates an empty pool for a member of the upstream.
    pub(crate) fn new(
        worker: usize,
        state: &UpstreamState,
        member: usize,
        tls: Option<&Arc<tls::Client>>,
        names: &Names,
        metrics: &Arc<UpstreamMetrics>,
    ) -> Self {
        let (upstream, backend) = (&state.config, &state.config.backends[member]);
        let live = Arc::clone(&state.live[member]);
        let http2 = upstream.protocol.is_http2();
        let dialer = Dialer::new(backend.address.clone(), names);
        let links = || Links::new(tls.is_some(), upstream.pool.max_idle, &live, &state.line, metrics);
        live.set_limit(backend.max_connections);
        Self {
            links: http2.then(links),
            proxy_protocol: upstream.proxy_protocol,
            dialer: dialer.with_tls(tls, TLS_SESSIONS).with_http2(http2),
            name_version: Cell::new(0),
            warned: Cell::default(),
            worker,
            authority: backend.address.authority().into_boxed_str(),
            live,
            settings: Cell::new(upstream.pool),
            limited: Cell::new(backend.max_connections.is_some()),
            idle: RefCell::default(),
        }
    }

    /// Applies the settings of a reload.
    pub(crate) fn configure(&self, backend: &Backend, upstream: &Upstream) {
        self.settings.set(upstream.pool);
        self.limited.set(backend.max_connections.is_some());
        self.live.set_limit(backend.max_connections);
        if let Some(links) = &self.links {
            links.set_max_idle(upstream.pool.max_idle);
        }
    }

    /// Closes idle connections and keeps none from now on. For a backend that was removed.
    pub(crate) fn retire(&self) {
        self.settings.set(Settings { max_idle: 0, ..self.settings.get() });
        self.idle.borrow_mut().clear();
        if let Some(links) = &self.links {
            links.set_max_idle(0);
        }
    }

    /// Returns a permit for one request of `client`, unless the backend is at its connection limit.
    /// Uses the `reserved` place if it is at this backend, and gives it back otherwise.
    pub(crate) fn acquire(
        self: &Rc<Self>,
        line: &Arc<Line>,
        client: IpAddr,
        reserved: Option<Place>,
    ) -> Option<BackendPermit> {
        let place = match (self.limited.get(), reserved) {
            (false, _) => None,
            (true, Some(place)) if place.is_at(&self.live) => Some(place),
            (true, _) => Some(line.take(&self.live, client_key(client))?),
        };
        self.live.begin(self.worker);
        Some(BackendPermit { pool: Rc::clone(self), _place: place })
    }

    /// Returns whether new connections start with a PROXY header that names the client.
    pub(crate) fn announces_clients(&self) -> bool {
        self.proxy_protocol.is_some()
    }

    /// Returns an idle connection, or a stream of an open HTTP/2 connection. With `announced`, only
    /// a connection that was announced for this client.
    pub(crate) fn take_idle(&self, asker: Asker, announced: Option<&Announced>) -> Option<BackendStream> {
        self.drop_moved();
        if let Some(links) = &self.links {
            return links.take(asker).map(http2::bridged);
        }
        let mut idle = self.idle.borrow_mut();
        loop {
            let Idle { mut stream, .. } = match announced {
                None => idle.pop()?,
                Some(announced) => {
                    let at = idle.iter().rposition(|idle| idle.stream.is_for(announced))?;
                    idle.remove(at)
                }
            };
            if stream.is_quiet() {
                return Some(stream.reused());
            }
        }
    }

    /// Opens a connection and sends the PROXY header if `announced`. For HTTP/2, returns a stream
    /// of an open connection if one has room.
    ///
    /// # Errors
    /// The connection could not be opened, or `timeout` has passed.
    pub(crate) async fn connect(
        self: &Rc<Self>,
        asker: Asker,
        timeout: Duration,
        announced: Option<Box<Announced>>,
    ) -> Result<BackendStream, ConnectError> {
        let Some(links) = &self.links else {
            let (stream, counted) = self.open_connection(timeout, announced.as_deref()).await?;
            return Ok(BackendStream::opened(stream, announced, counted));
        };
        let pool = Rc::clone(self);
        let connect = move || {
            let pool = Rc::clone(&pool);
            async move { pool.open_connection(timeout, None).await }
        };
        // Boxed to keep the futures of HTTP/1.1 requests small.
        let permit = Box::pin(links.wait(asker, timeout, connect)).await;
        permit.map(http2::bridged).inspect_err(|error| {
            if matches!(error, ConnectError::NotHttp2(_)) {
                self.warn_of_mismatch(error);
            }
        })
    }

    /// Opens a socket, sends the PROXY header, and performs the TLS handshake.
    async fn open_connection(
        &self,
        timeout: Duration,
        announced: Option<&Announced>,
    ) -> Result<(Stream, OpenConnection), ConnectError> {
        let header = announced.zip(self.proxy_protocol).map(|(who, version)| who.header(version));
        let connecting = async {
            let socket = self.dialer.open().await?;
            let peer = self.dialer.name().and_then(|_| socket.peer_address());
            let stream = match self.dialer.start(socket, header.as_deref()).await? {
                Connection::Plain(socket) => Stream::new(socket),
                Connection::Tls(stream) => Stream::Tls(Box::new(TlsStream::Client(*stream))),
            };
            Ok((stream, peer))
        };
        let connected = tokio::time::timeout(timeout, connecting).await;
        let (stream, peer) = connected.unwrap_or(Err(ConnectError::TimedOut)).inspect_err(|error| {
            if matches!(error, ConnectError::Tls(_)) {
                self.warn_of_mismatch(error);
            }
        })?;
        Ok((stream, OpenConnection::new(&self.live, peer)))
    }

    /// Logs a TLS or protocol mismatch, at most once per [`WARN_EVERY`].
    fn warn_of_mismatch(&self, error: &ConnectError) {
        if self.may_warn() {
            tracing::warn!(backend = %self.dialer.address(), %error, "backend TLS or protocol mismatch");
        }
    }

    /// Logs that a response head exceeds a limit, at most once per [`WARN_EVERY`]. `bytes` of it have
    /// arrived.
    pub(crate) fn warn_of_large_head(&self, error: HeadError, bytes: usize, limits: &HeadLimits) {
        if !self.may_warn() {
            return;
        }
        let (setting, limit) = match error {
            HeadError::TooManyFields => ("limits.fields", limits.fields),
            _ => ("limits.head_bytes", limits.head_bytes),
        };
        tracing::warn!(backend = %self.dialer.address(), bytes, limit, setting, "response head exceeds a limit: {error}");
    }

    /// Returns true at most once per [`WARN_EVERY`].
    fn may_warn(&self) -> bool {
        let now = Instant::now();
        let may = self.warned.get().is_none_or(|at| now.duration_since(at) >= WARN_EVERY);
        if may {
            self.warned.set(Some(now));
        }
        may
    }

    /// Returns whether connections of this pool have the upstream's TLS settings, protocol and
    /// PROXY header.
    pub(crate) fn fits(&self, upstream: &Upstream, tls: Option<&Arc<tls::Client>>) -> bool {
        let same_protocol = self.links.is_some() == upstream.protocol.is_http2();
        self.dialer.has_tls(tls) && same_protocol && self.proxy_protocol == upstream.proxy_protocol
    }

    /// Keeps a connection whose exchange ended cleanly. `now` may be a tick old.
    pub(crate) fn keep(&self, mut stream: BackendStream, now: Instant) {
        if self.links.is_some() {
            // The stream's last frame may not have arrived. Dropping the stream now would reset it.
            if stream.is_quiet() {
                tokio::task::spawn_local(async move {
                    let end = std::future::poll_fn(|cx| stream.poll_readable(cx));
                    let _ = tokio::time::timeout(STREAM_END_TIMEOUT, end).await;
                });
            }
            return;
        }
        let moved = |name: &Name| stream.peer().is_some_and(|peer| !name.has(peer));
        if self.dialer.name().is_some_and(|name| moved(name)) {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        let most = self.settings.get().max_idle;
        if idle.len() >= most && self.proxy_protocol.is_some() {
            idle.retain(|idle| !idle.stream.is_orphaned());
        }
        if idle.len() < most {
            idle.push(Idle { stream, since: now });
        }
    }

    /// Closes connections that are past the idle timeout, were closed by the backend, or were
    /// announced for a client that is gone.
    pub(crate) fn sweep(&self, now: Instant) {
        if let Some(name) = self.dialer.name() {
            name.refresh();
            self.drop_moved();
        }
        let timeout = self.settings.get().idle_timeout;
        if let Some(links) = &self.links {
            links.sweep(now, timeout);
        }
        self.idle.borrow_mut().retain_mut(|Idle { stream, since }| {
            now.saturating_duration_since(*since) < timeout && !stream.is_orphaned() && stream.is_quiet()
        });
    }

    /// Closes idle connections to addresses that the backend's name no longer has.
    fn drop_moved(&self) {
        let Some(name) = self.dialer.name() else { return };
        if self.name_version.replace(name.version()) == name.version() {
            return;
        }
        self.idle.borrow_mut().retain(|idle| idle.stream.peer().is_none_or(|peer| name.has(peer)));
        if let Some(links) = &self.links {
            links.retain(|peer| name.has(peer));
        }
    }

    /// Closes the connection that has been idle longest. Returns false if there is none.
    pub(crate) fn drop_oldest(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let some = !idle.is_empty();
        drop(idle.drain(..usize::from(some)));
        some || self.links.as_ref().is_some_and(|links| links.drop_oldest())
    }

    /// Returns the backend's address as a Host, for requests without one.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the backend's counters.
    pub(crate) fn live(&self) -> &BackendLive {
        &self.live
    }
}

/// A permit for one request at a backend. Counts the request as in flight until dropped.
#[derive(Debug)]
pub(crate) struct BackendPermit {
    pool: Rc<BackendPool>,
    /// Its place, if the backend has a connection limit.
    _place: Option<Place>,
}

impl BackendPermit {
    /// Returns the backend's pool.
    pub(crate) fn pool(&self) -> &Rc<BackendPool> {
        &self.pool
    }
}

impl Drop for BackendPermit {
    fn drop(&mut self) {
        self.pool.live.end(self.pool.worker);
    }
}
