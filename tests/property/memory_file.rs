//! The file that a table is saved to.

use std::collections::BTreeMap;

use homing::affinity::name::Owner;
use homing::affinity::table::{Table, file};
use homing::affinity::{BackendId, SessionName, Slot, Timestamp};
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn id_of(slot: Slot) -> Option<BackendId> {
    format!("node{}", slot.0).parse().ok()
}

fn slot_of(id: &BackendId) -> Option<Slot> {
    Some(Slot(id.as_str().strip_prefix("node")?.parse().ok()?))
}

fn bindings(table: &Table) -> BTreeMap<u64, (Slot, Timestamp)> {
    let mut all = BTreeMap::new();
    table.for_each(NOW, |saved| {
        all.insert(saved.name.0, (saved.slot, saved.last_seen));
    });
    all
}

fn filled(entries: &[(u64, u16, u32)], max: usize) -> Table {
    let table = Table::new(max, 600);
    for (key, slot, age) in entries {
        table.bind(SessionName(*key), Slot(*slot), Owner(0), Timestamp(NOW.0 - age));
    }
    table
}

fn entries() -> impl Strategy<Value = Vec<(u64, u16, u32)>> {
    prop::collection::vec((any::<u64>(), any::<u16>(), 0..600u32), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_table_survives_a_round_trip_through_its_file(entries in entries(), left in 1..9000usize, right in 300..9000usize) {
        let table = filled(&entries, left);
        let mut bytes = Vec::new();
        file::write(&table, &mut bytes, NOW, id_of).unwrap();
        let loaded = Table::new(right, 600);
        let report = file::read(&loaded, &*bytes, NOW, slot_of).unwrap();
        prop_assert_eq!(bindings(&loaded), bindings(&table));
        prop_assert_eq!(report.restored, loaded.len());
    }

    #[test]
    fn a_damaged_file_binds_nothing(
        entries in entries(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255u8), 1..4),
    ) {
        let mut bytes = Vec::new();
        file::write(&filled(&entries, 1000), &mut bytes, NOW, id_of).unwrap();
        let good = bytes.clone();
        for (at, change) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        }
        prop_assume!(bytes != good);
        let table = Table::new(1000, 600);
        prop_assert!(file::read(&table, &*bytes, NOW, slot_of).is_err());
        prop_assert!(table.is_empty());
    }

    #[test]
    fn no_file_content_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let table = Table::new(10, 600);
        let bytes = [b"HOMINGTB\x02\0\0\0".as_slice(), &bytes].concat();
        prop_assert!(file::read(&table, &*bytes, NOW, slot_of).is_err());
    }
}
