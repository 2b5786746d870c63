//! A backend's live counters: written by the workers, read by everybody,
//! keyed by id, so that they outlive reloads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// One backend's counters.
#[derive(Debug)]
pub struct BackendLive {
    /// Open connections over all workers, idle ones included.
    connections: AtomicU32,
    /// Requests in flight, counted exactly; only where there is a limit.
    in_use: AtomicU32,
    /// Failures since the last success; lets a success stay silent.
    failing: AtomicU32,
    workers: Box<[WorkerCell]>,
}

/// One worker's share: only this worker writes it, so that no write is shared.
#[derive(Debug, Default)]
#[repr(align(64))]
struct WorkerCell {
    in_flight: AtomicU32,
    requests: AtomicU64,
}

impl BackendLive {
    /// Counters for this many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            connections: AtomicU32::new(0),
            in_use: AtomicU32::new(0),
            failing: AtomicU32::new(0),
            workers: (0..workers).map(|_| WorkerCell::default()).collect(),
        }
    }

    /// Requests and streams in flight, over all workers.
    pub fn in_flight(&self) -> u32 {
        self.workers.iter().map(|w| w.in_flight.load(Ordering::Relaxed)).sum()
    }

    /// Attempts, over all workers: requests sent, and those that found it away.
    pub fn requests(&self) -> u64 {
        self.workers.iter().map(|w| w.requests.load(Ordering::Relaxed)).sum()
    }

    /// Open connections, idle ones included.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// A request begins at `worker`; only that worker's thread may call this.
    pub fn begin(&self, worker: usize) {
        let cell = &self.workers[worker];
        cell.in_flight.store(cell.in_flight.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        cell.requests.store(cell.requests.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// It ends; only that worker's thread may call this.
    pub fn end(&self, worker: usize) {
        let cell = &self.workers[worker];
        cell.in_flight.store(cell.in_flight.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    /// Takes one of `limit` places, over all workers; false if none is left.
    pub fn try_use(&self, limit: Option<u32>) -> bool {
        let limit = limit.unwrap_or(u32::MAX);
        self.in_use.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then(|| n + 1)).is_ok()
    }

    /// Gives a place back.
    pub fn unused(&self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection was opened.
    pub fn opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is gone.
    pub fn closed(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Notes a failure.
    pub fn failed(&self) {
        self.failing.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes a success; true if failures came before it.
    pub fn recovered(&self) -> bool {
        self.failing.load(Ordering::Relaxed) != 0 && self.failing.swap(0, Ordering::Relaxed) != 0
    }
}
