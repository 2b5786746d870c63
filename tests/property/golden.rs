//! Where keys land, for ever.
//!
//! `tests/golden/ring_v1.csv` holds 2,000 keys and the backend that each has as
//! its home on one fixed ring. If this test fails, an upgrade of Homing would
//! move the sessions of everybody who has `remember = "none"`, and the new
//! sessions of everybody would disagree between the old and the new proxies of a
//! fleet during the upgrade. So do not bless a change of this file: a new
//! layout is a new version of the ring (`ring_v2.csv`, and `VERSION` in
//! `src/affinity/ring.rs`), with a way for the old one to be kept.

use std::fmt::Write as _;

use homing::affinity::ring::Ring;
use homing::affinity::{BackendId, KeyHash, Seed, Weight};

const GOLDEN: &str = include_str!("../golden/ring_v1.csv");
const SEED: Seed = Seed(0x686f_6d69_6e67_2031);

fn ring() -> (Ring, Vec<(BackendId, Weight)>) {
    let backends: Vec<_> = [
        ("node1", 1),
        ("node2", 2),
        ("node3", 3),
        ("10.0.1.14:8080", 1),
        ("[2001:db8::5]:8080", 2),
        ("a", 8),
    ]
    .map(|(id, weight)| (id.parse().unwrap(), Weight::new(weight).unwrap()))
    .into();
    (Ring::build(SEED, 1024, &backends), backends)
}

/// Session ids of several lengths, then addresses.
fn key(n: u32) -> KeyHash {
    if n < 1500 {
        let id = format!("{:0width$}", n, width = 1 + n as usize % 80);
        KeyHash::of_id(SEED, id.as_bytes())
    } else {
        let mut address = *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\0";
        address[14..].copy_from_slice(&u16::try_from(n).unwrap().to_be_bytes());
        KeyHash::of_address(SEED, address)
    }
}

#[test]
fn keys_land_where_they_always_have() {
    let (ring, backends) = ring();
    let mut landed = String::from("key,backend\n");
    for n in 0..2000 {
        let home = ring.home(key(n)).unwrap();
        writeln!(landed, "{n},{}", backends[usize::from(home)].0).unwrap();
    }
    if let Some((now, golden)) = landed.lines().zip(GOLDEN.lines()).find(|(now, golden)| now != golden) {
        panic!("{golden} is now {now}: sessions would move with an upgrade; read the top of golden.rs");
    }
    assert_eq!(landed.lines().count(), GOLDEN.lines().count());
}

#[test]
fn the_golden_ring_has_its_digest() {
    assert_eq!(format!("{:016x}", ring().0.digest()), "1db4acb340f7f62a");
}
