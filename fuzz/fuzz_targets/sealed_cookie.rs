//! Sealed cookies: only sealed bytes open. Key files: no input panics.

#![no_main]

use std::sync::LazyLock;

use homing::affinity::cookie::KeyRing;
use homing::secret::parse_keys;
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<KeyRing> = LazyLock::new(KeyRing::ephemeral);

fuzz_target!(|data: &[u8]| {
    assert!(KEYS.open("web", data).is_err());
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = parse_keys(text);
    }
});
