//! The pool of connections to one backend. Each worker has its own, so there are no locks.
//!
//! The connection used last is reused first, so that the others reach the idle timeout. An idle
//! connection with anything to read (its end, or unexpected bytes) is not reused.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::announced::Announced;
use super::connect_error::ConnectError;
use super::http2::{self, Links};
use super::lease::{BackendStream, OpenConnection};
use super::tls::BackendTls;
use crate::model::line::{Line, Place};
use crate::model::live::BackendLive;
use crate::model::{Address, Backend, Pool as Settings, ProxyVersion, Upstream};
use crate::proxy::connection_counts::client_key;
use crate::proxy::wire::socket::Socket;
use crate::proxy::wire::stream::Stream;
use crate::tls;

/// How long an HTTP/2 stream has to end after its response.
const STREAM_END_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest time between two log lines about failed handshakes.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A worker's connections to one backend.
#[derive(Debug)]
pub(crate) struct BackendPool {
    worker: usize,
    address: Address,
    /// The address as a Host, for requests without one.
    authority: Box<str>,
    tls: Option<BackendTls>,
    /// The version of the PROXY header to send, if any.
    proxy_protocol: Option<ProxyVersion>,
    /// When a failed handshake was last logged.
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
    /// Creates an empty pool.
    pub(crate) fn new(
        worker: usize,
        backend: &Backend,
        live: Arc<BackendLive>,
        upstream: &Upstream,
        tls: Option<&Arc<tls::Client>>,
    ) -> Self {
        let links = || Links::new(tls.is_some(), upstream.pool.max_idle);
        live.set_limit(backend.max_connections);
        Self {
            links: upstream.protocol.is_http2().then(links),
            proxy_protocol: upstream.proxy_protocol,
            tls: tls.map(|client| BackendTls::new(Arc::clone(client), backend)),
            warned: Cell::default(),
            worker,
            address: backend.address.clone(),
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
    pub(crate) fn take_idle(&self, announced: Option<&Announced>) -> Option<BackendStream> {
        if let Some(links) = &self.links {
            return links.take().map(http2::bridged);
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
        let permit = Box::pin(links.wait(timeout, connect)).await;
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
            let mut socket = match &self.address {
                Address::Ip(address) => Socket::from(TcpStream::connect(address).await?),
                Address::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await?.into(),
                Address::Unix(path) => UnixStream::connect(path).await?.into(),
            };
            if let Some(header) = header {
                socket.write_all(&header).await?;
            }
            let Some(tls) = &self.tls else { return Ok(Stream::new(socket)) };
            // Boxed to keep the futures of connections without TLS small.
            Box::pin(tls.connect(socket)).await
        };
        let connected = tokio::time::timeout(timeout, connecting).await;
        let stream = connected.unwrap_or(Err(ConnectError::TimedOut)).inspect_err(|error| {
            if matches!(error, ConnectError::Tls(_)) {
                self.warn_of_mismatch(error);
            }
        })?;
        if self.links.is_some() && !stream.chose_http2() {
            return Err(ConnectError::NotHttp2("h2 not selected by ALPN".into()));
        }
        Ok((stream, OpenConnection::new(&self.live)))
    }

    /// Logs a TLS or protocol mismatch, at most once per [`WARN_EVERY`].
    fn warn_of_mismatch(&self, error: &ConnectError) {
        let now = Instant::now();
        if self.warned.get().is_none_or(|at| now.duration_since(at) >= WARN_EVERY) {
            self.warned.set(Some(now));
            tracing::warn!(backend = %self.address, %error, "backend TLS or protocol mismatch");
        }
    }

    /// Returns whether connections of this pool have the upstream's TLS settings, protocol and
    /// PROXY header.
    pub(crate) fn fits(&self, upstream: &Upstream, tls: Option<&Arc<tls::Client>>) -> bool {
        let same_tls = match (&self.tls, tls) {
            (Some(own), Some(tls)) => own.is_from(tls),
            (own, tls) => own.is_none() && tls.is_none(),
        };
        let same_protocol = self.links.is_some() == upstream.protocol.is_http2();
        same_tls && same_protocol && self.proxy_protocol == upstream.proxy_protocol
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
        let timeout = self.settings.get().idle_timeout;
        if let Some(links) = &self.links {
            links.sweep(now, timeout);
        }
        self.idle.borrow_mut().retain_mut(|Idle { stream, since }| {
            now.saturating_duration_since(*since) < timeout && !stream.is_orphaned() && stream.is_quiet()
        });
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
