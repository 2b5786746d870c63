//! Connections to one backend, of one worker: no lock, no sharing.
//!
//! The connection used last is used first, so that the others age and go. One
//! that has anything to read while it waits (its end, or bytes nobody asked
//! for) is not used again.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use super::handshake::{ToBackend, is_tls_failure};
use super::http2::{self, Links};
use super::io::Stream;
use super::socket::Socket;
use crate::model::live::BackendLive;
use crate::model::{Address, Backend, Pool as Settings, Upstream};
use crate::tls;

/// How long a stream of HTTP/2 has to end after its response.
const RUN_OUT: Duration = Duration::from_secs(5);
/// Time between two words about a backend's TLS.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A worker's connections to one backend, and its share of the counters.
#[derive(Debug)]
pub(super) struct BackendPool {
    worker: usize,
    address: Address,
    /// The address as a Host, for requests that name none.
    authority: Box<str>,
    tls: Option<ToBackend>,
    /// When a failed handshake was last logged.
    complained: Cell<Option<Instant>>,
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

/// A connection to a backend, or a stream of a shared one.
#[derive(Debug)]
pub(super) struct BackendStream {
    stream: Stream,
    /// `None`: the connection that it is a stream of counts.
    _counted: Option<Counted>,
}

/// A connection in the count of a backend's open ones for as long as it lives.
#[derive(Debug)]
pub(super) struct Counted(Arc<BackendLive>);

impl BackendPool {
    /// An empty pool.
    pub(super) fn new(worker: usize, backend: &Backend, live: Arc<BackendLive>, upstream: &Upstream) -> Self {
        let (settings, tls) = (upstream.pool, upstream.tls.as_ref());
        let links = || Links::new(tls.is_some(), settings.max_idle);
        Self {
            links: upstream.protocol.is_http2().then(links),
            tls: tls.map(|client| ToBackend::new(Arc::clone(client), backend)),
            complained: Cell::default(),
            worker,
            address: backend.address.clone(),
            authority: backend.address.authority().into_boxed_str(),
            live,
            settings: Cell::new(settings),
            max_in_use: Cell::new(backend.max_connections),
            idle: RefCell::default(),
        }
    }

    /// The settings after a reload.
    pub(super) fn configure(&self, backend: &Backend, settings: Settings) {
        self.settings.set(settings);
        self.max_in_use.set(backend.max_connections);
        if let Some(links) = &self.links {
            links.keep_at_most(settings.max_idle);
        }
    }

    /// No request will be sent here any more: nothing is kept from now on.
    pub(super) fn retire(&self) {
        self.settings.set(Settings { max_idle: 0, ..self.settings.get() });
        self.idle.borrow_mut().clear();
        if let Some(links) = &self.links {
            links.keep_at_most(0);
        }
    }

    /// Takes one of the backend's places for a request, if it has one left.
    pub(super) fn begin(self: &Rc<Self>) -> Option<InUse> {
        let limit = self.max_in_use.get();
        if limit.is_some() && !self.live.try_use(limit) {
            return None;
        }
        self.live.begin(self.worker);
        Some(InUse { pool: Rc::clone(self), limited: limit.is_some() })
    }

    /// A connection that waits to be used again.
    pub(super) fn take_idle(&self) -> Option<BackendStream> {
        if let Some(links) = &self.links {
            return links.take().map(BackendStream::shared);
        }
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut stream, .. }) = idle.pop() {
            if stream.is_quiet() {
                return Some(stream);
            }
        }
        None
    }

    /// Opens a connection; to a backend that speaks HTTP/2 only if none has room.
    ///
    /// # Errors
    /// The system's; `TimedOut` after `timeout`.
    pub(super) async fn connect(self: &Rc<Self>, timeout: Duration) -> io::Result<BackendStream> {
        let Some(links) = &self.links else {
            let (stream, counted) = self.connect_own(timeout).await?;
            return Ok(BackendStream { stream, _counted: Some(counted) });
        };
        let pool = Rc::clone(self);
        let connect = move || {
            let pool = Rc::clone(&pool);
            async move { pool.connect_own(timeout).await }
        };
        // Boxed, so that others hold no room for it.
        let stream = Box::pin(links.wait(timeout, connect)).await;
        Ok(BackendStream::shared(stream.inspect_err(|error| {
            if http2::is_not_http2(error) {
                self.complain(error);
            }
        })?))
    }

    async fn connect_own(&self, timeout: Duration) -> io::Result<(Stream, Counted)> {
        let connecting = async {
            io::Result::Ok(match &self.address {
                Address::Ip(address) => Socket::from(TcpStream::connect(address).await?),
                Address::Name(host, port) => TcpStream::connect((host.as_str(), *port)).await?.into(),
                Address::Unix(path) => UnixStream::connect(path).await?.into(),
            })
        };
        let connecting = async {
            let socket = connecting.await?;
            let Some(tls) = &self.tls else { return Ok(Stream::new(socket)) };
            // Boxed, so that plain connections hold no room for it.
            Box::pin(tls.connect(socket)).await
        };
        let stream = match tokio::time::timeout(timeout, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                if is_tls_failure(&error) {
                    self.complain(&error);
                }
                return Err(error);
            }
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        if self.links.is_some() && !stream.chose_http2() {
            return Err(http2::not_chosen());
        }
        self.live.opened();
        Ok((stream, Counted(Arc::clone(&self.live))))
    }

    /// Says why nothing can be said to the backend, but not with every request again.
    fn complain(&self, error: &io::Error) {
        let now = Instant::now();
        if self.complained.get().is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
            self.complained.set(Some(now));
            tracing::warn!(backend = %self.address, %error, "no understanding with a backend");
        }
    }

    /// Are its connections what the upstream's are to be?
    pub(super) fn fits(&self, upstream: &Upstream) -> bool {
        self.links.is_some() == upstream.protocol.is_http2() && self.has_tls(upstream.tls.as_ref())
    }

    fn has_tls(&self, tls: Option<&Arc<tls::Client>>) -> bool {
        match (&self.tls, tls) {
            (Some(own), Some(tls)) => own.is(tls),
            (own, tls) => own.is_none() && tls.is_none(),
        }
    }

    /// Keeps a connection whose exchange ended cleanly; `now` may be a tick old.
    pub(super) fn keep(&self, mut stream: BackendStream, now: Instant) {
        if self.links.is_some() {
            // Its last frame may be on its way: leaving now would look like giving up.
            if stream.is_quiet() {
                tokio::task::spawn_local(async move {
                    let end = std::future::poll_fn(|cx| stream.poll_readable(cx));
                    let _ = tokio::time::timeout(RUN_OUT, end).await;
                });
            }
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.settings.get().max_idle {
            idle.push(Idle { stream, since: now });
        }
    }

    /// Closes what has waited too long, or was closed by the backend.
    pub(super) fn sweep(&self, now: Instant) {
        let timeout = self.settings.get().idle_timeout;
        if let Some(links) = &self.links {
            links.sweep(now, timeout);
        }
        self.idle
            .borrow_mut()
            .retain_mut(|idle| now.saturating_duration_since(idle.since) < timeout && idle.stream.is_quiet());
    }

    /// Closes the idle connection that has waited longest; false if there is none.
    pub(super) fn drop_oldest(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let some = !idle.is_empty();
        drop(idle.drain(..usize::from(some)));
        some || self.links.as_ref().is_some_and(|links| links.drop_oldest())
    }

    /// The backend's address as a Host, for requests that name none.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The backend's counters.
    pub(super) fn live(&self) -> &BackendLive {
        &self.live
    }
}

impl Deref for BackendStream {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        &self.stream
    }
}

impl DerefMut for BackendStream {
    fn deref_mut(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

impl BackendStream {
    fn shared(stream: Stream) -> Self {
        Self { stream, _counted: None }
    }

    /// Of one that was just connected: had its connection served before, and was
    /// that opened for this?
    pub(super) fn is_of_old(&self) -> (bool, bool) {
        match &self.stream {
            Stream::Bridged(bridge) => bridge.serves(),
            _ => (false, true),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.closed();
    }
}

/// One request's place at a backend; given back when dropped.
#[derive(Debug)]
pub(super) struct InUse {
    pool: Rc<BackendPool>,
    limited: bool,
}

impl InUse {
    /// The backend's pool.
    pub(super) fn pool(&self) -> &Rc<BackendPool> {
        &self.pool
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.pool.live.end(self.pool.worker);
        if self.limited {
            self.pool.live.unused();
        }
    }
}
