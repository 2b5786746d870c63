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
use super::io::Stream;
use super::socket::Socket;
use crate::model::live::BackendLive;
use crate::model::{Address, Backend, Pool as Settings};
use crate::tls;

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
}

#[derive(Debug)]
struct Idle {
    stream: BackendStream,
    since: Instant,
}

/// A connection to a backend, in the count of its open ones for as long as it lives.
#[derive(Debug)]
pub(super) struct BackendStream {
    stream: Stream,
    live: Arc<BackendLive>,
}

impl BackendPool {
    /// An empty pool.
    pub(super) fn new(
        worker: usize,
        backend: &Backend,
        live: Arc<BackendLive>,
        settings: Settings,
        tls: Option<&Arc<tls::Client>>,
    ) -> Self {
        Self {
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
    }

    /// No request will be sent here any more: nothing is kept from now on.
    pub(super) fn retire(&self) {
        self.settings.set(Settings { max_idle: 0, ..self.settings.get() });
        self.idle.borrow_mut().clear();
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
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { mut stream, .. }) = idle.pop() {
            if stream.is_quiet() {
                return Some(stream);
            }
        }
        None
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// The system's; `TimedOut` after `timeout`.
    pub(super) async fn connect(&self, timeout: Duration) -> io::Result<BackendStream> {
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
        self.live.opened();
        Ok(BackendStream { stream, live: Arc::clone(&self.live) })
    }

    /// Says what TLS has against the backend, but not with every request again.
    fn complain(&self, error: &io::Error) {
        let now = Instant::now();
        if self.complained.get().is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
            self.complained.set(Some(now));
            tracing::warn!(backend = %self.address, %error, "no TLS with a backend");
        }
    }

    /// Are its connections encrypted as `tls` says?
    pub(super) fn has_tls(&self, tls: Option<&Arc<tls::Client>>) -> bool {
        match (&self.tls, tls) {
            (Some(own), Some(tls)) => own.is(tls),
            (own, tls) => own.is_none() && tls.is_none(),
        }
    }

    /// Keeps a connection whose exchange ended cleanly; `now` may be a tick old.
    pub(super) fn keep(&self, stream: BackendStream, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.settings.get().max_idle {
            idle.push(Idle { stream, since: now });
        }
    }

    /// Closes what has waited too long, or was closed by the backend.
    pub(super) fn sweep(&self, now: Instant) {
        let timeout = self.settings.get().idle_timeout;
        self.idle
            .borrow_mut()
            .retain_mut(|idle| now.saturating_duration_since(idle.since) < timeout && idle.stream.is_quiet());
    }

    /// Closes the idle connection that has waited longest; false if there is none.
    pub(super) fn drop_oldest(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let some = !idle.is_empty();
        drop(idle.drain(..usize::from(some)));
        some
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

impl Drop for BackendStream {
    fn drop(&mut self) {
        self.live.closed();
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
