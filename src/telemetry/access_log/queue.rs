//! What the handles of an access log share with its writer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};

use super::line::Clock;
use super::output::Output;
use crate::model;
use crate::model::LogFormat;

/// What handles and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) format: LogFormat,
    /// Bounds of a lane.
    pub(super) max_lines: usize,
    pub(super) max_bytes: usize,
    pub(super) control: Mutex<QueueState>,
    /// Wakes the writer.
    pub(super) wake: Condvar,
    /// Wakes those who wait for a pass of the writer, or for its end.
    pub(super) passed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct QueueState {
    pub(super) lanes: Vec<Arc<Mutex<Lane>>>,
    /// Opened by [`AccessLog::reopen`], for the writer to go on with.
    pub(super) reopened: Option<Output>,
    pub(super) closing: bool,
    /// The writer has ended.
    pub(super) ended: bool,
    /// Passes asked for by [`AccessLog::flush`], and done.
    pub(super) asked: u64,
    pub(super) done: u64,
    /// Where a reopen finds the file.
    pub(super) target: Option<model::LogOutput>,
}

/// Lines that wait.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) text: Vec<u8>,
    pub(super) lines: usize,
    pub(super) clock: Clock,
    /// No handle writes here any more.
    pub(super) orphaned: bool,
}

impl Shared {
    pub(super) fn is_half_full(&self, lane: &Lane) -> bool {
        lane.lines >= self.max_lines.div_ceil(2) || lane.text.len() >= self.max_bytes / 2
    }
}

/// What was lost.
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
