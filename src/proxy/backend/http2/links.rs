//! The HTTP/2 connections to one backend, of one worker: requests share them.
//!
//! A request takes a stream of the first one that has room. As long as none
//! has, it waits in line for one that is being opened, or for a stream to end.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::h2::client::SendRequest;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::link;
use super::stream::BackendSide;
use crate::proxy::backend::pool::{Counted, Usage};
use crate::proxy::wire::stream::Stream;

/// What a backend is taken to allow before it was asked.
const LIKELY_STREAMS: usize = 100;

/// How long a connection may be silent before that means anything.
const SILENCE: Duration = Duration::from_secs(1);

/// A request that waits for a stream.
type Waiting = oneshot::Sender<Result<Seat, Arc<io::Error>>>;

/// The connections to one backend.
#[derive(Debug)]
pub(crate) struct Links {
    /// The scheme of its requests.
    scheme: &'static str,
    open: RefCell<Vec<Rc<Link>>>,
    waiting: RefCell<VecDeque<Waiting>>,
    /// Connections that are being opened.
    opening: Cell<usize>,
    /// Streams that the backend allowed on the last connection.
    allowed: Cell<usize>,
    /// Connections kept without a stream.
    max_idle: Cell<usize>,
}

/// One of them.
pub(crate) struct Link {
    pub(crate) send: SendRequest<Bytes>,
    streams: Cell<usize>,
    /// When the last response came over it.
    heard: Cell<Option<Instant>>,
    begun: Cell<bool>,
    idle_since: Cell<Instant>,
    /// Is the backend to show that it is there?
    pub(crate) doubted: Cell<bool>,
    pub(crate) driver: RefCell<Option<Waker>>,
}

/// One stream's place on a connection.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) link: Rc<Link>,
    links: Weak<Links>,
    /// What the connection had been through.
    usage: Usage,
    pub(crate) scheme: &'static str,
}

impl Links {
    /// None yet; `tls`: will they be encrypted?
    pub(crate) fn new(tls: bool, max_idle: usize) -> Rc<Self> {
        Rc::new(Self {
            scheme: if tls { "https" } else { "http" },
            open: RefCell::default(),
            waiting: RefCell::default(),
            opening: Cell::new(0),
            allowed: Cell::new(LIKELY_STREAMS),
            max_idle: Cell::new(max_idle),
        })
    }

    /// As many connections without a stream are kept; with 0 each one ends with
    /// its last stream.
    pub(crate) fn keep_at_most(&self, max_idle: usize) {
        self.max_idle.set(max_idle);
        if max_idle == 0 {
            self.open.borrow_mut().retain(|link| link.streams.get() > 0);
        }
    }

    /// Lets go of what has rested too long.
    pub(crate) fn sweep(&self, now: Instant, timeout: Duration) {
        let rests = |link: &Link| {
            link.streams.get() == 0 && now.saturating_duration_since(link.idle_since.get()) >= timeout
        };
        self.open.borrow_mut().retain(|link| !rests(link) && link.is_usable());
    }

    /// Lets go of the one that has rested longest; false if none does.
    pub(crate) fn drop_oldest(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let idle = (0..).zip(open.iter()).filter(|(_, link)| link.streams.get() == 0);
        let oldest = idle.min_by_key(|(_, link)| link.idle_since.get()).map(|(index, _)| index);
        oldest.is_some_and(|index| {
            open.remove(index);
            true
        })
    }

    /// A stream on a connection that is there.
    pub(crate) fn take(self: &Rc<Self>) -> Option<(Stream, Usage)> {
        self.seat().map(Seat::into_stream)
    }

    fn seat(self: &Rc<Self>) -> Option<Seat> {
        self.open.borrow_mut().retain(|link| link.is_usable());
        let open = self.open.borrow();
        let link = open.iter().find(|link| link.streams.get() < link.send.current_max_send_streams())?;
        Some(Seat::new(link, self))
    }

    /// A stream, once there is room for it on one that `connect` opens or on
    /// another.
    ///
    /// # Errors
    /// What opening failed of; `TimedOut` after `timeout`.
    pub(crate) async fn wait<F>(
        self: &Rc<Self>,
        timeout: Duration,
        connect: impl Fn() -> F + Clone + 'static,
    ) -> io::Result<(Stream, Usage)>
    where
        F: Future<Output = io::Result<(Stream, Counted)>> + 'static,
    {
        if let Some(seat) = self.seat() {
            return Ok(seat.into_stream());
        }
        let (waiting, offered) = oneshot::channel();
        self.waiting.borrow_mut().push_back(waiting);
        self.open_more(timeout, &connect);
        match tokio::time::timeout(timeout, offered).await {
            Ok(Ok(Ok(seat))) => Ok(seat.into_stream()),
            Ok(Ok(Err(error))) => Err(io::Error::new(error.kind(), error)),
            Ok(Err(_)) | Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Opens as many connections as those in line will need.
    fn open_more<F>(self: &Rc<Self>, timeout: Duration, connect: &(impl Fn() -> F + Clone + 'static))
    where
        F: Future<Output = io::Result<(Stream, Counted)>> + 'static,
    {
        let mut line = self.waiting.borrow_mut();
        // Who has given up needs none.
        line.retain(|waiting| !waiting.is_closed());
        let wanted = line.len().div_ceil(self.allowed.get().max(1));
        drop(line);
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
                match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok((send, driver)) => {
                        links.add(send, driver);
                        // It may allow less than was thought.
                        links.open_more(timeout, &connect);
                    }
                    Err(error) => links.fail(error),
                }
            });
        }
    }

    /// A connection is open: those in line get its streams.
    fn add(self: &Rc<Self>, send: SendRequest<Bytes>, driver: link::Driver) {
        self.allowed.set(send.current_max_send_streams().clamp(1, LIKELY_STREAMS));
        let link = Rc::new(Link {
            send,
            streams: Cell::new(0),
            heard: Cell::default(),
            begun: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            doubted: Cell::new(false),
            driver: RefCell::default(),
        });
        let (links, weak) = (Rc::downgrade(self), Rc::downgrade(&link));
        tokio::task::spawn_local(async move {
            driver.run(&weak).await;
            if let (Some(links), Some(link)) = (links.upgrade(), weak.upgrade()) {
                links.ended(&link);
            }
        });
        self.open.borrow_mut().push(link);
        self.offer();
    }

    /// A connection has ended. If it broke, so have the others, most likely: the
    /// backend is gone. What is on them may go on.
    fn ended(&self, link: &Rc<Link>) {
        let mut open = self.open.borrow_mut();
        if link.streams.get() == 0 || link.said_goodbye() {
            open.retain(|other| !Rc::ptr_eq(other, link));
        } else {
            open.clear();
        }
    }

    fn fail(&self, error: io::Error) {
        let error = Arc::new(error);
        for waiting in self.waiting.take() {
            // Who waits no longer need not know.
            let _ = waiting.send(Err(Arc::clone(&error)));
        }
    }

    /// Gives what room there is to those in line.
    fn offer(self: &Rc<Self>) {
        loop {
            if self.waiting.borrow().is_empty() {
                return;
            }
            let Some(seat) = self.seat() else { return };
            let mut offered = Ok(seat);
            while let Ok(seat) = offered {
                let Some(waiting) = self.waiting.borrow_mut().pop_front() else { return };
                offered = match waiting.send(Ok(seat)) {
                    Err(Ok(seat)) => Ok(seat),
                    Ok(()) | Err(Err(_)) => Err(()),
                };
            }
        }
    }

    /// A stream has ended.
    fn left(self: &Rc<Self>, link: &Rc<Link>) {
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

/// What a request that waited was told, without the sharing.
pub(crate) fn unshared(error: &io::Error) -> &io::Error {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Arc<io::Error>>()).map_or(error, |shared| shared)
}

impl Link {
    /// May a stream be begun on it?
    fn is_usable(&self) -> bool {
        self.end().is_none()
    }

    /// Has the backend announced its end (GOAWAY)?
    fn said_goodbye(&self) -> bool {
        self.end().is_some_and(|error| error.is_go_away() && error.is_remote())
    }

    /// What it has ended with, or will.
    fn end(&self) -> Option<::h2::Error> {
        match self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    /// A response has come over it.
    pub(crate) fn heard(&self) {
        self.heard.set(Some(Instant::now()));
    }

    /// A request was given up that had waited since then. If nothing else came in
    /// the meantime, the backend is to show that it is there; not at once, as
    /// some take many a PING for an attack.
    pub(crate) fn waited_in_vain(&self, since: Instant) {
        let silent = self.heard.get().is_none_or(|heard| heard < since);
        if !silent || since.elapsed() < SILENCE {
            return;
        }
        self.doubted.set(true);
        if let Some(driver) = self.driver.borrow_mut().take() {
            driver.wake();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("streams", &self.streams.get()).finish_non_exhaustive()
    }
}

impl Seat {
    fn new(link: &Rc<Link>, links: &Rc<Links>) -> Self {
        link.streams.set(link.streams.get() + 1);
        Self {
            usage: match (link.begun.replace(true), link.heard.get()) {
                (false, _) => Usage::First,
                (true, None) => Usage::Early,
                (true, Some(_)) => Usage::Again,
            },
            scheme: links.scheme,
            link: Rc::clone(link),
            links: Rc::downgrade(links),
        }
    }

    fn into_stream(self) -> (Stream, Usage) {
        let usage = self.usage;
        (Stream::Bridged(Box::new(BackendSide::new(self))), usage)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.link.streams.set(self.link.streams.get() - 1);
        if let Some(links) = self.links.upgrade() {
            links.left(&self.link);
        }
    }
}
