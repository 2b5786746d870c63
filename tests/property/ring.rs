//! The ring as a function: it does not depend on the order of backends, it moves as few keys as
//! possible, and skipping a backend equals removing it.

use std::collections::BTreeSet;

use homing::affinity::ring::Ring;
use homing::affinity::{BackendId, KeyHash, Seed, Weight};
use proptest::prelude::*;

use crate::world::{World, id, keys, world};

const KEYS: u64 = 200;

fn home(ring: &Ring, world: &World, key: KeyHash) -> u16 {
    world.nodes[usize::from(ring.home(key).unwrap())].number
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_order_of_backends_never_matters(world in world(), rotate in 0usize..12) {
        let mut other = world.clone();
        other.nodes.reverse();
        let middle = rotate % other.nodes.len();
        other.nodes.rotate_left(middle);
        let (one, two) = (world.ring(), other.ring());
        prop_assert_eq!(one.digest(), two.digest());
        for key in keys(KEYS, world.seed) {
            prop_assert_eq!(home(&one, &world, key), home(&two, &other, key));
            let walk = |ring: &Ring, world: &World| -> Vec<u16> {
                ring.walk(key).map(|member| world.nodes[usize::from(member)].number).collect()
            };
            prop_assert_eq!(walk(&one, &world), walk(&two, &other));
        }
    }

    #[test]
    fn a_walk_visits_every_member_once_starting_at_home(world in world()) {
        let ring = world.ring();
        for key in keys(KEYS, world.seed) {
            let walk: Vec<u16> = ring.walk(key).collect();
            prop_assert_eq!(Some(walk[0]), ring.home(key));
            prop_assert_eq!(walk.len(), ring.members());
            prop_assert_eq!(walk.iter().collect::<BTreeSet<_>>().len(), ring.members());
        }
    }

    #[test]
    fn first_returns_the_first_accepted_member_on_the_walk(world in world(), accepted in any::<u16>()) {
        let ring = world.ring();
        let accepts = |member: u16| accepted >> member & 1 == 1;
        for key in keys(KEYS, world.seed) {
            let first = ring.first(key, |member, _| accepts(member));
            prop_assert_eq!(first, ring.walk(key).find(|&m| accepts(m)));
        }
    }

    #[test]
    fn skipping_members_equals_removing_them(world in world(), accepted in any::<u16>()) {
        let accepts = |member: u16| accepted >> member & 1 == 1;
        let mut without = world.clone();
        let kept = (0..).zip(&world.nodes).filter(|(member, _)| accepts(*member));
        without.nodes = kept.map(|(_, node)| node.clone()).collect();
        let (ring, smaller) = (world.ring(), without.ring());
        for key in keys(KEYS, world.seed) {
            let skipped = ring.first(key, |member, _| accepts(member));
            prop_assert_eq!(
                skipped.map(|member| world.nodes[usize::from(member)].number),
                smaller.home(key).map(|member| without.nodes[usize::from(member)].number)
            );
        }
    }

    #[test]
    fn a_prefix_of_the_points_equals_a_smaller_weight(world in world(), node in 0usize..12, weight in 1u16..8) {
        let node = node % world.nodes.len();
        let mut lighter = world.clone();
        lighter.nodes[node].weight = weight.min(world.nodes[node].weight);
        let active = u32::from(lighter.nodes[node].weight) * world.vnodes;
        let (ring, smaller) = (world.ring(), lighter.ring());
        for key in keys(KEYS, world.seed) {
            let slow = ring.first(key, |member, replica| usize::from(member) != node || replica < active);
            prop_assert_eq!(slow, smaller.home(key));
        }
    }

    #[test]
    fn an_added_backend_only_takes_keys_for_itself(world in world(), weight in 1u16..8) {
        // In reverse this is a removal: its keys go to others, and no other key moves.
        let mut grown = world.clone();
        let mut newcomer = world.nodes[0].clone();
        (newcomer.number, newcomer.weight) = (99, weight);
        grown.nodes.insert(world.nodes.len() / 2, newcomer);
        let (before, after) = (world.ring(), grown.ring());
        prop_assert_ne!(before.digest(), after.digest());
        for key in keys(KEYS, world.seed) {
            let (old, new) = (home(&before, &world, key), home(&after, &grown, key));
            prop_assert!(new == old || new == 99, "{old} → {new}");
        }
    }

    #[test]
    fn a_heavier_backend_only_gains_keys(world in world(), node in 0usize..12, more in 1u16..8) {
        let node = node % world.nodes.len();
        let mut heavier = world.clone();
        heavier.nodes[node].weight += more;
        let (before, after) = (world.ring(), heavier.ring());
        prop_assert_ne!(before.digest(), after.digest());
        for key in keys(KEYS, world.seed) {
            let (old, new) = (home(&before, &world, key), home(&after, &heavier, key));
            prop_assert!(new == old || new == world.nodes[node].number, "{old} → {new}");
        }
    }

    #[test]
    fn shares_add_up_to_one(world in world()) {
        let ring = world.ring();
        let shares = ring.shares();
        prop_assert_eq!(shares.len(), ring.members());
        prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        prop_assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
    }

    #[test]
    fn every_id_has_its_own_points(
        seed in any::<u64>(), one in "[A-Za-z0-9._:/-]{1,64}", other in "[A-Za-z0-9._:/-]{1,64}",
    ) {
        prop_assume!(one != other);
        let backend = |text: &str| (text.parse::<BackendId>().unwrap(), Weight::ONE);
        let ring = Ring::build(Seed(seed), 64, &[backend(&one), backend(&other)]);
        let smaller = ring.shares()[0].min(ring.shares()[1]);
        // 64 points each: σ of a share is about 0.044.
        prop_assert!(smaller > 0.25, "{smaller}");
    }
}

#[test]
fn different_seeds_give_different_rings() {
    let backends: Vec<_> = (0..10).map(|n| (id(n), Weight::ONE)).collect();
    let (one, two) = (Ring::build(Seed(1), 256, &backends), Ring::build(Seed(2), 256, &backends));
    let same = keys(10_000, 0).filter(|&key| one.home(key) == two.home(key)).count();
    assert!(
        (700..1300).contains(&same),
        "expected about a tenth of the keys at the same home, found {same} of 10,000"
    );
}
