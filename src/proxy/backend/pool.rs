//! Connections to one backend, of one worker: no lock, no sharing.
//!
//! The connection used last is used first, so that the others age and go. One
//! that has anything to read while it waits (its end, or bytes nobody asked
//! for) is not used again.

use std::cell::{Cell, RefCell};
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
use crate::model::live::BackendLive;
use crate::model::{Address, Backend, Pool as Settings, ProxyVersion, Upstream};
use crate::proxy::wire::socket::Socket;
use crate::proxy::wire::stream::Stream;

/// How long a stream of HTTP/2 has to end after its response.
const STREAM_END_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two words about a backend's TLS.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// A worker's connections to one backend, and its share of the counters.
#[derive(Debug)]
pub(crate) struct BackendPool {
    worker: usize,
    address: Address,
    /// The address as a Host, for requests that name none.
    authority: Box<str>,
    tls: Option<BackendTls>,
    /// Are clients announced?
    proxy_protocol: Option<ProxyVersion>,
    /// When a failed handshake was last logged.
    warned: Cell<Option<Instant>>,
    live: Arc<BackendLive>,
    settings: Cell<Settings>,
    max_in_use: Cell<Option<u32>>,
    idle: RefCell<Vec<Idle>>,
    /// Its connections, if it speaks HTTP/2.
    links: Option<Rc<Links>>,
}

#[derive(Debug)]
struct Idle {
    stream: BackendStream,
    since: Instant,
}

impl BackendPool {
    /// An empty pool.
    pub(crate) fn new(worker: usize, backend: &Backend, live: Arc<BackendLive>, upstream: &Upstream) -> Self {
        let tls = upstream.tls.as_ref();
        let links = || Links::new(tls.is_some(), upstream.pool.max_idle);
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
            max_in_use: Cell::new(backend.max_connections),
            idle: RefCell::default(),
        }
    }

    /// The settings after a reload.
    pub(crate) fn configure(&self, backend: &Backend, upstream: &Upstream) {
        self.settings.set(upstream.pool);
        self.max_in_use.set(backend.max_connections);
        if let Some(links) = &self.links {
            links.set_max_idle(upstream.pool.max_idle);
        }
    }

    /// No request will be sent here any more: nothing is kept from now on.
    pub(crate) fn retire(&self) {
        self.settings.set(Settings { max_idle: 0, ..self.settings.get() });
        self.idle.borrow_mut().clear();
        if let Some(links) = &self.links {
            links.set_max_idle(0);
        }
    }

    /// Takes one of the backend's places for a request, if it has one left.
    pub(crate) fn acquire(self: &Rc<Self>) -> Option<BackendPermit> {
        let limit = self.max_in_use.get();
        if limit.is_some() && !self.live.try_use(limit) {
            return None;
        }
        self.live.begin(self.worker);
        Some(BackendPermit { pool: Rc::clone(self), limited: limit.is_some() })
    }

    /// Does a new connection begin with a PROXY header that names the client?
    pub(crate) fn announces_clients(&self) -> bool {
        self.proxy_protocol.is_some()
    }

    /// A connection that waits to be used again, by whom it is for.
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

    /// Opens a connection, and says whom it is for; to a backend that speaks
    /// HTTP/2 only if none has room.
    ///
    /// # Errors
    /// The system's; `TimedOut` after `timeout`.
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
        // Boxed, so that others hold no room for it.
        let permit = Box::pin(links.wait(timeout, connect)).await;
        permit.map(http2::bridged).inspect_err(|error| {
            if matches!(error, ConnectError::NotHttp2(_)) {
                self.warn_of_mismatch(error);
            }
        })
    }

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
            // Boxed, so that plain connections hold no room for it.
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

    /// Do its connections begin as the upstream says: encrypted, announced, in
    /// which protocol?
    pub(crate) fn fits(&self, upstream: &Upstream) -> bool {
        let same_tls = match (&self.tls, &upstream.tls) {
            (Some(own), Some(tls)) => own.is_from(tls),
            (own, tls) => own.is_none() && tls.is_none(),
        };
        let same_protocol = self.links.is_some() == upstream.protocol.is_http2();
        same_tls && same_protocol && self.proxy_protocol == upstream.proxy_protocol
    }

    /// Keeps a connection whose exchange ended cleanly; `now` may be a tick old.
    pub(crate) fn keep(&self, mut stream: BackendStream, now: Instant) {
        if self.links.is_some() {
            // Its last frame may be on its way: leaving now would look like giving up.
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

    /// Closes what has waited too long, was closed by the backend, or is for a
    /// client that is gone.
    pub(crate) fn sweep(&self, now: Instant) {
        let timeout = self.settings.get().idle_timeout;
        if let Some(links) = &self.links {
            links.sweep(now, timeout);
        }
        self.idle.borrow_mut().retain_mut(|Idle { stream, since }| {
            now.saturating_duration_since(*since) < timeout && !stream.is_orphaned() && stream.is_quiet()
        });
    }

    /// Closes the idle connection that has waited longest; false if there is none.
    pub(crate) fn drop_oldest(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let some = !idle.is_empty();
        drop(idle.drain(..usize::from(some)));
        some || self.links.as_ref().is_some_and(|links| links.drop_oldest())
    }

    /// The backend's address as a Host, for requests that name none.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The backend's counters.
    pub(crate) fn live(&self) -> &BackendLive {
        &self.live
    }
}

/// One request's place at a backend; given back when dropped.
#[derive(Debug)]
pub(crate) struct BackendPermit {
    pool: Rc<BackendPool>,
    limited: bool,
}

impl BackendPermit {
    /// The backend's pool.
    pub(crate) fn pool(&self) -> &Rc<BackendPool> {
        &self.pool
    }
}

impl Drop for BackendPermit {
    fn drop(&mut self) {
        self.pool.live.end(self.pool.worker);
        if self.limited {
            self.pool.live.unused();
        }
    }
}
