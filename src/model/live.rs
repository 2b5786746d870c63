//! Live counters of backends. Workers write them and any thread reads them. They are keyed by
//! backend id, so they survive reloads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

/// The result of an active check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheck {
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub latency: Duration,
    /// `passed`, or why not.
    pub result: String,
}

/// The live counters of one backend.
#[derive(Debug)]
pub struct BackendLive {
    /// Open connections over all workers, including idle ones.
    connections: AtomicU32,
    /// Exact number of requests in flight. Only counted if there is a limit.
    in_use: AtomicU32,
    /// The latest active check.
    last_check: Mutex<Option<LastCheck>>,
    /// The most requests in flight; `u32::MAX` if there is no limit.
    limit: AtomicU32,
    /// Failures since the last success. While this is 0, a success needs no report.
    failing: AtomicU32,
    workers: Box<[WorkerCell]>,
}

/// The counters of one worker. No other worker writes to them, so writes never contend.
#[derive(Debug, Default)]
#[repr(align(64))]
struct WorkerCell {
    in_flight: AtomicU32,
    requests: AtomicU64,
}

impl BackendLive {
    /// Creates counters for this many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            connections: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            last_check: Mutex::default(),
            limit: AtomicU32::new(u32::MAX),
            failing: AtomicU32::new(0),
            workers: (0..workers).map(|_| WorkerCell::default()).collect(),
        }
    }

    /// Notes the result of an active check.
    pub fn checked(&self, check: LastCheck) {
        *self.last_check.lock() = Some(check);
    }

    /// Returns the latest active check; `None` if there was none.
    pub fn last_check(&self) -> Option<LastCheck> {
        self.last_check.lock().clone()
    }

    /// Returns the number of requests and streams in flight over all workers.
    pub fn in_flight(&self) -> u32 {
        self.workers.iter().map(|w| w.in_flight.load(Ordering::Relaxed)).sum()
    }

    /// Returns the number of attempts over all workers, including failed connection attempts.
    pub fn requests(&self) -> u64 {
        self.workers.iter().map(|w| w.requests.load(Ordering::Relaxed)).sum()
    }

    /// Returns the number of open connections, including idle ones.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts the start of a request. Must only be called on the thread of `worker`.
    pub fn begin(&self, worker: usize) {
        let cell = &self.workers[worker];
        cell.in_flight.store(cell.in_flight.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        cell.requests.store(cell.requests.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Counts the end of a request. Must only be called on the thread of `worker`.
    pub fn end(&self, worker: usize) {
        let cell = &self.workers[worker];
        cell.in_flight.store(cell.in_flight.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    /// Sets the limit of requests in flight, shared by all workers.
    pub fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Returns true if all places are taken.
    pub fn is_full(&self) -> bool {
        self.in_use.load(Ordering::Relaxed) >= self.limit.load(Ordering::Relaxed)
    }

    /// Takes a place. Returns false if all are taken.
    pub(super) fn try_use(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then(|| n + 1)).is_ok()
    }

    /// Takes a place even if all are taken.
    pub(super) fn occupy(&self) {
        self.in_use.fetch_add(1, Ordering::Relaxed);
    }

    /// Releases a place that was taken.
    pub(super) fn unused(&self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a newly opened connection.
    pub fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a closed connection.
    pub fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records a failure.
    pub fn failed(&self) {
        self.failing.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a success. Returns true if there were failures before it.
    pub fn recovered(&self) -> bool {
        self.failing.load(Ordering::Relaxed) != 0 && self.failing.swap(0, Ordering::Relaxed) != 0
    }
}
