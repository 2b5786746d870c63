//! Table files: no input panics, and an invalid file binds nothing.

#![no_main]

use homing::affinity::table::{Table, file};
use homing::affinity::{Slot, Timestamp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let table = Table::new(1000, 600);
    if file::read(&table, data, Timestamp(1000), |_| Some(Slot(1))).is_err() {
        assert!(table.is_empty());
    }
});
