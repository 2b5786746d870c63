//! Operations on a table: counts stay exact, and the bound holds.

#![no_main]

use homing::affinity::table::Table;
use homing::affinity::{KeyHash, Slot, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let table = Table::new(40, 20);
    let mut now = Timestamp(1000);
    for op in data.chunks_exact(3) {
        let (key, slot) = (KeyHash(u64::from(op[1])), Slot(u16::from(op[2] % 4) * 200));
        match op[0] % 8 {
            0 => {
                table.bind(key, slot, now);
                assert_eq!(table.lookup(key, now), Some(slot));
            }
            1 => {
                let bound = table.bind_if_absent(key, slot, now);
                assert_eq!(table.peek(key, now), Some(bound));
            }
            2 => {
                table.remove(key);
                assert_eq!(table.peek(key, now), None);
            }
            3 => assert_eq!(table.peek(key, now), table.lookup(key, now)),
            4 => now.0 += u32::from(op[1] % 32),
            5 => {
                table.sweep(now);
            }
            6 => table.set_limits(usize::from(op[1]), u32::from(op[2])),
            _ => now.0 -= u32::from(op[1] % 2).min(now.0),
        }
        assert!(table.len() <= table.max_entries());
        assert_eq!(
            [0, 200, 400, 600].map(|slot| table.sessions(Slot(slot))).iter().sum::<usize>(),
            table.len()
        );
    }
    let mut visited = 0;
    table.for_each(Timestamp(0), |_| visited += 1);
    assert_eq!(visited, table.len());
});
