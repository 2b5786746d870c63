//! Any bytes as a client's connection, or as a backend's response, through the real proxy: the
//! other side gets what Homing accounts for, and nothing else.
//!
//! The first byte of the input selects the direction. Run it with `-detect_leaks=0`: memory that
//! threads keep between inputs looks leaked.

#![no_main]

#[path = "../../tests/oracle/mod.rs"]
mod oracle;

use libfuzzer_sys::fuzz_target;
use oracle::Oracle;

thread_local! {
    static ORACLE: Oracle = Oracle::start();
}

fuzz_target!(|data: &[u8]| {
    let Some((direction, input)) = data.split_first() else { return };
    if direction & 1 == 0 {
        ORACLE.with(|oracle| oracle.check_requests(input));
    } else {
        ORACLE.with(|oracle| oracle.check_response(input));
    }
});
