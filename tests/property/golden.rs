//! The layout of the ring never changes between versions of Homing.
//!
//! `tests/golden/ring_v1.csv` lists 2,000 keys and the home of each on one fixed ring. If this
//! test fails, an upgrade of Homing would move every session under `remember = "none"`. During
//! the upgrade, the old and the new proxies of a fleet would also disagree about where new
//! sessions go. So do not update the file to make the test pass: a new layout is a new version of
//! the ring (`ring_v2.csv`, and `VERSION` in `src/affinity/ring.rs`), and users must be able to
//! keep the old one.

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

/// Returns the `n`th key: session ids of several lengths, then addresses.
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
fn keys_have_the_same_homes_as_in_earlier_versions() {
    let (ring, backends) = ring();
    let mut landed = String::from("key,backend\n");
    for n in 0..2000 {
        let home = ring.home(key(n)).unwrap();
        writeln!(landed, "{n},{}", backends[usize::from(home)].0).unwrap();
    }
    if let Some((now, golden)) = landed.lines().zip(GOLDEN.lines()).find(|(now, golden)| now != golden) {
        panic!("{golden} is now {now}: an upgrade would move sessions; read the top of golden.rs");
    }
    assert_eq!(landed.lines().count(), GOLDEN.lines().count());
}

#[test]
fn the_golden_ring_has_the_same_digest_as_in_earlier_versions() {
    assert_eq!(format!("{:016x}", ring().0.digest()), "1db4acb340f7f62a");
}
