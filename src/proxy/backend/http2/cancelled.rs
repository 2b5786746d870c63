//! Cancelled requests: lets those that are nearly done finish, and resets the others only as often
//! as the backend takes without closing the connection.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::budget::Cancellers;
use super::unfinished::Unfinished;
use crate::model::line::{Line, Place};
use crate::model::live::BackendLive;
use crate::telemetry::UpstreamMetrics;

/// How long a cancelled request may take to finish before it is reset.
const GRACE: Duration = Duration::from_millis(200);
/// How long a cancelled request stays open, at most, if its connection has no reset left.
const LONGEST_GRACE: Duration = Duration::from_secs(30);
/// How often to look at cancelled requests.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A backend's cancelled requests that have not finished. `P` is the permit of a stream.
#[derive(Debug)]
pub(super) struct Cancelled<P> {
    live: Arc<BackendLive>,
    line: Arc<Line>,
    pub(super) metrics: Arc<UpstreamMetrics>,
    clients: RefCell<Cancellers>,
    streams: RefCell<Vec<(Unfinished<P>, Place)>>,
    /// Tells the task that there are some.
    some: Rc<Notify>,
    /// Whether the task runs.
    running: Cell<bool>,
}

impl<P: 'static> Cancelled<P> {
    pub(super) fn new(live: &Arc<BackendLive>, line: &Arc<Line>, metrics: &Arc<UpstreamMetrics>) -> Rc<Self> {
        Rc::new(Self {
            live: Arc::clone(live),
            line: Arc::clone(line),
            metrics: Arc::clone(metrics),
            clients: RefCell::default(),
            streams: RefCell::new(Vec::new()),
            some: Rc::default(),
            running: Cell::new(false),
        })
    }

    /// Starts the task that ends the streams, unless it runs.
    pub(super) fn start(self: &Rc<Self>) {
        if !self.running.replace(true) {
            tokio::task::spawn_local(end_streams(Rc::downgrade(self), Rc::clone(&self.some)));
        }
    }

    /// Adds a stream.
    pub(super) fn add(&self, stream: Unfinished<P>) {
        // The request no longer counts against the backend's limit, but the backend still works.
        let place = self.line.occupy(&self.live, stream.client);
        self.streams.borrow_mut().push((stream, place));
        self.some.notify_one();
    }

    /// Returns whether a client has cancelled so much that it gets connections of its own.
    pub(super) fn is_noisy(&self, client: u64, now: Instant) -> bool {
        self.clients.borrow_mut().is_noisy(client, now)
    }

    /// Counts a request of a client that was answered.
    pub(super) fn answered(&self, client: u64) {
        self.clients.borrow_mut().answered(client);
    }

    /// Forgets the clients that have not cancelled anything for a while.
    pub(super) fn sweep(&self, now: Instant) {
        self.clients.borrow_mut().forget(now);
    }

    /// Ends the streams whose time has come. Returns whether any are left.
    fn end_streams(&self, now: Instant) -> bool {
        let mut streams = self.streams.take();
        streams.retain_mut(|(stream, _)| {
            let age = now.saturating_duration_since(stream.since);
            let finished = stream.has_finished();
            if !finished && age < GRACE {
                return true;
            }
            if !finished && std::mem::take(&mut stream.early) {
                self.clients.borrow_mut().cancelled(stream.client, now);
            }
            if !finished && age < LONGEST_GRACE && !stream.link.may_reset(now) {
                return true;
            }
            self.metrics.request_cancelled(finished);
            false
        });
        let mut all = self.streams.borrow_mut();
        all.append(&mut streams);
        !all.is_empty()
    }
}

impl<P> Drop for Cancelled<P> {
    fn drop(&mut self) {
        // Ends the task.
        self.some.notify_one();
    }
}

async fn end_streams<P: 'static>(cancelled: Weak<Cancelled<P>>, some: Rc<Notify>) {
    loop {
        let Some(left) = cancelled.upgrade().map(|cancelled| cancelled.end_streams(Instant::now())) else {
            return;
        };
        if left {
            tokio::time::sleep(LOOK_EVERY).await;
        } else {
            some.notified().await;
        }
    }
}
