//! File descriptors kept for backends, and one held in reserve.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, getrlimit};

/// A worker's view of the process's file descriptors.
#[derive(Debug)]
pub(crate) struct DescriptorReserve {
    reserve: RefCell<Option<File>>,
    /// The lowest descriptor number that clients may not use.
    ceiling: u64,
}

impl DescriptorReserve {
    /// Keeps an eighth of the process's descriptor limit, at least 4 and at most 512, for backends.
    pub(crate) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let for_backends = (limit / 8).clamp(4, 512);
        Self { reserve: RefCell::new(spare()), ceiling: limit.saturating_sub(for_backends) }
    }

    /// Returns true if only the descriptors kept for backends are left. The system assigns the
    /// lowest free number, so the number of `newest` tells how many are in use.
    pub(crate) fn are_short(&self, newest: &impl AsFd) -> bool {
        u64::try_from(newest.as_fd().as_raw_fd()).is_ok_and(|number| number >= self.ceiling)
    }

    /// Closes the reserve descriptor, so that one connection can be accepted.
    pub(crate) fn release(&self) {
        drop(self.reserve.take());
    }

    /// Opens a new reserve descriptor.
    pub(crate) fn renew(&self) {
        self.reserve.replace(spare());
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
