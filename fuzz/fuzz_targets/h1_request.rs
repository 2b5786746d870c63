//! Request heads: no input panics, splitting the input never changes the result, and a copy parses
//! the same.
//!
//! The first byte of the input is where to split the rest.

#![no_main]

use homing::h1::{
    Edit, FieldKind, FieldSlots, HeadError, HeadLimits, Parsed, copy_fields, end_head, parse_request,
    write_request_line,
};
use libfuzzer_sys::fuzz_target;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 1024, fields: 16, uri_bytes: 256 };

fn read(input: &[u8], scanned: &mut usize) -> Result<Option<String>, HeadError> {
    let mut slots = FieldSlots::new();
    Ok(match parse_request(input, scanned, &LIMITS, &mut slots)? {
        Parsed::Complete { head, len } => Some(format!("{head:?} {len}")),
        Parsed::Partial => None,
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((&split, input)) = data.split_first() else { return };
    let whole = read(input, &mut 0);
    let mut scanned = 0;
    let split = usize::from(split).min(input.len());
    let first = read(&input[..split], &mut scanned);
    let in_two = if first == Ok(None) { read(input, &mut scanned) } else { first };
    assert_eq!(in_two, whole);

    let mut slots = FieldSlots::new();
    let Ok(Parsed::Complete { head, len }) = parse_request(input, &mut 0, &LIMITS, &mut slots) else {
        return;
    };
    assert!(len <= LIMITS.head_bytes && head.fields.len() <= LIMITS.fields);
    let mut copy = Vec::new();
    write_request_line(&mut copy, head.method, head.target.path_and_query());
    copy_fields(&mut copy, &head.fields, |_| Edit::Keep);
    end_head(&mut copy);
    let mut slots = FieldSlots::new();
    match parse_request(&copy, &mut 0, &LIMITS, &mut slots) {
        Ok(Parsed::Complete { head: again, len }) => {
            assert_eq!(len, copy.len());
            assert_eq!(again.framing, head.framing);
            assert_eq!(again.fields.raw(), head.fields.raw());
        }
        // An HTTP/1.0 request may lack Host, but is forwarded as 1.1.
        result => assert!(head.fields.first(FieldKind::Host).is_none(), "{result:?}"),
    }
});
