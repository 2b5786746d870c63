//! The affinity contract, line by line, over random clusters and histories. Line 5 is in
//! `minimal.rs`.

use std::collections::BTreeMap;

use homing::affinity::pick::{
    Binding, Decision, Failover, Idle, Outcome, Policy, Query, Reason, Tried, Verdict, pick, successor,
};
use homing::affinity::{AdminState, Cluster, Health, KeyHash, Slot};
use proptest::prelude::*;

use crate::history::{change, change_of};
use crate::world::{
    LoadTable, STICKY, ask, ask_under, binding, keys, loads, number, policy, tried, tried_in, verdict, world,
};

const KEYS: u64 = 60;

/// Picks a backend that can serve the sessions bound to it, if there is one.
fn some_keeper(cluster: &Cluster, which: prop::sample::Index) -> Option<u16> {
    let able: Vec<u16> = (0u16..)
        .zip(cluster.members())
        .filter(|(_, member)| member.eligible_for_existing())
        .map(|(index, _)| index)
        .collect();
    (!able.is_empty()).then(|| *which.get(&able))
}

/// Whether any backend outside of `but` is eligible for new sessions.
fn anybody_open(cluster: &Cluster, but: &Tried) -> bool {
    (0u16..).zip(cluster.members()).any(|(index, member)| member.eligible_for_new() && !but.contains(index))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // 1. Kept.

    #[test]
    fn a_session_is_kept_while_its_backend_can_serve_it(
        world in world(),
        changes in prop::collection::vec((change(), any::<prop::sample::Index>()), 1..12),
        loads in loads(),
        policy in policy(),
        which in any::<prop::sample::Index>(),
        may_hold: bool,
    ) {
        let before = world.cluster();
        let Some(home) = some_keeper(&before, which) else { return Ok(()) };
        let home = number(&before, home);
        let mut world = world;
        for (change, to) in changes {
            change_of(&world, change, to).apply(&mut world);
            let after = world.cluster();
            let Some(member) = after.index_of(Slot(home)) else { continue };
            if !after.members()[usize::from(member)].eligible_for_existing() {
                continue;
            }
            for key in keys(4, world.seed).map(Some).chain([None]) {
                let tried = Tried::default();
                let binding = Binding::To(Slot(home));
                let query = Query { key, binding, tried: &tried, may_hold, random: 7 };
                let decision = pick(&after, policy, &loads.on(&after), &query);
                let kept = Verdict { member, outcome: Outcome::Kept, reason: None, rebind: false };
                prop_assert_eq!(decision, Decision::Send(kept));
            }
        }
    }

    #[test]
    fn sessions_live_through_any_history_and_move_only_when_they_must(
        world in world(),
        history in prop::collection::vec((change(), any::<prop::sample::Index>()), 1..25),
        loads in loads(),
    ) {
        let mut world = world;
        let mut bindings: BTreeMap<KeyHash, u16> = BTreeMap::new();
        for (change, to) in history {
            change_of(&world, change, to).apply(&mut world);
            let cluster = world.cluster();
            for key in keys(12, world.seed) {
                let bound = bindings.get(&key).copied();
                let binding = bound.map_or(Binding::Absent, |number| Binding::To(Slot(number)));
                let decision = ask_under(&cluster, STICKY, &loads.on(&cluster), key, binding);
                let Some(verdict) = verdict(decision) else { continue };
                let serves = number(&cluster, verdict.member);
                let state = bound.and_then(|n| world.nodes.iter().find(|node| node.number == n));
                let able = state.is_some_and(|n| n.health == Health::Up && n.admin != AdminState::Maint);
                match bound {
                    None => prop_assert_eq!(verdict.outcome, Outcome::New),
                    Some(bound) if able => prop_assert_eq!((serves, verdict.outcome), (bound, Outcome::Kept)),
                    Some(bound) => {
                        prop_assert_ne!(serves, bound);
                        prop_assert_eq!(verdict.outcome, Outcome::Moved);
                        let reason = match state {
                            None => Reason::Removed,
                            Some(node) if node.admin == AdminState::Maint => Reason::Maint,
                            Some(_) => Reason::BackendDown,
                        };
                        prop_assert_eq!(verdict.reason, Some(reason));
                    }
                }
                prop_assert_eq!(verdict.rebind, bound != Some(serves), "rebind must be set exactly when the binding changes");
                bindings.insert(key, serves);
                // The binding was rewritten once: the next request changes nothing.
                let binding = Binding::To(Slot(serves));
                let again = ask_under(&cluster, STICKY, &loads.on(&cluster), key, binding);
                let kept = Verdict { outcome: Outcome::Kept, reason: None, rebind: false, ..verdict };
                prop_assert_eq!(again, Decision::Send(kept));
            }
        }
    }

    // No request of one client moves a session of another: what requests see of a backend can make
    // a proxy shun it, and that changes nothing but where new sessions are placed.

    #[test]
    fn shunning_backends_moves_no_session_and_no_heir(
        world in world(), policy in policy(), loads in loads(), tried in tried(), binding in binding(),
        shunned in prop::collection::vec(any::<bool>(), 20), may_hold: bool, random: u64,
    ) {
        let mut other = world.clone();
        for node in &mut other.nodes {
            node.shunned = shunned[usize::from(node.number)];
        }
        let (before, after) = (world.cluster(), other.cluster());
        let existing = matches!(binding, Binding::To(_) | Binding::Unknown | Binding::RingOnly);
        for key in keys(KEYS, world.seed) {
            for member in (0u16..).take(before.members().len()) {
                prop_assert_eq!(successor(&before, key, member), successor(&after, key, member));
            }
            let decide = |cluster: &Cluster| {
                let tried = tried_in(cluster, &tried);
                let query = Query { key: Some(key), binding, tried: &tried, may_hold, random };
                pick(cluster, policy, &loads.on(cluster), &query)
            };
            if existing {
                prop_assert_eq!(decide(&before), decide(&after));
            } else if let Some(v) = verdict(decide(&after)) {
                let tried = tried_in(&after, &tried);
                let better = (0u16..).zip(after.members()).any(|(index, member)| {
                    let full = loads.saturated.contains(&number(&after, index));
                    member.eligible_for_new() && !member.shunned && !full && !tried.contains(index)
                });
                let state = &after.members()[usize::from(v.member)];
                prop_assert!(!state.shunned || !better, "a new session was placed at a shunned backend");
            }
        }
    }

    // 2. New.

    #[test]
    fn a_draining_backend_keeps_its_sessions_and_gets_no_new_ones(world in world(), policy in policy(), loads in loads()) {
        let cluster = world.cluster();
        for key in keys(KEYS, world.seed) {
            for (member, state) in (0u16..).zip(cluster.members()) {
                if state.admin != AdminState::Drain || state.health != Health::Up {
                    continue;
                }
                let kept = ask_under(&cluster, policy, &loads.on(&cluster), key, Binding::To(state.slot));
                let kept = verdict(kept).map(|v| (v.member, v.outcome));
                prop_assert_eq!(kept, Some((member, Outcome::Kept)));
                if anybody_open(&cluster, &Tried::default()) {
                    let lost = [Binding::Expired, Binding::Forged, Binding::Unknown];
                    for binding in [Binding::Absent, Binding::RingOnly].into_iter().chain(lost) {
                        let placed = ask_under(&cluster, policy, &loads.on(&cluster), key, binding);
                        prop_assert_ne!(verdict(placed).map(|v| v.member), Some(member));
                    }
                }
            }
        }
    }

    #[test]
    fn a_new_session_goes_to_the_first_backend_on_its_walk_that_has_room(
        world in world(), percent in 100u32..200, loads in loads(),
    ) {
        let cluster = world.started().cluster();
        let may = |m: u16| cluster.members()[usize::from(m)].eligible_for_new();
        let is_shunned = |m: u16| cluster.members()[usize::from(m)].shunned;
        let all_shunned = (0u16..).take(cluster.members().len()).filter(|&m| may(m)).all(is_shunned);
        let eligible = |m: u16| may(m) && (all_shunned || !is_shunned(m));
        let everyone = || (0u16..).take(cluster.members().len()).filter(|&m| eligible(m));
        let in_flight = |m: u16| u64::from(loads.in_flight[&number(&cluster, m)]);
        let weight = |m: u16| u64::from(cluster.members()[usize::from(m)].weight.get());
        let saturated = |m: u16| loads.saturated.contains(&number(&cluster, m));
        let total: u64 = everyone().map(in_flight).sum();
        let weights: u64 = everyone().map(weight).sum();
        // As the contract defines it, with the division.
        let cap = |m: u16| (u64::from(percent) * (total + 1) * weight(m)).div_ceil(100 * weights);
        let policy = Policy { balance_percent: Some(percent), ..STICKY };
        for key in keys(KEYS, 3) {
            let decision = ask_under(&cluster, policy, &loads.on(&cluster), key, Binding::Absent);
            if everyone().next().is_none() {
                continue;
            }
            let home = cluster.ring().home(key).unwrap();
            let first = cluster.ring().walk(key).find(|&m| eligible(m)).unwrap();
            let has_room = |&m: &u16| eligible(m) && !saturated(m) && in_flight(m) < cap(m);
            let room = cluster.ring().walk(key).find(has_room);
            if let Some(member) = room {
                let verdict = verdict(decision).unwrap();
                prop_assert_eq!((verdict.member, verdict.outcome), (member, Outcome::New));
                prop_assert!(verdict.rebind);
                let full = member != first;
                prop_assert_eq!(verdict.reason == Some(Reason::Capacity), full);
                prop_assert_eq!(verdict.reason.is_none(), !full && member == home);
            } else if everyone().all(saturated) {
                // A shunned backend is better than an error.
                let shunned = cluster.ring().walk(key).find(|&m| may(m) && !saturated(m));
                if shunned.is_some() {
                    prop_assert_eq!(verdict(decision).map(|v| v.member), shunned);
                } else {
                    prop_assert_eq!(decision, Decision::Unavailable(Some(Reason::Capacity)));
                }
            } else {
                // All that are not saturated are at the cap, which never causes an outage.
                let member = verdict(decision).unwrap().member;
                prop_assert!(eligible(member) && !saturated(member));
            }
        }
    }

    #[test]
    fn new_sessions_never_push_a_backend_over_its_cap(
        world in world(),
        percent in 100u32..200,
        arrivals in prop::collection::vec(any::<(u64, bool)>(), 1..150),
    ) {
        let cluster = world.healthy().cluster();
        let policy = Policy { balance_percent: Some(percent), ..STICKY };
        let mut loads = LoadTable { in_flight: BTreeMap::new(), saturated: vec![] };
        let mut open: Vec<u16> = Vec::new();
        let weights: u64 = cluster.members().iter().map(|m| u64::from(m.weight.get())).sum();
        for (random, leaves) in arrivals {
            // Only a few keys, so that most would go to the same backend.
            let key = KeyHash(random % 3);
            let decision = ask_under(&cluster, policy, &loads.on(&cluster), key, Binding::Absent);
            let verdict = verdict(decision).unwrap();
            let placed = number(&cluster, verdict.member);
            *loads.in_flight.entry(placed).or_default() += 1;
            open.push(placed);
            let total = open.len() as u64;
            let weight = u64::from(cluster.members()[usize::from(verdict.member)].weight.get());
            let cap = (u64::from(percent) * total * weight).div_ceil(100 * weights);
            let has = u64::from(loads.in_flight[&placed]);
            prop_assert!(has <= cap, "backend {placed} has {has} of {total} in flight, over its cap of {cap}");
            if leaves {
                let gone = open.swap_remove(usize::try_from(random >> 3).unwrap() % open.len());
                *loads.in_flight.get_mut(&gone).unwrap() -= 1;
            }
        }
    }

    // 3. Failover.

    #[test]
    fn every_proxy_fails_over_to_the_announced_successor(
        world in world(), which in any::<prop::sample::Index>(), one in loads(), two in loads(),
    ) {
        let before = world.cluster();
        let Some(member) = some_keeper(&before, which) else { return Ok(()) };
        let dead = number(&before, member);
        let announced: Vec<_> = keys(KEYS, world.seed)
            .map(|key| successor(&before, key, member).map(|member| number(&before, member)))
            .collect();

        let mut here = world.clone();
        here.node_mut(dead).unwrap().health = Health::Down;
        let mut there = here.clone();
        there.nodes.reverse();
        let (here, there) = (here.cluster(), there.cluster());
        // A failed attempt finds out before any health check does.
        let tried = tried_in(&before, &[dead]);
        for (key, announced) in keys(KEYS, world.seed).zip(announced) {
            let binding = Binding::To(Slot(dead));
            let at_once = Query { key: Some(key), binding, tried: &tried, may_hold: false, random: 0 };
            for (cluster, decision) in [
                (&here, ask_under(&here, STICKY, &one.on(&here), key, binding)),
                (&there, ask_under(&there, STICKY, &two.on(&there), key, binding)),
                (&before, pick(&before, STICKY, &one.on(&before), &at_once)),
            ] {
                prop_assert_eq!(verdict(decision).map(|v| number(cluster, v.member)), announced);
                if let Some(v) = verdict(decision) {
                    let moved = (Outcome::Moved, Some(Reason::BackendDown), true);
                    prop_assert_eq!((v.outcome, v.reason, v.rebind), moved);
                } else {
                    prop_assert_eq!(decision, Decision::Unavailable(Some(Reason::BackendDown)));
                }
            }
        }
    }

    #[test]
    fn a_successor_is_another_backend_that_can_serve(world in world()) {
        let cluster = world.cluster();
        for key in keys(KEYS, world.seed) {
            for member in (0u16..).take(cluster.members().len()) {
                let mut out = Tried::default();
                out.insert(member);
                match successor(&cluster, key, member) {
                    Some(heir) => {
                        let state = &cluster.members()[usize::from(heir)];
                        prop_assert_ne!(heir, member);
                        prop_assert!(state.eligible_for_existing());
                        prop_assert!(state.eligible_for_new() || !anybody_open(&cluster, &out));
                    }
                    None => prop_assert!((0u16..).zip(cluster.members()).all(
                        |(m, state)| m == member || !state.eligible_for_existing()
                    )),
                }
            }
        }
    }

    // 4. Recovery.

    #[test]
    fn recovery_follows_the_failover_policy(
        world in world(), which in any::<prop::sample::Index>(), policy in policy(),
    ) {
        let healthy = world.healthy();
        let before = healthy.cluster();
        let bound = number(&before, some_keeper(&before, which).unwrap());
        let mut hit = healthy.clone();
        hit.node_mut(bound).unwrap().health = Health::Down;
        let during = hit.cluster();
        let tried = Tried::default();
        for key in keys(KEYS, healthy.seed) {
            let mut binding = Binding::To(Slot(bound));
            let query = Query { key: Some(key), binding, tried: &tried, may_hold: true, random: 0 };
            let held = pick(&during, policy, &Idle, &query);
            prop_assert_eq!(held, Decision::Hold(during.index_of(Slot(bound)).unwrap()));

            let decision = ask(&during, policy, key, binding);
            if policy.failover == Failover::None || during.members().len() == 1 {
                prop_assert_eq!(decision, Decision::Unavailable(Some(Reason::BackendDown)));
            } else {
                let moved = verdict(decision).unwrap();
                prop_assert_eq!(moved.rebind, policy.failover == Failover::Sticky);
                if moved.rebind {
                    binding = Binding::To(Slot(number(&during, moved.member)));
                }
                let again = verdict(ask(&during, policy, key, binding)).unwrap();
                prop_assert_eq!(again.member, moved.member, "each request must go to the same heir");
            }
            // The backend is up again.
            let after = verdict(ask(&before, policy, key, binding)).unwrap();
            prop_assert_eq!(after.outcome, Outcome::Kept);
            let returned = number(&before, after.member) == bound;
            prop_assert_eq!(returned, policy.failover != Failover::Sticky || before.members().len() == 1);
        }
    }

    // 7. Nothing silent, and no request goes to a backend that cannot serve it.

    #[test]
    fn every_decision_is_sound(
        world in world(), policy in policy(), loads in loads(), binding in binding(), tried in tried(),
        may_hold: bool, with_key in prop::bool::weighted(0.8), random: u64,
    ) {
        let cluster = world.cluster();
        let tried = tried_in(&cluster, &tried);
        let members = || (0u16..).zip(cluster.members());
        let saturated = |m: u16| loads.saturated.contains(&number(&cluster, m));
        let bound = match binding {
            Binding::To(slot) => cluster.index_of(slot),
            _ => None,
        };
        for key in keys(8, random) {
            let query = Query { key: with_key.then_some(key), binding, tried: &tried, may_hold, random };
            let home = query.key.and_then(|key| cluster.ring().home(key));
            let waits_for = if binding == Binding::RingOnly { home } else { bound };
            match pick(&cluster, policy, &loads.on(&cluster), &query) {
                Decision::Send(v) => {
                    let state = &cluster.members()[usize::from(v.member)];
                    prop_assert!(!tried.contains(v.member), "picked a backend that was tried before");
                    prop_assert!(state.eligible_for_existing(), "picked a backend that cannot serve");
                    let kept = v.outcome == Outcome::Kept;
                    prop_assert!(state.eligible_for_new() || kept || !anybody_open(&cluster, &tried));
                    if kept {
                        prop_assert!(v.reason.is_none() && !v.rebind);
                        prop_assert_eq!(Some(v.member), waits_for);
                    }
                    if v.outcome == Outcome::Moved {
                        prop_assert!(v.reason.is_some(), "moved without a reason");
                        prop_assert_ne!(Some(v.member), waits_for);
                    }
                    if v.outcome == Outcome::New {
                        prop_assert!(!saturated(v.member));
                        let at_home = with_key.then_some(v.member) == home;
                        prop_assert!(v.reason.is_some() || at_home, "placed away from home without a reason");
                    }
                    let never_had_one = matches!(binding, Binding::RingOnly | Binding::Absent);
                    prop_assert_eq!(v.outcome == Outcome::Unkeyed, !with_key && never_had_one);
                }
                Decision::Hold(member) => {
                    prop_assert!(may_hold);
                    prop_assert_eq!(Some(member), waits_for);
                    let state = &cluster.members()[usize::from(member)];
                    prop_assert!(state.admin != AdminState::Maint);
                    prop_assert!(state.health == Health::Down || tried.contains(member));
                }
                Decision::Unavailable(reason) => {
                    let able: Vec<u16> = members()
                        .filter(|(m, state)| state.eligible_for_existing() && !tried.contains(*m))
                        .map(|(m, _)| m)
                        .collect();
                    let gone = waits_for.is_some_and(|m| !able.contains(&m));
                    let refused = policy.failover == Failover::None && gone;
                    let ready = |m: u16| cluster.members()[usize::from(m)].eligible_for_new();
                    let full = reason == Some(Reason::Capacity)
                        && able.iter().filter(|&&m| ready(m)).all(|&m| saturated(m));
                    prop_assert!(able.is_empty() || refused || full, "unavailable ({reason:?}), but {able:?} can serve");
                }
            }
        }
    }

    #[test]
    fn lost_bindings_become_new_sessions_with_a_reason(world in world(), policy in policy(), loads in loads()) {
        let cluster = world.cluster();
        for key in keys(KEYS, world.seed) {
            let decide = |binding| verdict(ask_under(&cluster, policy, &loads.on(&cluster), key, binding));
            let fresh = decide(Binding::Absent);
            let lost = [(Binding::Expired, Reason::Expired), (Binding::Forged, Reason::Forged)];
            for (binding, reason) in lost {
                let placed = fresh.map(|v| Verdict { reason: Some(reason), ..v });
                prop_assert_eq!(decide(binding), placed);
            }
        }
    }

    #[test]
    fn sessions_of_a_removed_backend_are_rebound_once(
        world in world(), policy in policy(), loads in loads(),
    ) {
        let cluster = world.cluster();
        for key in keys(KEYS, world.seed) {
            let decide = |binding| verdict(ask_under(&cluster, policy, &loads.on(&cluster), key, binding));
            for binding in [Binding::Unknown, Binding::To(Slot(77))] {
                let Some(v) = decide(binding) else { continue };
                let moved = (Outcome::Moved, Some(Reason::Removed), true);
                prop_assert_eq!((v.outcome, v.reason, v.rebind), moved);
                let slot = cluster.members()[usize::from(v.member)].slot;
                let next = decide(Binding::To(slot)).unwrap();
                prop_assert_eq!((next.member, next.outcome), (v.member, Outcome::Kept));
            }
        }
    }
}
