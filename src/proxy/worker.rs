//! The state of a worker: one thread with its own runtime, pools, buffers and counters.
//!
//! A request touches nothing that workers share, except the snapshot, the backends' live
//! counters and the session table.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::connection_counts::ConnectionCounts;
use super::handshake_slots::{HandshakeSlots, PEEKED};
use super::in_use::InUse;
use super::notices::Notices;
use super::view::View;
use super::wire::buffer::Buffers;
use super::wire::deadline::Deadlines;
use super::wire::descriptor_reserve::DescriptorReserve;
use crate::affinity::Timestamp;
use crate::affinity::recent::RecentUse;
use crate::dial::names::Names;
use crate::model::snapshot::{Report, Snapshot};
use crate::telemetry::{AccessLog, WorkerMetrics};

/// The default of `limits.memory` is this part of the machine's memory.
const MEMORY_SHARE: u64 = 4;

/// What a worker shares with the rest of the process.
#[derive(Debug)]
pub struct Shared {
    /// The worker's number, starting at 0.
    pub index: usize,
    /// Sends observations of backends to the control plane.
    pub reports: mpsc::Sender<Report>,
    /// This worker's metrics.
    pub metrics: Arc<WorkerMetrics>,
    /// Addresses of backends that are given by name.
    pub names: Arc<Names>,
    /// The access log.
    pub log: AccessLog,
    /// Open client connections of all workers.
    pub connections: Arc<AtomicUsize>,
    /// Open client connections of all workers, per client address.
    pub clients: Arc<ConnectionCounts>,
    /// Sessions of all workers that are kept at the client and had long exchanges.
    pub recent: Arc<RecentUse>,
    /// HTTP/2 requests in flight of all workers, per client address.
    pub streams: Arc<ConnectionCounts>,
    /// The memory of this machine or container, in bytes.
    pub machine_memory: u64,
}

/// A worker's state, shared by its tasks.
pub(crate) struct Worker {
    pub(crate) shared: Shared,
    pub(crate) buffers: Buffers,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) in_use: Rc<InUse>,
    pub(crate) descriptors: DescriptorReserve,
    pub(crate) notices: Notices,
    /// TLS handshakes in progress.
    pub(crate) handshakes: HandshakeSlots,
    /// The first bytes of a new connection, while the worker looks at them.
    pub(crate) peeked: RefCell<Box<[u8]>>,
    view: RefCell<Rc<View>>,
    view_changed: Notify,
    connections: Cell<usize>,
    became_idle: Notify,
    phase: Cell<Phase>,
    closing: Cell<bool>,
    now: Cell<Timestamp>,
    ticked: Cell<Instant>,
    random: RefCell<fastrand::Rng>,
}

/// A phase of a worker's life, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// No new requests; those in flight may finish.
    Draining,
}

impl Worker {
    /// Creates a worker that serves `snapshot`.
    pub(crate) fn new(shared: Shared, snapshot: Arc<Snapshot>) -> Self {
        let deadlines = Rc::<Deadlines>::default();
        deadlines.set_budget(budget(&shared, &snapshot));
        Self {
            deadlines,
            buffers: Buffers::new(snapshot.config.limits.head_bytes),
            in_use: Rc::new(InUse::new(Arc::clone(&shared.recent))),
            descriptors: DescriptorReserve::new(),
            notices: Notices::default(),
            handshakes: HandshakeSlots::default(),
            peeked: RefCell::new(vec![0; PEEKED].into_boxed_slice()),
            view: RefCell::new(Rc::new(View::new(
                shared.index,
                snapshot,
                &shared.metrics,
                &shared.names,
                None,
            ))),
            view_changed: Notify::new(),
            connections: Cell::new(0),
            became_idle: Notify::new(),
            phase: Cell::new(Phase::Serving),
            closing: Cell::new(false),
            now: Cell::new(Timestamp::of(SystemTime::now())),
            ticked: Cell::new(Instant::now()),
            random: RefCell::default(),
            shared,
        }
    }

    /// Returns the view of the current snapshot.
    pub(crate) fn view(&self) -> Rc<View> {
        Rc::clone(&self.view.borrow())
    }

    /// Switches to a new snapshot.
    pub(crate) fn update(&self, snapshot: Arc<Snapshot>) {
        self.buffers.set_head_bytes(snapshot.config.limits.head_bytes);
        self.deadlines.set_budget(budget(&self.shared, &snapshot));
        let before = self.view();
        let reloaded = !Arc::ptr_eq(&before.snapshot.config, &snapshot.config);
        let view =
            View::new(self.shared.index, snapshot, &self.shared.metrics, &self.shared.names, Some(&before));
        self.view.replace(Rc::new(view));
        if reloaded {
            // Tunnels check whether their route still exists.
            self.deadlines.wake_all();
        }
        self.view_changed.notify_waiters();
    }

    /// Waits until the view satisfies `wanted`, or until the deadline.
    pub(crate) async fn wait_until(&self, deadline: Instant, wanted: impl Fn(&View) -> bool) {
        loop {
            let changed = self.view_changed.notified();
            if wanted(&self.view()) {
                return;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return;
            }
        }
    }

    /// Returns true during a shutdown: connections close after their current request.
    pub(crate) fn draining(&self) -> bool {
        self.phase.get() > Phase::Serving || self.closing()
    }

    /// Returns true once the grace period of tunnels and event streams is nearly over: they must end.
    pub(crate) fn closing(&self) -> bool {
        self.closing.get()
    }

    /// Tells tunnels and event streams to end, and connections to close after their current request.
    pub(crate) fn close_streams(&self) {
        self.closing.set(true);
        self.deadlines.wake_all();
    }

    /// Enters a later phase of the shutdown.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.deadlines.wake_all();
    }

    /// Returns the time of day, at most one tick old.
    pub(crate) fn now(&self) -> Timestamp {
        self.now.get()
    }

    /// Returns the time of the last tick, which is precise enough for most uses.
    pub(crate) fn coarse_now(&self) -> Instant {
        self.ticked.get()
    }

    /// Sets both clocks.
    pub(crate) fn set_clocks(&self, now: Instant) {
        self.now.set(Timestamp::of(SystemTime::now()));
        self.in_use.tick(self.now.get());
        self.ticked.set(now);
    }

    /// Returns a random number. Not for secrets.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// Returns this worker's metrics.
    pub(crate) fn metrics(&self) -> &WorkerMetrics {
        &self.shared.metrics
    }

    /// Returns the access log.
    pub(crate) fn log(&self) -> &AccessLog {
        &self.shared.log
    }

    /// Reports an observation of a backend to the control plane. If the queue is full, drops it and
    /// returns false. A backend that keeps failing will be reported again.
    pub(crate) fn report(&self, report: Report) -> bool {
        self.shared.reports.try_send(report).is_ok()
    }

    /// Counts a client connection. If `limits.connections` is reached, closes an idle one to make
    /// room. `None` if there is none.
    pub(crate) fn count_connection(self: &Rc<Self>) -> Option<CountedConnection> {
        let limit = self.view().snapshot.config.limits.connections;
        // The connection that makes room is closed in its own task.
        if self.shared.connections.fetch_add(1, Ordering::Relaxed) >= limit
            && !self.deadlines.expire_longest_wait()
        {
            self.shared.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.connections.set(self.connections.get() + 1);
        self.shared.metrics.connection_opened();
        Some(CountedConnection(Rc::clone(self)))
    }

    /// Waits until no client connection is left.
    pub(crate) async fn idle(&self) {
        // Let connections accepted just now be counted first.
        tokio::task::yield_now().await;
        while self.connections.get() > 0 {
            self.became_idle.notified().await;
        }
    }
}

/// Returns a worker's part of `limits.memory`.
fn budget(shared: &Shared, snapshot: &Snapshot) -> usize {
    let total = snapshot.config.limits.memory.unwrap_or(shared.machine_memory / MEMORY_SHARE);
    let workers = snapshot.config.server.workers.get() as u64;
    usize::try_from(total / workers).unwrap_or(usize::MAX)
}

/// Counts one open client connection until dropped.
pub(crate) struct CountedConnection(Rc<Worker>);

impl Drop for CountedConnection {
    fn drop(&mut self) {
        let worker = &self.0;
        worker.shared.connections.fetch_sub(1, Ordering::Relaxed);
        worker.connections.set(worker.connections.get() - 1);
        worker.shared.metrics.connection_closed();
        if worker.connections.get() == 0 {
            worker.became_idle.notify_one();
        }
    }
}
