//! The counters of one worker for one backend.

use super::Record;
use super::class::{CLASSES, class_of};
use super::counter::{Counter, NamedCounters};
use super::histogram::Histogram;

/// The counters of one worker for one backend. Only the worker's own thread may count.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct BackendMetrics {
    /// Its responses by class (1xx is index 0).
    pub(crate) responses: [Counter; CLASSES],
    /// From the start of an attempt to its response head.
    pub(crate) latency: Histogram,
    /// Failed attempts by error.
    pub(crate) failures: NamedCounters,
}

impl BackendMetrics {
    /// Counts a finished request whose response came from this backend.
    pub fn record(&self, record: &Record<'_>) {
        if let Some(latency) = record.backend_latency {
            self.responses[class_of(record.status)].add(1);
            self.latency.observe(latency);
        }
    }

    /// Counts a failed attempt.
    pub fn failed(&self, error: &'static str) {
        self.failures.add(error, 1);
    }

    /// Adds the counts of `other`.
    pub(crate) fn absorb(&self, other: &Self) {
        for (mine, theirs) in self.responses.iter().zip(&other.responses) {
            mine.add(theirs.get());
        }
        self.latency.absorb(&other.latency);
        for (error, n) in other.failures.iter() {
            self.failures.add(error, n);
        }
    }
}
