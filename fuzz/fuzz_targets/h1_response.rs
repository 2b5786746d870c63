//! Response heads: no input panics, and splitting the input never changes the result.
//!
//! The first byte of the input is where to split the rest. Its lowest bit is whether the request
//! was HEAD.

#![no_main]

use homing::h1::{FieldSlots, Framing, HeadError, HeadLimits, Parsed, parse_response};
use libfuzzer_sys::fuzz_target;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 1024, fields: 16, uri_bytes: 256 };

fn read(input: &[u8], scanned: &mut usize, method: &str) -> Result<Option<String>, HeadError> {
    let mut slots = FieldSlots::new();
    Ok(match parse_response(input, scanned, &LIMITS, method, &mut slots)? {
        Parsed::Complete { head, len } => {
            assert!((100..=599).contains(&head.status));
            assert!(method != "HEAD" || head.framing == Framing::None);
            Some(format!("{head:?} {len}"))
        }
        Parsed::Partial => None,
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&split, input)) = data.split_first() else { return };
    let method = if split & 1 == 0 { "GET" } else { "HEAD" };
    let whole = read(input, &mut 0, method);
    let mut scanned = 0;
    let split = usize::from(split).min(input.len());
    let first = read(&input[..split], &mut scanned, method);
    let in_two = if first == Ok(None) { read(input, &mut scanned, method) } else { first };
    assert_eq!(in_two, whole);
});
