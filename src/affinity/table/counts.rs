//! Counts entries by a 16-bit number: their slot, or the group of clients they are from.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// A counter for each of 65,536 numbers. Memory is allocated for 256 at a time, when used.
#[derive(Debug)]
pub(super) struct Counts {
    pages: Box<[OnceLock<Page>]>,
    /// Counters above zero.
    active: AtomicUsize,
}

type Page = Box<[AtomicU32; 256]>;

impl Counts {
    pub(super) fn new() -> Self {
        Self { pages: (0..256).map(|_| OnceLock::new()).collect(), active: AtomicUsize::new(0) }
    }

    pub(super) fn get(&self, number: u16) -> usize {
        let [page, at] = number.to_be_bytes().map(usize::from);
        self.pages[page].get().map_or(0, |page| page[at].load(Ordering::Relaxed) as usize)
    }

    /// Returns how many numbers have entries.
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Returns the bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        let pages = self.pages.iter().filter(|page| page.get().is_some()).count();
        size_of_val(&*self.pages) + pages * size_of::<[AtomicU32; 256]>()
    }

    pub(super) fn add(&self, number: u16) {
        if self.counter(number).fetch_add(1, Ordering::Relaxed) == 0 {
            self.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reverts one [`Counts::add`].
    pub(super) fn sub(&self, number: u16) {
        let before = self.counter(number).fetch_sub(1, Ordering::Relaxed);
        debug_assert_ne!(before, 0, "sub without a matching add");
        if before == 1 {
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, number: u16) -> &AtomicU32 {
        let [page, at] = number.to_be_bytes().map(usize::from);
        &self.pages[page].get_or_init(|| Box::new([const { AtomicU32::new(0) }; 256]))[at]
    }
}
