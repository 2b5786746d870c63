//! Operations on a table: counts stay exact, and the bound holds.

#![no_main]

use homing::affinity::name::Owner;
use homing::affinity::table::Table;
use homing::affinity::{SessionName, Slot, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let table = Table::new(40, 20);
    let mut now = Timestamp(1000);
    for op in data.chunks_exact(3) {
        let (name, slot) = (SessionName(u64::from(op[1])), Slot(u16::from(op[2] % 4) * 200));
        match op[0] % 8 {
            0 => {
                table.bind(name, slot, Owner(0), now);
                assert_eq!(table.lookup(name, now), Some(slot));
            }
            1 => {
                let bound = table.bind_if_absent(name, slot, Owner(0), now);
                assert_eq!(table.peek(name, now), Some(bound));
            }
            2 => {
                table.remove(name);
                assert_eq!(table.peek(name, now), None);
            }
            3 => assert_eq!(table.peek(name, now), table.lookup(name, now)),
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
