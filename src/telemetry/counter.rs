//! Counters that one thread writes and any thread reads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter without atomic read-modify-write. A relaxed load and store are as cheap as plain memory
/// accesses. With two writers it would lose counts (nothing worse), so each counter belongs to one
/// thread.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters by name, for a small set of names that is not listed in one place (error names). A lookup
/// scans at most [`NamedCounters::CAPACITY`] entries without allocating. Only failed requests pay
/// for it.
#[derive(Debug, Default)]
pub(crate) struct NamedCounters {
    named: [(OnceLock<&'static str>, Counter); Self::CAPACITY],
    /// Counts for names beyond the capacity.
    other: Counter,
}

impl NamedCounters {
    pub(crate) const CAPACITY: usize = 32;
    /// Name of the counter for names beyond the capacity.
    pub(crate) const OTHER: &'static str = "other";

    pub(crate) fn add(&self, name: &'static str, n: u64) {
        let found = self.named.iter().find(|(taken, _)| *taken.get_or_init(|| name) == name);
        match found {
            Some((_, counter)) => counter.add(n),
            None => self.other.add(n),
        }
    }

    /// Returns names and counts, in the order in which the names were first used.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let named = self.named.iter().filter_map(|(name, counter)| Some((*name.get()?, counter.get())));
        let other = Some((Self::OTHER, self.other.get())).filter(|(_, n)| *n > 0);
        named.chain(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_a_counter() {
        let counters = NamedCounters::default();
        counters.add("connect_timeout", 1);
        counters.add("connect_refused", 1);
        counters.add("connect_timeout", 2);
        let seen: Vec<_> = counters.iter().collect();
        assert_eq!(seen, [("connect_timeout", 3), ("connect_refused", 1)]);
    }

    #[test]
    fn names_beyond_the_capacity_count_as_other() {
        let counters = NamedCounters::default();
        for i in 0..NamedCounters::CAPACITY + 3 {
            counters.add(Box::leak(format!("e{i}").into_boxed_str()), 1);
        }
        counters.add("e0", 1);
        assert_eq!(counters.iter().find(|(name, _)| *name == "e0"), Some(("e0", 2)));
        assert_eq!(counters.iter().last(), Some(("other", 3)));
        assert_eq!(counters.iter().count(), NamedCounters::CAPACITY + 1);
    }
}
