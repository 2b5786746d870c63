//! Cookie lines, query and path: an id that is found is part of the input, and a stripped cookie
//! is gone.

#![no_main]

mod message;

use homing::affinity::cookie::{OwnCookies, Stripped, strip_cookie};
use homing::affinity::key::cookies::cookie_pairs;
use homing::affinity::key::{KeySource, find_id};
use libfuzzer_sys::fuzz_target;
use message::Message;

fuzz_target!(|data: &[u8]| {
    let message = Message {
        target: std::str::from_utf8(data).unwrap_or("/"),
        name: "cookie",
        lines: data.split(|b| *b == b'\n').collect(),
    };
    for source in [
        KeySource::Cookie("S".into()),
        KeySource::Header("cookie".into()),
        KeySource::Query("S".into()),
        KeySource::PathParam("S".into()),
    ] {
        if let Some(id) = find_id(&source, &message) {
            assert!(!id.is_empty() && data.windows(id.len()).any(|window| window == id));
        }
    }
    for line in message.lines {
        // Only the first cookies of a name are looked at.
        let mut ours = 0;
        let mut is_other = |name: &[u8]| {
            ours += usize::from(name == b"S");
            name != b"S" || ours > OwnCookies::MAX
        };
        let others: Vec<_> = cookie_pairs(line).filter(|pair| is_other(pair.name)).collect();
        let mut out = Vec::new();
        let left = match strip_cookie(&mut out, line, |name| name == b"S", OwnCookies::ALL, &mut 0) {
            Stripped::Unchanged => line,
            Stripped::Changed => &out,
            Stripped::Empty => b"",
        };
        assert_eq!(cookie_pairs(left).collect::<Vec<_>>(), others);
    }
});
