use std::sync::Arc;

use super::*;

const T0: Timestamp = Timestamp(1_000_000);

fn at(seconds: u32) -> Timestamp {
    Timestamp(T0.0 + seconds)
}

fn key(n: u64) -> KeyHash {
    KeyHash(n)
}

#[test]
fn binding_is_found_until_it_is_removed() {
    let table = Table::new(10, 60);
    assert_eq!(table.lookup(key(1), T0), None);
    table.bind(key(1), Slot(7), T0);
    assert_eq!(table.lookup(key(1), T0), Some(Slot(7)));
    assert_eq!((table.len(), table.sessions(Slot(7))), (1, 1));
    table.remove(key(1));
    table.remove(key(1));
    assert_eq!(table.lookup(key(1), T0), None);
    assert_eq!((table.len(), table.sessions(Slot(7))), (0, 0));
    assert!(table.is_empty());
}

#[test]
fn rebinding_moves_the_count() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), T0);
    table.bind(key(1), Slot(300), T0);
    assert_eq!(table.lookup(key(1), T0), Some(Slot(300)));
    assert_eq!((table.len(), table.sessions(Slot(1)), table.sessions(Slot(300))), (1, 0, 1));
}

#[test]
fn first_of_two_first_requests_wins() {
    let table = Table::new(10, 60);
    assert_eq!(table.bind_if_absent(key(1), Slot(1), T0), Slot(1));
    assert_eq!(table.bind_if_absent(key(1), Slot(2), T0), Slot(1));
    assert_eq!((table.sessions(Slot(1)), table.sessions(Slot(2))), (1, 0));
}

fn claim(table: &Arc<Table>, slot: Slot) -> Claim {
    match table.claim(key(1), slot, T0) {
        Claimed::Fresh(claim) => claim,
        Claimed::Bound(slot) => panic!("bound to {slot:?}"),
    }
}

#[test]
fn claim_is_taken_back_unless_others_rely_on_it() {
    type Relies = fn(&Arc<Table>);
    let others: [(Relies, bool); 5] = [
        (|_| (), true),
        (|table| assert_eq!(table.peek(key(1), T0), Some(Slot(1))), true),
        (|table| assert_eq!(table.lookup(key(1), T0), Some(Slot(1))), false),
        (|table| assert!(matches!(table.claim(key(1), Slot(2), T0), Claimed::Bound(Slot(1)))), false),
        (|table| table.bind(key(1), Slot(1), T0), false),
    ];
    for (relies, taken_back) in others {
        let table = Arc::new(Table::new(10, 60));
        let claim = claim(&table, Slot(1));
        relies(&table);
        assert_eq!(claim.withdraw(), taken_back);
        let left = if taken_back { None } else { Some(Slot(1)) };
        assert_eq!(table.peek(key(1), T0), left);
        assert_eq!(table.sessions(Slot(1)), usize::from(!taken_back));
    }
}

#[test]
fn answered_claim_stays_bound() {
    let table = Arc::new(Table::new(10, 60));
    drop(claim(&table, Slot(1)));
    assert_eq!(table.peek(key(1), T0), Some(Slot(1)));
    let expired = Timestamp(T0.0 + 61);
    assert!(
        matches!(table.claim(key(1), Slot(2), expired), Claimed::Fresh(_)),
        "an expired binding is absent"
    );
}

#[test]
fn idle_entry_is_absent_before_the_sweep() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), T0);
    assert_eq!(table.peek(key(1), at(60)), Some(Slot(1)), "idle for exactly the TTL");
    assert_eq!(table.peek(key(1), at(61)), None);
    assert_eq!(table.len(), 1, "peek removes nothing");
    assert_eq!(table.lookup(key(1), at(61)), None);
    assert_eq!((table.len(), table.sessions(Slot(1))), (0, 0));
}

#[test]
fn lookup_extends_an_entry_and_peek_does_not() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), T0);
    assert_eq!(table.lookup(key(1), at(50)), Some(Slot(1)));
    assert_eq!(table.peek(key(1), at(110)), Some(Slot(1)));
    assert_eq!(table.lookup(key(1), at(111)), None);
}

#[test]
fn new_binding_wins_over_an_expired_one() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), T0);
    assert_eq!(table.bind_if_absent(key(1), Slot(2), at(61)), Slot(2));
    assert_eq!((table.len(), table.sessions(Slot(1)), table.sessions(Slot(2))), (1, 0, 1));
}

#[test]
fn full_table_evicts_the_longest_idle() {
    let table = Table::new(3, 60);
    for n in 1..=3 {
        table.bind(key(n), Slot(1), at(u32::try_from(n).unwrap()));
    }
    table.lookup(key(1), at(4));
    table.bind(key(4), Slot(2), at(5));
    assert_eq!(table.len(), 3);
    let present: Vec<_> = (1..=4).filter(|n| table.peek(key(*n), at(5)).is_some()).collect();
    assert_eq!(present, [1, 3, 4]);
    assert_eq!((table.sessions(Slot(1)), table.sessions(Slot(2))), (2, 1));
}

#[test]
fn new_session_fits_in_a_full_table_with_an_empty_shard() {
    // 16 shards, at most one of which is not empty.
    let table = Table::new(ENTRIES_PER_SHARD, 60);
    table.set_limits(1, 60);
    for n in 0..100 {
        table.bind(key(n), Slot(1), T0);
        assert_eq!(table.peek(key(n), T0), Some(Slot(1)));
        assert_eq!((table.len(), table.sessions(Slot(1))), (1, 1));
    }
}

#[test]
fn lower_limits_evict_at_once_and_higher_limits_make_room() {
    let table = Table::new(100_000, 60);
    for n in 0..50_000 {
        table.bind(key(n), Slot(1), T0);
    }
    table.set_limits(777, 60);
    assert_eq!((table.len(), table.sessions(Slot(1))), (777, 777));
    table.set_limits(2000, 5);
    for n in 0..2000 {
        table.bind(key(1_000_000 + n), Slot(2), T0);
    }
    assert_eq!(table.len(), 2000);
    assert_eq!(table.sessions(Slot(1)) + table.sessions(Slot(2)), 2000);
    assert_eq!(table.peek(key(1_001_999), at(6)), None, "the new TTL applies");
}

#[test]
fn lowered_limit_keeps_the_most_recent() {
    let table = Table::new(100, 60);
    for n in 0..100 {
        table.bind(key(n), Slot(1), at(u32::try_from(n).unwrap()));
    }
    table.set_limits(10, 600);
    assert_eq!((0..100).filter(|n| table.peek(key(*n), at(100)).is_some()).min(), Some(90));
}

#[test]
fn table_of_zero_entries_holds_one() {
    let table = Table::new(0, 60);
    table.bind(key(1), Slot(1), T0);
    assert_eq!(table.lookup(key(1), T0), Some(Slot(1)));
}

#[test]
fn sweep_drops_expired_entries_in_bounded_steps() {
    let table = Table::new(4095, 60);
    for n in 0..1000 {
        table.bind(key(n), Slot(1), T0);
    }
    table.bind(key(5000), Slot(1), at(50));
    assert_eq!(table.sweep(at(60)), 0);
    assert_eq!(table.sweep(at(61)), BATCH);
    let mut dropped = BATCH;
    while table.len() > 1 {
        dropped += table.sweep(at(61));
    }
    assert_eq!((dropped, table.sessions(Slot(1))), (1000, 1));
    assert_eq!(table.peek(key(5000), at(61)), Some(Slot(1)));
}

#[test]
fn sweeps_rotate_over_the_shards() {
    let table = Table::new(2_000_000, 60);
    for n in 0..40_000 {
        table.bind(key(n), Slot(1), T0);
    }
    // 512 shards of about 78: the shards of the first sweep have some left when their turn comes
    // again.
    let sweeps: Vec<_> = std::iter::repeat_with(|| table.sweep(at(61))).take_while(|n| *n > 0).collect();
    assert!(sweeps.len() <= 4, "{sweeps:?}");
    assert!(sweeps[..2].iter().all(|n| (MAX_SWEEP - BATCH..=MAX_SWEEP).contains(n)), "{sweeps:?}");
    assert_eq!(sweeps.iter().sum::<usize>(), 40_000);
    assert!(table.is_empty());
}

#[test]
fn memory_is_freed_after_sessions_end() {
    let table = Table::new(4095, 60);
    for n in 0..4000 {
        table.bind(key(n), Slot(1), T0);
    }
    for n in 0..10 {
        table.lookup(key(n), at(30 + u32::try_from(n).unwrap()));
    }
    let memory = || table.shards[0].lock().memory();
    assert!(memory() >= 80_000);
    while table.sweep(at(61)) > 0 {}
    assert!(memory() < 20_000);
    let mut order = Vec::new();
    table.for_each(at(61), |saved| order.push(saved.key.0));
    assert_eq!(order, (0..10).collect::<Vec<_>>(), "the remaining entries are unchanged");
    while table.sweep(at(1000)) > 0 {}
    assert_eq!((table.len(), memory()), (0, 0));
}

#[test]
fn entry_takes_at_most_32_bytes() {
    // From the fewest to the most entries per shard in large tables.
    for entries in [65_536, 80_000, 100_000, 131_072, 260_000] {
        let table = Table::new(entries, 60);
        for n in 0..entries {
            table.bind(key(n as u64), Slot(1), T0);
        }
        assert_eq!(table.len(), entries);
        let each = table.memory() * 10 / entries;
        assert!(each <= 280, "{entries} entries: {each} tenths of a byte");
    }
}

#[test]
fn new_sessions_evict_expired_ones() {
    let table = Table::new(4095, 60);
    for n in 0..100 {
        table.bind(key(n), Slot(1), T0);
    }
    for n in 1000..1100 {
        table.bind(key(n), Slot(2), at(61));
    }
    assert_eq!((table.len(), table.sessions(Slot(1))), (100, 0));
}

#[test]
fn clock_that_goes_backwards_expires_nothing() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), at(1000));
    assert_eq!(table.lookup(key(1), T0), Some(Slot(1)));
    assert_eq!(table.lookup(key(1), at(61)), None, "the TTL counts from the new time");
}

#[test]
fn bindings_are_visited_longest_idle_first() {
    let table = Table::new(10, 60);
    for n in 0..5 {
        table.bind(key(n), Slot(1), at(u32::try_from(n).unwrap()));
    }
    table.lookup(key(1), at(5));
    let mut seen = Vec::new();
    table.for_each(at(61), |saved| seen.push(saved.key.0));
    assert_eq!(seen, [2, 3, 4, 1], "0 has expired");
}

#[test]
fn concurrent_workers_leave_exact_counts() {
    let table = Arc::new(Table::new(5000, 60));
    let workers: Vec<_> = (0..4u16)
        .map(|worker| {
            let table = Arc::clone(&table);
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(u64::from(worker));
                for step in 0..20_000 {
                    let key = key(random.u64(..8000));
                    let now = at(step / 100);
                    match random.u8(..8) {
                        0 => table.remove(key),
                        1..4 => table.bind(key, Slot(random.u16(..4)), now),
                        4..6 => drop(table.bind_if_absent(key, Slot(random.u16(..4)), now)),
                        6 => drop(table.sweep(now)),
                        _ => drop(table.lookup(key, now)),
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    let mut by_slot = [0; 4];
    let mut total = 0;
    table.for_each(T0, |saved| {
        by_slot[usize::from(saved.slot.0)] += 1;
        total += 1;
    });
    assert!(total > 1000 && total <= 5000);
    assert_eq!(table.len(), total);
    assert_eq!([0, 1, 2, 3].map(|slot| table.sessions(Slot(slot))), by_slot);
}
