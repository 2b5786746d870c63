//! `explain` reports the decision that `pick` makes, with reasons that lead to it.

use homing::affinity::explain::{Passed, explain};
use homing::affinity::pick::{Binding, Decision, Outcome, Query, Reason, pick, successor};
use proptest::prelude::*;

use crate::world::{binding, keys, loads, policy, tried, tried_in, world};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_explanation_leads_to_the_decision(
        world in world(), policy in policy(), loads in loads(), binding in binding(), tried in tried(),
        may_hold: bool, random: u64,
    ) {
        let cluster = world.cluster();
        let tried = tried_in(&cluster, &tried);
        let loads = loads.on(&cluster);
        for key in keys(16, random) {
            let query = Query { key: Some(key), binding, tried: &tried, may_hold, random };
            let told = explain(&cluster, policy, &loads, &query);
            prop_assert_eq!(told.decision, pick(&cluster, policy, &loads, &query));
            prop_assert_eq!(told.home, cluster.ring().home(key));

            // Every member is on the walk, in ring order; one in slow start may be there twice.
            let mut met: Vec<u16> = Vec::new();
            for step in &told.steps {
                if met.contains(&step.member) {
                    let early = told.steps.iter().filter(|s| s.member == step.member).count();
                    prop_assert_eq!(early, 2);
                    let at_first = told.steps.iter().find(|s| s.member == step.member).unwrap();
                    prop_assert_eq!(at_first.passed, Some(Passed::SlowStart));
                } else {
                    met.push(step.member);
                }
            }
            prop_assert_eq!(met, cluster.ring().walk(key).collect::<Vec<_>>());

            // The steps alone must predict the pick: unless the request is kept, it goes to the
            // first member that is not passed over, or to one that drains.
            let free = told.steps.iter().find(|step| step.passed.is_none()).map(|step| step.member);
            let new = matches!(binding, Binding::Absent | Binding::Expired | Binding::Forged);
            match told.decision {
                Decision::Send(v) if v.outcome == Outcome::Kept && binding != Binding::RingOnly => {
                    prop_assert_eq!(Some(v.member), told.bound);
                }
                Decision::Send(v) => {
                    // No member is free: the first that drains or, for new sessions, the one
                    // that is least over its cap, or the first that is shunned.
                    let passed = told.steps.iter().filter(|s| s.member == v.member).filter_map(|s| s.passed);
                    let passed_for = |reason| passed.clone().any(|passed| passed == reason);
                    let otherwise = passed_for(Passed::Draining)
                        || (new && (passed_for(Passed::AtCap) || passed_for(Passed::Shunned)));
                    prop_assert!(free.map_or(otherwise, |free| free == v.member));
                }
                Decision::Hold(member) => {
                    let held = if binding == Binding::RingOnly { told.home } else { told.bound };
                    prop_assert_eq!(held, Some(member));
                }
                Decision::Unavailable(Some(Reason::Capacity)) => prop_assert!(free.is_none()),
                Decision::Unavailable(_) => {}
            }
            if let Decision::Send(v) = told.decision {
                prop_assert_eq!(told.successor, successor(&cluster, key, v.member));
            }
        }
    }

    #[test]
    fn a_request_without_a_key_has_no_walk(world in world(), policy in policy(), loads in loads(), random: u64) {
        let cluster = world.cluster();
        let tried = tried_in(&cluster, &[]);
        let query = Query { key: None, binding: Binding::Absent, tried: &tried, may_hold: false, random };
        let told = explain(&cluster, policy, &loads.on(&cluster), &query);
        prop_assert!(told.home.is_none() && told.steps.is_empty() && told.successor.is_none());
        prop_assert_eq!(told.decision, pick(&cluster, policy, &loads.on(&cluster), &query));
    }
}
