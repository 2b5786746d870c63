use std::sync::Arc;

use super::*;
use crate::affinity::name::Owner;

const T0: Timestamp = Timestamp(1_000_000);

fn at(seconds: u32) -> Timestamp {
    Timestamp(T0.0 + seconds)
}

fn key(n: u64) -> SessionName {
    SessionName(n)
}

#[test]
fn binding_is_found_until_it_is_removed() {
    let table = Table::new(10, 60);
    assert_eq!(table.lookup(key(1), T0), None);
    table.bind(key(1), Slot(7), Owner(0), T0);
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
    table.bind(key(1), Slot(1), Owner(0), T0);
    table.bind(key(1), Slot(300), Owner(0), T0);
    assert_eq!(table.lookup(key(1), T0), Some(Slot(300)));
    assert_eq!((table.len(), table.sessions(Slot(1)), table.sessions(Slot(300))), (1, 0, 1));
}

#[test]
fn first_of_two_first_requests_wins() {
    let table = Table::new(10, 60);
    assert_eq!(table.bind_if_absent(key(1), Slot(1), Owner(0), T0), Slot(1));
    assert_eq!(table.bind_if_absent(key(1), Slot(2), Owner(0), T0), Slot(1));
    assert_eq!((table.sessions(Slot(1)), table.sessions(Slot(2))), (1, 0));
}

#[test]
fn idle_entry_is_absent_before_the_sweep() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), Owner(0), T0);
    assert_eq!(table.peek(key(1), at(60)), Some(Slot(1)), "idle for exactly the TTL");
    assert_eq!(table.peek(key(1), at(61)), None);
    assert_eq!(table.len(), 1, "peek removes nothing");
    assert_eq!(table.lookup(key(1), at(61)), None);
    assert_eq!((table.len(), table.sessions(Slot(1))), (0, 0));
}

#[test]
fn lookup_extends_an_entry_and_peek_does_not() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), Owner(0), T0);
    assert_eq!(table.lookup(key(1), at(50)), Some(Slot(1)));
    assert_eq!(table.peek(key(1), at(110)), Some(Slot(1)));
    assert_eq!(table.lookup(key(1), at(111)), None);
}

#[test]
fn new_binding_wins_over_an_expired_one() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), Owner(0), T0);
    assert_eq!(table.bind_if_absent(key(1), Slot(2), Owner(0), at(61)), Slot(2));
    assert_eq!((table.len(), table.sessions(Slot(1)), table.sessions(Slot(2))), (1, 0, 1));
}

#[test]
fn full_table_evicts_the_longest_idle() {
    let table = Table::new(3, 60);
    for n in 1..=3 {
        table.bind(key(n), Slot(1), Owner(0), at(u32::try_from(n).unwrap()));
    }
    table.lookup(key(1), at(4));
    table.bind(key(4), Slot(2), Owner(0), at(5));
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
        table.bind(key(n), Slot(1), Owner(0), T0);
        assert_eq!(table.peek(key(n), T0), Some(Slot(1)));
        assert_eq!((table.len(), table.sessions(Slot(1))), (1, 1));
    }
}

#[test]
fn lower_limits_evict_at_once_and_higher_limits_make_room() {
    let table = Table::new(100_000, 60);
    for n in 0..50_000 {
        table.bind(key(n), Slot(1), Owner(0), T0);
    }
    table.set_limits(777, 60);
    assert_eq!((table.len(), table.sessions(Slot(1))), (777, 777));
    table.set_limits(2000, 5);
    for n in 0..2000 {
        table.bind(key(1_000_000 + n), Slot(2), Owner(0), T0);
    }
    assert_eq!(table.len(), 2000);
    assert_eq!(table.sessions(Slot(1)) + table.sessions(Slot(2)), 2000);
    assert_eq!(table.peek(key(1_001_999), at(6)), None, "the new TTL applies");
}

#[test]
fn lowered_limit_keeps_the_most_recent() {
    let table = Table::new(100, 60);
    for n in 0..100 {
        table.bind(key(n), Slot(1), Owner(0), at(u32::try_from(n).unwrap()));
    }
    table.set_limits(10, 600);
    assert_eq!((0..100).filter(|n| table.peek(key(*n), at(100)).is_some()).min(), Some(90));
}

#[test]
fn table_of_zero_entries_holds_one() {
    let table = Table::new(0, 60);
    table.bind(key(1), Slot(1), Owner(0), T0);
    assert_eq!(table.lookup(key(1), T0), Some(Slot(1)));
}

#[test]
fn sweep_drops_expired_entries_in_bounded_steps() {
    let table = Table::new(4095, 60);
    for n in 0..1000 {
        table.bind(key(n), Slot(1), Owner(0), T0);
    }
    table.bind(key(5000), Slot(1), Owner(0), at(50));
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
        table.bind(key(n), Slot(1), Owner(0), T0);
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
        table.bind(key(n), Slot(1), Owner(0), T0);
    }
    for n in 0..10 {
        table.lookup(key(n), at(30 + u32::try_from(n).unwrap()));
    }
    let memory = || table.shards[0].lock().memory();
    assert!(memory() >= 80_000);
    while table.sweep(at(61)) > 0 {}
    assert!(memory() < 20_000);
    let mut order = Vec::new();
    table.for_each(at(61), |saved| order.push(saved.name.0));
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
            table.bind(key(n as u64), Slot(1), Owner(0), T0);
        }
        assert_eq!(table.len(), entries);
        let each = table.memory() * 10 / entries;
        assert!(each <= 320, "{entries} entries: {each} tenths of a byte");
    }
}

fn root() -> Scope {
    Scope::of_bits(1)
}

#[test]
fn made_up_ids_never_evict_minted_ones() {
    let table = Table::new(100, 60);
    for n in 0..100 {
        table.learn(key(n), Slot(1), root(), None, T0);
    }
    for n in 1000..2000 {
        assert_eq!(table.bind_if_absent(key(n), Slot(2), Owner(1), at(1)), Slot(2));
        assert_eq!(table.peek(key(n), at(1)), None, "there is no room for it");
    }
    assert!((0..100).all(|n| table.peek(key(n), at(1)) == Some(Slot(1))));
    table.learn(key(5000), Slot(3), root(), None, at(2));
    assert_eq!((table.peek(key(5000), at(2)), table.len()), (Some(Slot(3)), 100));
    assert_eq!(table.peek(key(0), at(2)), None, "the longest-idle minted one goes for a minted one");
}

#[test]
fn minted_ids_evict_made_up_ones_first() {
    for max in [100, 5000, 20_000] {
        let table = Table::new(max, 60);
        let half = max as u64 / 2;
        for n in 0..half {
            table.learn(key(n), Slot(1), root(), None, T0);
        }
        for n in 0..2 * max as u64 {
            table.bind(key(1_000_000 + n), Slot(2), Owner(1), at(1));
        }
        for n in half..max as u64 - 200.min(half) {
            table.learn(key(n), Slot(1), root(), None, at(2));
        }
        let kept =
            (0..max as u64 - 200.min(half)).filter(|n| table.peek(key(*n), at(2)).is_some()).count() as u64;
        assert_eq!(kept, max as u64 - 200.min(half), "of {max}");
        assert_eq!(table.len(), max);
    }
}

#[test]
fn one_address_cannot_push_out_the_ids_of_others() {
    let table = Table::new(1000, 60);
    for n in 0..100 {
        table.bind(key(n), Slot(1), Owner(u16::try_from(n % 50).unwrap()), T0);
    }
    for n in 0..20_000 {
        table.bind(key(1_000_000 + n), Slot(2), Owner(99), at(1));
    }
    assert!((0..100).all(|n| table.peek(key(n), at(1)).is_some()));
    // The others take back what the one holds beyond its share.
    for n in 100..500 {
        table.bind(key(n), Slot(1), Owner(u16::try_from(n % 50).unwrap()), at(2));
    }
    let kept = (0..500).filter(|n| table.peek(key(*n), at(2)).is_some()).count();
    assert!(kept >= 490, "{kept} of 500");
}

#[test]
fn address_that_is_alone_has_the_whole_table() {
    let table = Table::new(100, 60);
    for n in 0..300 {
        table.bind(key(n), Slot(1), Owner(7), at(u32::try_from(n / 100).unwrap()));
    }
    assert!((200..300).all(|n| table.peek(key(n), at(3)).is_some()), "the longest idle go");
}

#[test]
fn deletion_removes_only_the_id_that_was_set_there() {
    let table = Table::new(10, 60);
    let (here, there) = (table.namer().root_scope(), Scope::of_bits(77));
    table.learn(key(1), Slot(1), here, None, T0);
    table.delete(key(1), Slot(1), there);
    table.delete(key(1), Slot(2), here);
    assert_eq!(table.peek(key(1), T0), Some(Slot(1)));
    table.delete(key(1), Slot(1), here);
    assert_eq!(table.peek(key(1), T0), None);
    table.bind(key(2), Slot(1), Owner(0), T0);
    table.delete(key(2), Slot(1), there);
    assert_eq!(table.peek(key(2), T0), Some(Slot(1)), "unknown where it was set");
    table.delete(key(2), Slot(1), here);
    assert_eq!(table.peek(key(2), T0), None);
}

#[test]
fn confirmed_id_counts_as_minted_and_stays_where_it_is() {
    let table = Table::new(2, 60);
    table.bind(key(1), Slot(1), Owner(3), T0);
    table.confirm(key(1), root());
    table.confirm(key(9), root());
    for n in 10..20 {
        table.bind(key(n), Slot(2), Owner(3), at(1));
    }
    assert_eq!(table.peek(key(1), at(1)), Some(Slot(1)));
    assert_eq!(table.len(), 2);
}

#[test]
fn replaced_id_is_retired_once_the_new_one_is_used() {
    let table = Table::new(10, 60);
    table.learn(key(1), Slot(1), root(), None, T0);
    table.learn(key(2), Slot(1), root(), Some(key(1)), T0);
    assert_eq!(table.lookup(key(1), at(50)), Some(Slot(1)), "the client may never have got the new one");
    assert_eq!(table.lookup(key(2), at(50)), Some(Slot(1)));
    assert_eq!(table.lookup(key(1), at(50 + RETIRED)), Some(Slot(1)), "requests in flight");
    table.touch(key(1), at(50 + RETIRED));
    assert_eq!(table.lookup(key(1), at(51 + RETIRED)), None, "use does not prolong it");
    assert_eq!((table.len(), table.sessions(Slot(1))), (1, 1));
}

#[test]
fn id_of_another_scope_or_backend_is_not_replaced() {
    let table = Table::new(10, 60);
    table.learn(key(1), Slot(1), root(), None, T0);
    table.learn(key(2), Slot(1), Scope::of_bits(9), Some(key(1)), T0);
    table.learn(key(3), Slot(2), root(), Some(key(1)), T0);
    table.bind(key(4), Slot(1), Owner(0), T0);
    table.learn(key(5), Slot(1), root(), Some(key(4)), T0);
    for n in [2, 3, 5] {
        table.lookup(key(n), T0);
    }
    assert_eq!(table.lookup(key(1), at(30)), Some(Slot(1)));
    assert_eq!(table.lookup(key(4), at(30)), Some(Slot(1)));
}

#[test]
fn ids_that_roll_with_every_response_do_not_fill_the_table() {
    let table = Table::new(10_000, 1800);
    for second in 0..100 {
        for session in 0..20u64 {
            let id = |n: u32| key(session * 1000 + u64::from(n));
            table.lookup(id(second), at(second));
            // Three requests in parallel: only the last response's id is used.
            for lost in 0..2 {
                table.learn(
                    key(1_000_000 + session * 10_000 + u64::from(second * 2 + lost)),
                    Slot(1),
                    root(),
                    Some(id(second)),
                    at(second),
                );
            }
            table.learn(id(second + 1), Slot(1), root(), Some(id(second)), at(second));
        }
        while table.sweep(at(second)) > 0 {}
    }
    let most = 20 * (3 * RETIRED as usize + 10);
    assert!(table.len() <= most, "{} entries for 20 sessions", table.len());
    assert_eq!(table.sessions(Slot(1)), table.len());
}

#[test]
fn session_in_use_does_not_expire() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), Owner(0), T0);
    table.touch(key(1), at(50));
    table.touch(key(2), at(50));
    assert_eq!(table.peek(key(1), at(110)), Some(Slot(1)));
    assert_eq!(table.len(), 1, "touching binds nothing");
}

#[test]
fn new_sessions_evict_expired_ones() {
    let table = Table::new(4095, 60);
    for n in 0..100 {
        table.bind(key(n), Slot(1), Owner(0), T0);
    }
    for n in 1000..1100 {
        table.bind(key(n), Slot(2), Owner(0), at(61));
    }
    assert_eq!((table.len(), table.sessions(Slot(1))), (100, 0));
}

#[test]
fn clock_that_goes_backwards_expires_nothing() {
    let table = Table::new(10, 60);
    table.bind(key(1), Slot(1), Owner(0), at(1000));
    assert_eq!(table.lookup(key(1), T0), Some(Slot(1)));
    assert_eq!(table.lookup(key(1), at(61)), None, "the TTL counts from the new time");
}

#[test]
fn bindings_are_visited_longest_idle_first() {
    let table = Table::new(10, 60);
    for n in 0..5 {
        table.bind(key(n), Slot(1), Owner(0), at(u32::try_from(n).unwrap()));
    }
    table.lookup(key(1), at(5));
    let mut seen = Vec::new();
    table.for_each(at(61), |saved| seen.push(saved.name.0));
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
                        1..4 => table.bind(key, Slot(random.u16(..4)), Owner(worker), now),
                        4..6 => drop(table.bind_if_absent(key, Slot(random.u16(..4)), Owner(worker), now)),
                        6 if step % 2 == 0 => drop(table.sweep(now)),
                        6 => table.learn(
                            key,
                            Slot(random.u16(..4)),
                            Scope::of_bits(1),
                            Some(SessionName(random.u64(..8000))),
                            now,
                        ),
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
