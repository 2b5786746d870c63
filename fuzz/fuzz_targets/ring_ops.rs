//! Rings: every key has a home, which does not depend on the order of the backends.

#![no_main]

use homing::affinity::ring::Ring;
use homing::affinity::{BackendId, KeyHash, Seed, Weight};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (vnodes, weights) = match data {
        [vnodes, weights @ ..] if !weights.is_empty() => {
            (u32::from(vnodes % 64) + 1, &weights[..weights.len().min(16)])
        }
        _ => return,
    };
    let backends: Vec<(BackendId, Weight)> = weights
        .iter()
        .enumerate()
        .filter_map(|(n, weight)| {
            Some((format!("node{n}").parse().ok()?, Weight::new(u16::from(weight % 8) + 1)?))
        })
        .collect();
    let ring = Ring::build(Seed(1), vnodes, &backends);
    let reversed: Vec<_> = backends.iter().rev().cloned().collect();
    let other = Ring::build(Seed(1), vnodes, &reversed);
    assert_eq!(ring.digest(), other.digest());
    for bytes in data.windows(8) {
        let key = KeyHash(bytes.iter().fold(0, |key, byte| key << 8 | u64::from(*byte)));
        let home = ring.first(key, |_, _| true).expect("a home");
        let same = other.first(key, |_, _| true).expect("a home");
        assert_eq!(backends[usize::from(home)].0, reversed[usize::from(same)].0);
        // Without its home, the key goes to another backend, if there is one.
        assert_eq!(ring.first(key, |member, _| member != home).is_some(), backends.len() > 1);
    }
});
