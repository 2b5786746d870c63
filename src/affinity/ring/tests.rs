//! The ring's guarantees, on rings of the default size. The properties on random clusters are in
//! `tests/property`.

use super::*;
use crate::affinity::KeyHash;

fn id(text: &str) -> BackendId {
    text.parse().unwrap()
}

fn weight(weight: u16) -> Weight {
    Weight::new(weight).unwrap()
}

fn nodes(count: u16) -> Vec<(BackendId, Weight)> {
    (1..=count).map(|n| (id(&format!("node{n}")), Weight::ONE)).collect()
}

/// Evenly spread keys that match no pattern of the ring.
fn keys(count: u64) -> impl Iterator<Item = KeyHash> {
    (0..count).map(|n| KeyHash::of_id(Seed(99), &n.to_le_bytes()))
}

#[test]
fn empty_ring_has_no_home() {
    let ring = Ring::build(Seed(1), 1024, &[]);
    assert_eq!(ring.home(KeyHash(7)), None);
    assert_eq!(ring.first(KeyHash(7), |_, _| true), None);
    assert_eq!(ring.walk(KeyHash(7)).count(), 0);
    assert!(ring.shares().is_empty());
}

#[test]
fn one_point_owns_the_whole_ring() {
    let ring = Ring::build(Seed(1), 1, &nodes(1));
    for key in [0, 1, u64::MAX / 2, u64::MAX] {
        assert_eq!(ring.home(KeyHash(key)), Some(0));
    }
    assert_eq!(ring.shares(), [1.0]);
}

#[test]
fn key_belongs_to_the_first_point_at_or_after_it() {
    let ring = Ring::build(Seed(3), 64, &nodes(5));
    let by_search = |key: u64| ring.points.iter().find(|p| p.hash >= key).unwrap_or(&ring.points[0]).member;
    let around = ring.points.iter().flat_map(|p| [p.hash.wrapping_sub(1), p.hash, p.hash.wrapping_add(1)]);
    for key in around.chain([0, u64::MAX]).chain(keys(5000).map(|k| k.0)) {
        assert_eq!(ring.home(KeyHash(key)), Some(by_search(key)), "{key:016x}");
    }
}

#[test]
fn weight_multiplies_points() {
    let ring = Ring::build(Seed(1), 100, &[(id("a"), weight(1)), (id("b"), weight(256))]);
    assert_eq!((ring.points_of(0), ring.points_of(1), ring.points_of(2)), (100, 25_600, 0));
    assert_eq!(ring.points.len(), 25_700);
}

#[test]
fn equal_hashes_belong_to_the_lower_id() {
    // Too rare among real hashes. Member 2 has the lowest id.
    let points = lay_points(&[2, 0, 1], &[2, 1, 2], |_, replica| u64::from(replica % 2));
    let order: Vec<_> = points.iter().map(|p| (p.hash, p.member)).collect();
    assert_eq!(order, [(0, 2), (0, 0), (0, 1), (1, 2), (1, 0)]);
}

#[test]
fn members_refused_everywhere_are_not_tried_again() {
    let ring = Ring::build(Seed(5), 1024, &nodes(50));
    let mut asked = 0;
    let nobody = ring.first(KeyHash(1), |_, _| {
        asked += 1;
        false
    });
    assert_eq!(nobody, None);
    // At home again, because the walk starts there once more.
    assert!(asked <= 2 * 50 + 1, "asked {asked} times");
}

#[test]
fn member_in_slow_start_is_found_at_its_active_point() {
    let ring = Ring::build(Seed(5), 1024, &nodes(3));
    for key in keys(200) {
        // Only replica 0 of member 1 is active, and no other member.
        assert_eq!(ring.first(key, |member, replica| member == 1 && replica == 0), Some(1));
    }
}

#[test]
fn digest_depends_on_everything_except_order() {
    let backends = [(id("a"), weight(1)), (id("b"), weight(2)), (id("c"), weight(1))];
    let reversed = [(id("c"), weight(1)), (id("b"), weight(2)), (id("a"), weight(1))];
    let digest = |seed, vnodes, backends: &[_]| Ring::build(Seed(seed), vnodes, backends).digest();
    let own = digest(1, 64, &backends);
    assert_eq!(own, digest(1, 64, &reversed));
    assert_ne!(own, digest(2, 64, &backends), "seed");
    assert_ne!(own, digest(1, 65, &backends), "vnodes");
    assert_ne!(own, digest(1, 64, &backends[..2]), "members");
    assert_ne!(
        own,
        digest(1, 64, &[(id("a"), weight(2)), (id("b"), weight(1)), (id("c"), weight(1))]),
        "weights"
    );
    assert_ne!(
        own,
        digest(1, 64, &[(id("a"), weight(1)), (id("d"), weight(2)), (id("c"), weight(1))]),
        "ids"
    );
}

#[test]
fn digest_is_the_same_on_every_machine() {
    let ring = Ring::build(Seed(1), 64, &[(id("a"), weight(1)), (id("b"), weight(2))]);
    assert_eq!(format!("{:016x}", ring.digest()), "c053797f9d242f49");
}

#[test]
fn shares_match_the_distribution_of_keys() {
    let ring = Ring::build(Seed(8), 256, &[(id("a"), weight(1)), (id("b"), weight(3)), (id("c"), weight(4))]);
    let shares = ring.shares();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    let count = 40_000;
    let mut seen = [0.0; 3];
    for key in keys(count) {
        seen[usize::from(ring.home(key).unwrap())] += 1.0 / 40_000.0;
    }
    for (share, seen) in shares.iter().zip(seen) {
        assert!((share - seen).abs() < 0.01, "{share} {seen}");
    }
    for (share, ideal) in shares.iter().zip([0.125, 0.375, 0.5]) {
        assert!((share - ideal).abs() < 0.04, "{share} {ideal}");
    }
}

#[test]
#[should_panic(expected = "too many points for a ring")]
fn oversized_ring_is_refused_before_it_is_built() {
    let _ = Ring::build(Seed(1), Ring::MAX_POINTS, &nodes(2));
}

#[test]
fn debug_output_omits_points() {
    let shown = format!("{:?}", Ring::build(Seed(1), 1024, &nodes(3)));
    assert!(shown.len() < 100 && shown.contains("3072"), "{shown}");
}
