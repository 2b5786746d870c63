//! Set-Cookie and Cache-Control lines: no input panics.

#![no_main]

mod message;

use homing::affinity::cookie::is_publicly_cacheable;
use homing::affinity::key::KeySource;
use homing::affinity::learn::{LearnContext, cookie_date, learn, parse_set_cookie};
use homing::affinity::name::{NameSecret, Namer};
use homing::affinity::{Seed, Timestamp};
use libfuzzer_sys::fuzz_target;
use message::Message;

fuzz_target!(|data: &[u8]| {
    let lines: Vec<_> = data.split(|b| *b == b'\n').collect();
    for line in &lines {
        let _ = cookie_date(line);
        if let Some(cookie) = parse_set_cookie(line) {
            assert!(!cookie.name.is_empty());
            let _ = cookie.attributes().deletes(Timestamp(1_700_000_000));
        }
    }
    let control = Message { target: "", name: "cache-control", lines: lines.clone() };
    let _ = is_publicly_cacheable("GET", 200, &control);
    let message = Message { target: "", name: "set-cookie", lines };
    let namer = Namer::new(NameSecret([1; 16]));
    let default_path = namer.path(b"/");
    let context = LearnContext { seed: Seed(1), namer: &namer, default_path, now: Timestamp(1_700_000_000) };
    learn(&[KeySource::Cookie("S".into())], context, &message, |_| {});
});
