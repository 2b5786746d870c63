//! Line 5 of the contract: a change moves only the keys that it must, and the order of backends
//! never matters.

use homing::affinity::pick::{Query, pick};
use homing::affinity::{AdminState, Cluster, Health};
use proptest::prelude::*;

use crate::history::{change, change_of, on};
use crate::world::{binding, by_number, by_ring, keys, loads, policy, tried, tried_in, world};

const KEYS: u64 = 60;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn without_memory_a_change_moves_only_keys_of_the_changed_backend(
        world in world(), change in change(), to in any::<prop::sample::Index>(),
    ) {
        let change = change_of(&world, change, to);
        let mut changed = world.clone();
        change.apply(&mut changed);
        let (before, after) = (world.cluster(), changed.cluster());
        for key in keys(KEYS * 3, world.seed) {
            let (old, new) = (by_ring(&before, key), by_ring(&after, key));
            let subject = change.subject();
            prop_assert!(
                old == new || (subject.is_some() && (old == subject || new == subject)),
                "{old:?} → {new:?} by {change:?}"
            );
        }
    }

    #[test]
    fn without_memory_skipping_a_backend_equals_rebuilding_the_ring(world in world()) {
        let mut eligible = world.clone().started();
        eligible.nodes.retain(|node| node.admin == AdminState::Ready && node.health == Health::Up);
        let cluster = world.started().cluster();
        prop_assume!(!eligible.nodes.is_empty());
        let rebuilt = eligible.ring();
        for key in keys(KEYS * 3, eligible.seed) {
            let home = rebuilt.home(key).map(|member| eligible.nodes[usize::from(member)].number);
            prop_assert_eq!(by_ring(&cluster, key), home);
        }
    }

    #[test]
    fn a_slow_start_moves_a_key_at_most_once_and_only_to_the_starting_backend(
        world in world(),
        which in any::<prop::sample::Index>(),
        steps in prop::collection::btree_set(1..1000u32, 1..12),
    ) {
        let mut world = world;
        let starter = which.get(&world.nodes).number;
        on(&mut world, starter, |node| (node.admin, node.health) = (AdminState::Ready, Health::Down));
        let mut joined = vec![world.cluster()];
        for active in steps.into_iter().chain([1000]) {
            on(&mut world, starter, |node| (node.health, node.active) = (Health::Up, active));
            joined.push(world.cluster());
        }
        for key in keys(KEYS, world.seed) {
            let visited: Vec<_> = joined.iter().map(|cluster| by_ring(cluster, key)).collect();
            let moves = visited.windows(2).filter(|pair| pair[0] != pair[1]).count();
            prop_assert!(moves <= 1, "{visited:?}");
            prop_assert!(moves == 0 || visited.last() == Some(&Some(starter)), "{visited:?}");
        }
    }

    #[test]
    fn the_order_of_backends_never_matters(
        world in world(), policy in policy(), loads in loads(), binding in binding(), tried in tried(),
        may_hold: bool,
    ) {
        let mut other = world.clone();
        other.nodes.reverse();
        let (one, two) = (world.cluster(), other.cluster());
        let decide = |cluster: &Cluster, key| {
            let tried = tried_in(cluster, &tried);
            let query = Query { key: Some(key), binding, tried: &tried, may_hold, random: 0 };
            by_number(cluster, pick(cluster, policy, &loads.on(cluster), &query))
        };
        for key in keys(KEYS, world.seed) {
            prop_assert_eq!(decide(&one, key), decide(&two, key));
        }
    }
}
