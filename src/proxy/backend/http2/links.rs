//! A worker's HTTP/2 connections to one backend. Requests share them.
//!
//! A request gets a stream of the first connection that has room. If none has, it waits in a queue
//! for a new connection, or for another stream to end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use ::h2::client::SendRequest;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::link::{self, Link};
use crate::proxy::backend::connect_error::ConnectError;
use crate::proxy::backend::lease::{OpenConnection, Usage};
use crate::proxy::wire::stream::Stream;

/// The streams that a backend is assumed to allow per connection until it has said so.
const ASSUMED_STREAMS: usize = 100;

/// A queued request.
type Waiting = oneshot::Sender<Result<StreamPermit, ConnectError>>;

/// The connections to one backend.
#[derive(Debug)]
pub(crate) struct Links {
    /// The scheme of the requests.
    scheme: &'static str,
    open: RefCell<Vec<Rc<Link>>>,
    /// The queue.
    waiting: RefCell<VecDeque<Waiting>>,
    /// The number of connections being opened.
    opening: Cell<usize>,
    /// The streams that the backend allowed on its latest connection.
    allowed: Cell<usize>,
    /// The most idle connections to keep.
    max_idle: Cell<usize>,
}

/// A permit for one stream on a connection. Counts as a stream until dropped.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    pub(crate) link: Rc<Link>,
    links: Weak<Links>,
    /// What the connection was used for before.
    usage: Usage,
    pub(crate) scheme: &'static str,
}

impl Links {
    /// Creates an empty set. `tls`: whether the connections will be encrypted.
    pub(crate) fn new(tls: bool, max_idle: usize) -> Rc<Self> {
        Rc::new(Self {
            scheme: if tls { "https" } else { "http" },
            open: RefCell::default(),
            waiting: RefCell::default(),
            opening: Cell::new(0),
            allowed: Cell::new(ASSUMED_STREAMS),
            max_idle: Cell::new(max_idle),
        })
    }

    /// Sets how many idle connections to keep. With 0, a connection closes with its last stream.
    pub(crate) fn set_max_idle(&self, max_idle: usize) {
        self.max_idle.set(max_idle);
        if max_idle == 0 {
            self.open.borrow_mut().retain(|link| link.streams.get() > 0);
        }
    }

    /// Closes connections that have been idle for `timeout`, and drops those that take no new
    /// streams.
    pub(crate) fn sweep(&self, now: Instant, timeout: Duration) {
        let expired = |link: &Link| {
            link.streams.get() == 0 && now.saturating_duration_since(link.idle_since.get()) >= timeout
        };
        self.open.borrow_mut().retain(|link| !expired(link) && link.is_usable());
    }

    /// Closes the connection that has been idle longest. Returns false if none is idle.
    pub(crate) fn drop_oldest(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let idle = (0..).zip(open.iter()).filter(|(_, link)| link.streams.get() == 0);
        let oldest = idle.min_by_key(|(_, link)| link.idle_since.get()).map(|(index, _)| index);
        oldest.is_some_and(|index| {
            open.remove(index);
            true
        })
    }

    /// Returns a stream on an open connection, if one has room.
    pub(crate) fn take(self: &Rc<Self>) -> Option<StreamPermit> {
        self.open.borrow_mut().retain(|link| link.is_usable());
        let open = self.open.borrow();
        let link = open.iter().find(|link| link.streams.get() < link.send.current_max_send_streams())?;
        Some(StreamPermit::new(link, self))
    }

    /// Waits for a stream, on a connection that `connect` opens or on another one.
    ///
    /// # Errors
    /// A connection could not be opened, or `timeout` has passed.
    pub(crate) async fn wait<F>(
        self: &Rc<Self>,
        timeout: Duration,
        connect: impl Fn() -> F + Clone + 'static,
    ) -> Result<StreamPermit, ConnectError>
    where
        F: Future<Output = Result<(Stream, OpenConnection), ConnectError>> + 'static,
    {
        if let Some(permit) = self.take() {
            return Ok(permit);
        }
        let (waiting, offered) = oneshot::channel();
        self.waiting.borrow_mut().push_back(waiting);
        self.open_connections(timeout, &connect);
        match tokio::time::timeout(timeout, offered).await {
            Ok(Ok(Ok(permit))) => Ok(permit),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) | Err(_) => Err(ConnectError::TimedOut),
        }
    }

    /// Opens as many connections as the queue needs.
    fn open_connections<F>(self: &Rc<Self>, timeout: Duration, connect: &(impl Fn() -> F + Clone + 'static))
    where
        F: Future<Output = Result<(Stream, OpenConnection), ConnectError>> + 'static,
    {
        let mut queue = self.waiting.borrow_mut();
        // Timed-out waiters need no connection.
        queue.retain(|waiting| !waiting.is_closed());
        let wanted = queue.len().div_ceil(self.allowed.get().max(1));
        drop(queue);
        while self.opening.get() < wanted {
            self.opening.set(self.opening.get() + 1);
            let (links, connect, connecting) = (Rc::clone(self), connect.clone(), connect());
            tokio::task::spawn_local(async move {
                let opening = async {
                    let (stream, counted) = connecting.await?;
                    link::open(stream, counted).await
                };
                let opened = tokio::time::timeout(timeout, opening).await;
                links.opening.set(links.opening.get() - 1);
                match opened.unwrap_or(Err(ConnectError::TimedOut)) {
                    Ok((send, driver)) => {
                        links.add(send, driver);
                        // It may allow fewer streams than assumed.
                        links.open_connections(timeout, &connect);
                    }
                    Err(error) => links.fail(&error),
                }
            });
        }
    }

    /// Adds an open connection and gives its streams to the queue.
    fn add(self: &Rc<Self>, send: SendRequest<Bytes>, driver: link::Driver) {
        self.allowed.set(send.current_max_send_streams().clamp(1, ASSUMED_STREAMS));
        let link = Rc::new(Link::new(send, Rc::clone(&driver.marks)));
        let (links, weak) = (Rc::downgrade(self), Rc::downgrade(&link));
        tokio::task::spawn_local(async move {
            driver.run(&weak).await;
            if let (Some(links), Some(link)) = (links.upgrade(), weak.upgrade()) {
                links.connection_ended(&link);
            }
        });
        self.open.borrow_mut().push(link);
        self.offer();
    }

    /// Removes a connection that has ended. If it failed, the backend is probably gone, so no other
    /// connection gets new streams either. Streams already open continue.
    fn connection_ended(&self, link: &Rc<Link>) {
        let mut open = self.open.borrow_mut();
        if link.streams.get() == 0 || link.is_going_away() {
            open.retain(|other| !Rc::ptr_eq(other, link));
        } else {
            open.clear();
        }
    }

    /// Fails all queued requests.
    fn fail(&self, error: &ConnectError) {
        for waiting in self.waiting.take() {
            // Fails if the waiter has timed out.
            let _ = waiting.send(Err(error.clone()));
        }
    }

    /// Gives free streams to the queue.
    fn offer(self: &Rc<Self>) {
        loop {
            if self.waiting.borrow().is_empty() {
                return;
            }
            let Some(permit) = self.take() else { return };
            let mut offered = Ok(permit);
            while let Ok(permit) = offered {
                let Some(waiting) = self.waiting.borrow_mut().pop_front() else { return };
                offered = match waiting.send(Ok(permit)) {
                    Err(Ok(permit)) => Ok(permit),
                    Ok(()) | Err(Err(_)) => Err(()),
                };
            }
        }
    }

    /// Handles the end of a stream: closes the connection if too many are idle, then serves the
    /// queue.
    fn stream_ended(self: &Rc<Self>, link: &Rc<Link>) {
        if link.streams.get() == 0 {
            link.idle_since.set(Instant::now());
            let mut open = self.open.borrow_mut();
            let idle = open.iter().filter(|link| link.streams.get() == 0).count();
            if idle > self.max_idle.get() {
                open.retain(|other| !Rc::ptr_eq(other, link));
            }
        }
        self.offer();
    }
}

impl StreamPermit {
    fn new(link: &Rc<Link>, links: &Rc<Links>) -> Self {
        Self {
            usage: link.begin_stream(),
            scheme: links.scheme,
            link: Rc::clone(link),
            links: Rc::downgrade(links),
        }
    }

    /// Returns what the connection was used for before.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.link.streams.set(self.link.streams.get() - 1);
        if let Some(links) = self.links.upgrade() {
            links.stream_ended(&self.link);
        }
    }
}
