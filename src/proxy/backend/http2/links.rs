//! The HTTP/2 connections to one backend, of one worker: requests share them.
//!
//! A request takes a stream of the first one that has room. As long as none
//! has, it waits in line for one that is being opened, or for a stream to end.

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

/// What a backend is taken to allow before it was asked.
const ASSUMED_STREAMS: usize = 100;

/// A request that waits for a stream.
type Waiting = oneshot::Sender<Result<StreamPermit, ConnectError>>;

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

/// One stream's place on a connection.
#[derive(Debug)]
pub(crate) struct StreamPermit {
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
            allowed: Cell::new(ASSUMED_STREAMS),
            max_idle: Cell::new(max_idle),
        })
    }

    /// As many connections without a stream are kept; with 0 each one ends with
    /// its last stream.
    pub(crate) fn set_max_idle(&self, max_idle: usize) {
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
    pub(crate) fn take(self: &Rc<Self>) -> Option<StreamPermit> {
        self.open.borrow_mut().retain(|link| link.is_usable());
        let open = self.open.borrow();
        let link = open.iter().find(|link| link.streams.get() < link.send.current_max_send_streams())?;
        Some(StreamPermit::new(link, self))
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

    /// Opens as many connections as those in line will need.
    fn open_connections<F>(self: &Rc<Self>, timeout: Duration, connect: &(impl Fn() -> F + Clone + 'static))
    where
        F: Future<Output = Result<(Stream, OpenConnection), ConnectError>> + 'static,
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
                match opened.unwrap_or(Err(ConnectError::TimedOut)) {
                    Ok((send, driver)) => {
                        links.add(send, driver);
                        // It may allow less than was thought.
                        links.open_connections(timeout, &connect);
                    }
                    Err(error) => links.fail(&error),
                }
            });
        }
    }

    /// A connection is open: those in line get its streams.
    fn add(self: &Rc<Self>, send: SendRequest<Bytes>, driver: link::Driver) {
        self.allowed.set(send.current_max_send_streams().clamp(1, ASSUMED_STREAMS));
        let link = Rc::new(Link::new(send));
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

    /// A connection has ended. If it broke, so have the others, most likely: the
    /// backend is gone. What is on them may go on.
    fn connection_ended(&self, link: &Rc<Link>) {
        let mut open = self.open.borrow_mut();
        if link.streams.get() == 0 || link.is_going_away() {
            open.retain(|other| !Rc::ptr_eq(other, link));
        } else {
            open.clear();
        }
    }

    fn fail(&self, error: &ConnectError) {
        for waiting in self.waiting.take() {
            // Who waits no longer need not know.
            let _ = waiting.send(Err(error.clone()));
        }
    }

    /// Gives what room there is to those in line.
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

    /// A stream has ended.
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

    /// What the connection was used for before.
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
