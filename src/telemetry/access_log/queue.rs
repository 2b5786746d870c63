//! The queue between the handles of an access log and its writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::line::Clock;
use super::output::Output;
use crate::model;
use crate::model::LogFormat;

/// The state shared by handles and the writer.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) format: LogFormat,
    /// Maximum number of lines in a lane.
    pub(super) max_lines: usize,
    /// Maximum size of a lane in bytes.
    pub(super) max_bytes: usize,
    pub(super) control: Mutex<QueueState>,
    /// Wakes the writer.
    pub(super) wake: Condvar,
    /// Wakes threads that wait for the writer to finish a pass or to stop.
    pub(super) passed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct QueueState {
    pub(super) lanes: Vec<Arc<Mutex<Lane>>>,
    /// Opened by [`AccessLog::reopen`](super::AccessLog::reopen). The writer switches to it.
    pub(super) reopened: Option<Output>,
    pub(super) closing: bool,
    /// Whether the writer has stopped.
    pub(super) ended: bool,
    /// Passes requested by [`AccessLog::flush`](super::AccessLog::flush).
    pub(super) asked: u64,
    /// Requested passes that are done.
    pub(super) done: u64,
    /// The configured output, for reopening.
    pub(super) target: Option<model::LogOutput>,
}

/// The queued lines of one handle.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) text: Vec<u8>,
    pub(super) lines: usize,
    pub(super) clock: Clock,
    /// Whether its handle is gone.
    pub(super) orphaned: bool,
}

impl Shared {
    pub(super) fn is_half_full(&self, lane: &Lane) -> bool {
        lane.lines >= self.max_lines.div_ceil(2) || lane.text.len() >= self.max_bytes / 2
    }
}

/// Counts of lost lines and errors.
#[derive(Debug, Default)]
pub(crate) struct LogCounts {
    pub(super) dropped: AtomicU64,
    pub(super) errors: AtomicU64,
}

impl LogCounts {
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn count_for_test(&self, dropped: u64, errors: u64) {
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
        self.errors.fetch_add(errors, Ordering::Relaxed);
    }
}
