//! Any bytes as a client's connection, or as a backend's response, through the
//! real proxy: the other side gets what Homing accounts for, and nothing else.
//!
//! The first byte of the input chooses the direction.

#![no_main]

#[path = "../../tests/oracle/mod.rs"]
mod oracle;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use oracle::Oracle;

static ORACLE: LazyLock<Oracle> = LazyLock::new(Oracle::start);

fuzz_target!(|data: &[u8]| {
    let Some((direction, input)) = data.split_first() else { return };
    if direction & 1 == 0 {
        ORACLE.check_requests(input);
    } else {
        ORACLE.check_response(input);
    }
});
