//! The table, checked against a list.

use std::collections::HashMap;

use homing::affinity::name::Owner;
use homing::affinity::table::Table;
use homing::affinity::{SessionName, Slot, Timestamp};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Lookup(u64),
    Peek(u64),
    Bind(u64, u16),
    BindIfAbsent(u64, u16),
    Remove(u64),
    Sweep,
    Wait(u32),
    Limit(usize, u32),
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..40u64;
    // Slots on two pages of counters.
    let slot = prop_oneof![0..3u16, Just(300)];
    prop_oneof![
        4 => key.clone().prop_map(Op::Lookup),
        1 => key.clone().prop_map(Op::Peek),
        4 => (key.clone(), slot.clone()).prop_map(|(key, slot)| Op::Bind(key, slot)),
        3 => (key.clone(), slot).prop_map(|(key, slot)| Op::BindIfAbsent(key, slot)),
        2 => key.prop_map(Op::Remove),
        1 => Just(Op::Sweep),
        3 => (1..6u32).prop_map(Op::Wait),
        1 => (1..30usize, 1..20u32).prop_map(|(max, ttl)| Op::Limit(max, ttl)),
    ]
}

/// A list of entries, longest idle first.
struct Model {
    entries: Vec<(u64, u16, u32)>,
    max: usize,
    ttl: u32,
    now: u32,
}

impl Model {
    fn expired(&self, last_seen: u32) -> bool {
        self.now - last_seen > self.ttl
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.entries.iter().position(|entry| entry.0 == key)
    }

    fn touch(&mut self, at: usize) {
        if self.entries[at].2 != self.now {
            let entry = self.entries.remove(at);
            self.entries.push((entry.0, entry.1, self.now));
        }
    }

    fn lookup(&mut self, key: u64) -> Option<u16> {
        let at = self.position(key)?;
        let slot = self.entries[at].1;
        if self.expired(self.entries[at].2) {
            self.entries.remove(at);
            return None;
        }
        self.touch(at);
        Some(slot)
    }

    fn bind(&mut self, key: u64, slot: u16, keep: bool) -> u16 {
        if let Some(at) = self.position(key) {
            let (_, before, last_seen) = self.entries[at];
            let after = if keep && !self.expired(last_seen) { before } else { slot };
            self.entries[at].1 = after;
            self.touch(at);
            return after;
        }
        self.drop_expired(2);
        if self.entries.len() >= self.max {
            self.entries.remove(0);
        }
        self.entries.push((key, slot, self.now));
        slot
    }

    fn drop_expired(&mut self, most: usize) -> usize {
        let expired = self.entries.iter().take(most).take_while(|entry| self.expired(entry.2)).count();
        self.entries.drain(..expired);
        expired
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_table_is_a_bounded_list_in_order_of_use(ops in prop::collection::vec(op(), 1..300)) {
        let table = Table::new(20, 10);
        let mut model = Model { entries: Vec::new(), max: 20, ttl: 10, now: 1000 };
        for op in ops {
            let now = Timestamp(model.now);
            match op {
                Op::Lookup(key) => {
                    prop_assert_eq!(table.lookup(SessionName(key), now), model.lookup(key).map(Slot));
                }
                Op::Peek(key) => {
                    let entry = model.position(key).map(|at| model.entries[at]);
                    let expected = entry.filter(|entry| !model.expired(entry.2)).map(|entry| Slot(entry.1));
                    prop_assert_eq!(table.peek(SessionName(key), now), expected);
                }
                Op::Bind(key, slot) => {
                    table.bind(SessionName(key), Slot(slot), Owner(0), now);
                    model.bind(key, slot, false);
                }
                Op::BindIfAbsent(key, slot) => {
                    let bound = table.bind_if_absent(SessionName(key), Slot(slot), Owner(0), now);
                    prop_assert_eq!(bound, Slot(model.bind(key, slot, true)));
                }
                Op::Remove(key) => {
                    table.remove(SessionName(key));
                    model.entries.retain(|entry| entry.0 != key);
                }
                Op::Sweep => prop_assert_eq!(table.sweep(now), model.drop_expired(64)),
                Op::Wait(seconds) => model.now += seconds,
                Op::Limit(max, ttl) => {
                    table.set_limits(max, ttl);
                    (model.max, model.ttl) = (max, ttl);
                    let excess = model.entries.len().saturating_sub(max);
                    model.entries.drain(..excess);
                }
            }
            prop_assert_eq!(table.len(), model.entries.len());
            for slot in [0, 1, 2, 300] {
                let count = model.entries.iter().filter(|entry| entry.1 == slot).count();
                prop_assert_eq!(table.sessions(Slot(slot)), count);
            }
        }
        let mut visited = Vec::new();
        table.for_each(Timestamp(model.now), |saved| visited.push((saved.name.0, saved.slot.0, saved.last_seen.0)));
        model.entries.retain(|entry| model.now - entry.2 <= model.ttl);
        prop_assert_eq!(visited, model.entries);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Many keys, so that the index grows, has long probes and shifts entries back.
    #[test]
    fn the_index_is_a_map(
        seed in any::<u64>(),
        keys in 1..3000u64,
        max in prop_oneof![Just(4000usize), Just(100_000)],
    ) {
        let table = Table::new(max, 60);
        let mut model = HashMap::new();
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..8000 {
            // It grows and shrinks with equal probability.
            let key = random.u64(..keys).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            if random.bool() {
                let slot = random.u16(..);
                table.bind(SessionName(key), Slot(slot), Owner(0), Timestamp(1));
                model.insert(key, slot);
            } else {
                table.remove(SessionName(key));
                model.remove(&key);
            }
        }
        prop_assert_eq!(table.len(), model.len());
        for n in 0..keys {
            let key = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            prop_assert_eq!(table.lookup(SessionName(key), Timestamp(1)), model.get(&key).copied().map(Slot));
        }
    }

    /// One bound covers all shards, however unevenly the keys are spread over them.
    #[test]
    fn the_bound_holds_over_all_shards(max in 1..40_000usize, limit in 1..10_000usize, keys in 1..30_000u64) {
        let table = Table::new(max, 60);
        for key in 0..keys {
            table.bind(SessionName(key), Slot(1), Owner(0), Timestamp(1));
        }
        let expected = max.min(usize::try_from(keys).unwrap());
        prop_assert_eq!((table.len(), table.sessions(Slot(1))), (expected, expected));
        table.set_limits(limit, 60);
        let expected = expected.min(limit);
        prop_assert_eq!((table.len(), table.sessions(Slot(1))), (expected, expected));
    }
}

/// Measures how much the process grows, allocator included. Run it alone, because the memory of
/// other tests would count: `cargo test --release --test property -- --ignored --nocapture
/// ten_million`.
#[test]
#[ignore = "takes 300 MB, and about ten seconds without --release"]
fn ten_million_entries_take_at_most_32_bytes_each() {
    const ENTRIES: u64 = 10_000_000;
    let resident = || -> u64 {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let before = resident();
    let table = Table::new(10_000_000, 1800);
    for key in 0..ENTRIES {
        table.bind(SessionName(key.wrapping_mul(0x9E37_79B9_7F4A_7C15)), Slot(1), Owner(0), Timestamp(1));
    }
    assert_eq!(table.len(), 10_000_000);
    let grown = resident() - before;
    println!("{} bytes by the table's own count, {grown} bytes resident", table.memory());
    assert!(grown <= 32 * ENTRIES, "memory grew by {grown} bytes");
}
