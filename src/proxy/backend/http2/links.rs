//! A worker's HTTP/2 connections to one backend. Requests share them.
//!
//! A request gets a stream of the first connection that has room. If none has, it waits in a queue
//! for a new connection, or for another stream to end.
//!
//! What a client does to a connection must not harm the others on it. A client that has cancelled
//! many requests, or whose unread uploads fill the window of one, gets a few connections of its own: its
//! **lane**. Cancelled requests are reset only as often as backends take without closing the
//! connection.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use ::h2::client::SendRequest;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::cancelled::Cancelled;
use super::link::{self, Link, MAX_STREAMS};
use super::unfinished::{Tail, Unfinished};
use crate::dial::connect_error::ConnectError;
use crate::model::line::Line;
use crate::model::live::BackendLive;
use crate::proxy::backend::asker::Asker;
use crate::proxy::backend::lease::{OpenConnection, Usage};
use crate::proxy::bridge::outlet::Outlet;
use crate::proxy::wire::stream::Stream;
use crate::telemetry::UpstreamMetrics;

/// The most connections that one client gets for itself.
const OWN_LINKS: usize = 4;

/// The client that has connections for itself. `None`: the connections are shared.
type Lane = Option<u64>;

/// A queued request.
#[derive(Debug)]
struct Waiting {
    asker: Asker,
    lane: Lane,
    offer: oneshot::Sender<Result<StreamPermit, ConnectError>>,
}

/// The connections to one backend.
#[derive(Debug)]
pub(crate) struct Links {
    /// The scheme of the requests.
    scheme: &'static str,
    open: RefCell<Vec<Rc<Link>>>,
    /// The queue.
    waiting: RefCell<VecDeque<Waiting>>,
    /// The lanes of the connections being opened.
    opening: RefCell<Vec<Lane>>,
    /// The streams that the backend allowed on its latest connection.
    allowed: Cell<usize>,
    /// The most idle connections to keep.
    max_idle: Cell<usize>,
    /// The number of streams opened so far.
    streams: Cell<u64>,
    cancelled: Rc<Cancelled<StreamPermit>>,
}

/// A permit for one stream on a connection. Counts as a stream until dropped.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    pub(crate) link: Rc<Link>,
    links: Weak<Links>,
    /// What the connection was used for before.
    usage: Usage,
    pub(crate) scheme: &'static str,
    /// The client of the request.
    client: u64,
    /// Identifies the stream among all of the backend's.
    serial: u64,
    /// Whether the request has a body to send.
    upload: Cell<bool>,
}

impl Links {
    /// Creates an empty set. `tls`: whether the connections will be encrypted.
    pub(crate) fn new(
        tls: bool,
        max_idle: usize,
        live: &Arc<BackendLive>,
        line: &Arc<Line>,
        metrics: &Arc<UpstreamMetrics>,
    ) -> Rc<Self> {
        Rc::new(Self {
            scheme: if tls { "https" } else { "http" },
            open: RefCell::default(),
            waiting: RefCell::default(),
            opening: RefCell::default(),
            allowed: Cell::new(MAX_STREAMS.into()),
            max_idle: Cell::new(max_idle),
            streams: Cell::new(0),
            cancelled: Cancelled::new(live, line, metrics),
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
        self.cancelled.sweep(now);
    }

    /// Drops connections to other addresses than those that `keep` accepts. Their streams continue.
    pub(crate) fn retain(&self, keep: impl Fn(SocketAddr) -> bool) {
        self.open.borrow_mut().retain(|link| link.peer.is_none_or(&keep));
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
    pub(crate) fn take(self: &Rc<Self>, asker: Asker) -> Option<StreamPermit> {
        let now = Instant::now();
        self.open.borrow_mut().retain(|link| link.is_usable());
        self.take_in(self.lane(asker, now), asker)
    }

    fn take_in(self: &Rc<Self>, lane: Lane, asker: Asker) -> Option<StreamPermit> {
        let open = self.open.borrow();
        let link = open.iter().find(|link| link.owner == lane && link.has_room_for(asker))?;
        Some(StreamPermit::new(link, self, asker.client))
    }

    /// Returns the lane of a client's next request.
    fn lane(&self, asker: Asker, now: Instant) -> Lane {
        let holds = || self.open.borrow().iter().any(|link| link.is_held_by(asker.client));
        let noisy = self.cancelled.is_noisy(asker.client, now);
        (noisy || asker.upload && holds()).then_some(asker.client)
    }

    /// Waits for a stream, on a connection that `connect` opens or on another one.
    ///
    /// # Errors
    /// A connection could not be opened, `timeout` has passed, or the client has filled the
    /// connections that it gets for itself.
    pub(crate) async fn wait<F>(
        self: &Rc<Self>,
        asker: Asker,
        timeout: Duration,
        connect: impl Fn() -> F + Clone + 'static,
    ) -> Result<StreamPermit, ConnectError>
    where
        F: Future<Output = Result<(Stream, OpenConnection), ConnectError>> + 'static,
    {
        if let Some(permit) = self.take(asker) {
            return Ok(permit);
        }
        let lane = self.lane(asker, Instant::now());
        if lane.is_some() && self.waiting_in(lane) >= self.may_open(lane) * self.allowed.get() {
            return Err(ConnectError::TooManyUnfinished);
        }
        let (offer, offered) = oneshot::channel();
        self.waiting.borrow_mut().push_back(Waiting { asker, lane, offer });
        self.open_connections(lane, timeout, &connect);
        match tokio::time::timeout(timeout, offered).await {
            Ok(Ok(Ok(permit))) => Ok(permit),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) | Err(_) => Err(ConnectError::TimedOut),
        }
    }

    /// Returns how many requests of a lane wait.
    fn waiting_in(&self, lane: Lane) -> usize {
        self.waiting.borrow().iter().filter(|waiting| waiting.lane == lane).count()
    }

    /// Returns how many connections of a lane are being opened.
    fn opening_in(&self, lane: Lane) -> usize {
        self.opening.borrow().iter().filter(|opening| **opening == lane).count()
    }

    /// Returns how many more connections a lane may have, with those being opened.
    fn may_open(&self, lane: Lane) -> usize {
        if lane.is_none() {
            return usize::MAX;
        }
        let open = self.open.borrow().iter().filter(|link| link.owner == lane).count();
        OWN_LINKS.saturating_sub(open)
    }

    /// Opens as many connections as the queue of a lane needs.
    fn open_connections<F>(
        self: &Rc<Self>,
        lane: Lane,
        timeout: Duration,
        connect: &(impl Fn() -> F + Clone + 'static),
    ) where
        F: Future<Output = Result<(Stream, OpenConnection), ConnectError>> + 'static,
    {
        // Timed-out waiters need no connection.
        self.waiting.borrow_mut().retain(|waiting| !waiting.offer.is_closed());
        let wanted = self.waiting_in(lane).div_ceil(self.allowed.get().max(1)).min(self.may_open(lane));
        while self.opening_in(lane) < wanted {
            self.opening.borrow_mut().push(lane);
            let (links, connect, connecting) = (Rc::clone(self), connect.clone(), connect());
            tokio::task::spawn_local(async move {
                let opening = async {
                    let (stream, counted) = connecting.await?;
                    link::open(stream, counted).await
                };
                let opened = tokio::time::timeout(timeout, opening).await;
                links.opened(lane);
                match opened.unwrap_or(Err(ConnectError::TimedOut)) {
                    Ok((send, driver)) => {
                        links.add(lane, send, driver);
                        // It may allow fewer streams than assumed.
                        links.open_connections(lane, timeout, &connect);
                    }
                    Err(error) => links.fail(lane, &error),
                }
            });
        }
    }

    /// Notes that a connection of a lane is no longer being opened.
    fn opened(&self, lane: Lane) {
        let mut opening = self.opening.borrow_mut();
        if let Some(at) = opening.iter().position(|opening| *opening == lane) {
            opening.swap_remove(at);
        }
    }

    /// Adds an open connection and gives its streams to the queue.
    fn add(self: &Rc<Self>, lane: Lane, send: SendRequest<Bytes>, driver: link::Driver) {
        self.allowed.set(send.current_max_send_streams().clamp(1, MAX_STREAMS.into()));
        if lane.is_some() {
            self.cancelled.metrics.connection_isolated();
        }
        self.cancelled.start();
        let link = Rc::new(Link::new(
            send,
            driver.peer(),
            lane,
            Rc::clone(&driver.window),
            Rc::clone(&driver.marks),
        ));
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
    /// connection gets new streams either. Streams already open continue. The failure of a client's
    /// own connection says nothing about the others.
    fn connection_ended(&self, link: &Rc<Link>) {
        let mut open = self.open.borrow_mut();
        if link.streams.get() == 0 || link.is_going_away() || link.owner.is_some() {
            open.retain(|other| !Rc::ptr_eq(other, link));
        } else {
            open.clear();
        }
    }

    /// Fails all queued requests of a lane.
    fn fail(&self, lane: Lane, error: &ConnectError) {
        let (failed, others) =
            self.waiting.take().into_iter().partition::<VecDeque<_>, _>(|waiting| waiting.lane == lane);
        self.waiting.replace(others);
        for waiting in failed {
            // Fails if the waiter has timed out.
            let _ = waiting.offer.send(Err(error.clone()));
        }
    }

    /// Gives free streams to the queue.
    fn offer(self: &Rc<Self>) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        self.open.borrow_mut().retain(|link| link.is_usable());
        let mut left = VecDeque::new();
        // A permit that its waiter does not take comes back here when it is dropped, and finds the
        // queue empty.
        for waiting in self.waiting.take() {
            if waiting.offer.is_closed() {
                continue;
            }
            match self.take_in(waiting.lane, waiting.asker) {
                Some(permit) => drop(waiting.offer.send(Ok(permit))),
                None => left.push_back(waiting),
            }
        }
        self.waiting.replace(left);
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
    fn new(link: &Rc<Link>, links: &Rc<Links>, client: u64) -> Self {
        links.streams.set(links.streams.get() + 1);
        Self {
            usage: link.begin_stream(),
            scheme: links.scheme,
            link: Rc::clone(link),
            links: Rc::downgrade(links),
            client,
            serial: links.streams.get(),
            upload: Cell::new(false),
        }
    }

    /// Returns what the connection was used for before.
    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    /// Notes that a body follows.
    pub(super) fn begin_upload(&self) {
        self.upload.set(true);
        self.link.begin_upload(self.serial, self.client);
    }

    /// Notes that bytes of the body were sent.
    pub(super) fn uploaded(&self, bytes: usize) {
        self.link.uploaded(self.serial, bytes);
    }

    /// Notes that the request was answered.
    pub(super) fn answered(&self) {
        if let Some(links) = self.links.upgrade() {
            links.cancelled.answered(self.client);
        }
    }

    /// Hands over the stream of an abandoned request, to reset it if it does not finish soon.
    /// `early` counts the request against its client.
    pub(super) fn abandon(&self, tail: Tail, outlet: Outlet, early: bool) {
        // Without a pool, the stream is reset now.
        let Some(links) = self.links.upgrade() else { return };
        let again = Self::new(&self.link, &links, self.client);
        links.cancelled.add(Unfinished::new(tail, outlet, early, (self.client, &self.link), again));
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if self.upload.get() {
            self.link.end_upload(self.serial);
        }
        self.link.streams.set(self.link.streams.get() - 1);
        if let Some(links) = self.links.upgrade() {
            links.stream_ended(&self.link);
        }
    }
}
