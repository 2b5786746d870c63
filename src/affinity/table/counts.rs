//! Counts sessions by slot.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::affinity::Slot;

/// A counter for each of the 65,536 slots. Memory is allocated for 256 at a time, when used.
#[derive(Debug)]
pub(super) struct SlotCounts {
    pages: Box<[OnceLock<Page>]>,
}

type Page = Box<[AtomicU32; 256]>;

impl SlotCounts {
    pub(super) fn new() -> Self {
        Self { pages: (0..256).map(|_| OnceLock::new()).collect() }
    }

    pub(super) fn get(&self, slot: Slot) -> usize {
        let [page, at] = slot.0.to_be_bytes().map(usize::from);
        self.pages[page].get().map_or(0, |page| page[at].load(Ordering::Relaxed) as usize)
    }

    /// Returns the bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        let pages = self.pages.iter().filter(|page| page.get().is_some()).count();
        size_of_val(&*self.pages) + pages * size_of::<[AtomicU32; 256]>()
    }

    pub(super) fn add(&self, slot: Slot) {
        self.counter(slot).fetch_add(1, Ordering::Relaxed);
    }

    /// Reverts one [`SlotCounts::add`].
    pub(super) fn sub(&self, slot: Slot) {
        let before = self.counter(slot).fetch_sub(1, Ordering::Relaxed);
        debug_assert_ne!(before, 0, "sub without a matching add");
    }

    fn counter(&self, slot: Slot) -> &AtomicU32 {
        let [page, at] = slot.0.to_be_bytes().map(usize::from);
        &self.pages[page].get_or_init(|| Box::new([const { AtomicU32::new(0) }; 256]))[at]
    }
}
