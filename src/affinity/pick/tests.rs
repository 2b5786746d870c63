//! One test for each rule of the pick, on small clusters. `tests/property/contract.rs` tests the
//! same rules on random clusters.

use std::sync::Arc;

use super::*;
use crate::affinity::ring::Ring;
use crate::affinity::{BackendId, Member, Seed, Weight};

const STICKY: Policy = Policy { failover: Failover::Sticky, balance_percent: Some(125), checked: false };
const CHECKED: Policy = Policy { checked: true, ..STICKY };
const TEMPORARY: Policy = Policy { failover: Failover::Temporary, ..STICKY };
const NO_FAILOVER: Policy = Policy { failover: Failover::None, ..STICKY };

/// Members a, b, c … with slots 10, 11, 12 …
fn members(count: u16) -> Vec<Member> {
    let id = |n: u16| format!("node-{n}").parse::<BackendId>().unwrap();
    let member = |n| Member {
        id: id(n),
        slot: slot(n),
        weight: Weight::ONE,
        admin: AdminState::Ready,
        health: Health::Up,
        shunned: false,
        active_points: u32::MAX,
    };
    (0..count).map(member).collect()
}

fn slot(member: u16) -> Slot {
    Slot(member + 10)
}

fn cluster(members: Vec<Member>) -> Cluster {
    let backends: Vec<_> = members.iter().map(|m| (m.id.clone(), m.weight)).collect();
    Cluster::new(Arc::new(Ring::build(Seed(1), 64, &backends)), members)
}

/// Three members after `change`, and a key with the walk (home, next, last).
fn three(change: impl FnOnce(&mut [Member], [u16; 3])) -> (Cluster, KeyHash, [u16; 3]) {
    let mut members = members(3);
    let key = KeyHash(0x1234_5678_9abc_def0);
    let walk: Vec<u16> = cluster(members.clone()).ring().walk(key).collect();
    let walk = [walk[0], walk[1], walk[2]];
    change(&mut members, walk);
    (cluster(members), key, walk)
}

#[derive(Default, Clone)]
struct Fixed {
    in_flight: Vec<u32>,
    saturated: Vec<u16>,
}

impl Loads for Fixed {
    fn in_flight(&self, index: u16) -> u32 {
        self.in_flight.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn saturated(&self, index: u16) -> bool {
        self.saturated.contains(&index)
    }
}

static NONE_TRIED: Tried = Tried { members: Vec::new(), refused: Vec::new() };

fn ask(key: KeyHash, binding: Binding) -> Query<'static> {
    Query { key: Some(key), binding, tried: &NONE_TRIED, may_hold: false, random: 0 }
}

fn sent(member: u16, outcome: Outcome, reason: Option<Reason>, rebind: bool) -> Decision {
    Decision::Send(Verdict { member, outcome, reason, rebind })
}

#[test]
fn loaded_or_draining_backend_keeps_its_sessions() {
    let (cluster, key, [_, _, last]) = three(|m, [_, _, last]| {
        m[usize::from(last)].admin = AdminState::Drain;
        m[usize::from(last)].active_points = 1;
    });
    let loads = Fixed { in_flight: vec![1000; 3], saturated: vec![0, 1, 2] };
    let decision = pick(&cluster, STICKY, &loads, &ask(key, Binding::To(slot(last))));
    assert_eq!(decision, sent(last, Outcome::Kept, None, false));
}

#[test]
fn session_without_a_key_is_kept_by_its_binding() {
    let (cluster, key, [_, next, _]) = three(|_, _| ());
    let query = Query { key: None, ..ask(key, Binding::To(slot(next))) };
    assert_eq!(pick(&cluster, STICKY, &Idle, &query), sent(next, Outcome::Kept, None, false));
}

#[test]
fn new_session_of_a_known_client_is_placed_where_the_client_has_been() {
    let (cluster, key, [home, next, _]) = three(|_, _| ());
    let near = |member| ask(key, Binding::Hint(slot(member)));
    let new = |member, reason| sent(member, Outcome::New, reason, true);
    assert_eq!(pick(&cluster, STICKY, &Idle, &near(next)), new(next, Some(Reason::Hint)));
    assert_eq!(pick(&cluster, STICKY, &Idle, &near(home)), new(home, None));
    let unkeyed = Query { key: None, ..near(next) };
    let decision = pick(&cluster, STICKY, &Idle, &unkeyed);
    assert_eq!(decision, sent(next, Outcome::Unkeyed, Some(Reason::Hint), true));
}

#[test]
fn hint_never_leads_to_a_backend_without_room_for_new_sessions() {
    let (whole, key, [home, next, _]) = three(|_, _| ());
    let (drained, ..) = three(|m, [_, next, _]| m[usize::from(next)].admin = AdminState::Drain);
    let (down, ..) = three(|m, [_, next, _]| m[usize::from(next)].health = Health::Down);
    let full = Fixed { saturated: vec![next], ..Fixed::default() };
    let mut loaded = Fixed { in_flight: vec![0; 3], ..Fixed::default() };
    loaded.in_flight[usize::from(next)] = 100;
    let mut tried = Tried::default();
    tried.insert(next);
    let idle = Fixed::default();
    for (cluster, loads, tried) in [
        (&drained, &idle, &NONE_TRIED),
        (&down, &idle, &NONE_TRIED),
        (&whole, &full, &NONE_TRIED),
        (&whole, &loaded, &NONE_TRIED),
        (&whole, &idle, &tried),
    ] {
        let query = Query { tried, may_hold: true, ..ask(key, Binding::Hint(slot(next))) };
        assert_eq!(pick(cluster, STICKY, loads, &query), sent(home, Outcome::New, None, true));
    }
}

#[test]
fn sticky_failover_rebinds_and_temporary_does_not() {
    let (cluster, key, [home, next, _]) = three(|m, [home, ..]| m[usize::from(home)].health = Health::Down);
    let query = ask(key, Binding::To(slot(home)));
    let moved = |rebind| sent(next, Outcome::Moved, Some(Reason::BackendDown), rebind);
    assert_eq!(pick(&cluster, STICKY, &Idle, &query), moved(true));
    assert_eq!(pick(&cluster, TEMPORARY, &Idle, &query), moved(false));
    let refused = Decision::Unavailable(Some(Reason::BackendDown));
    assert_eq!(pick(&cluster, NO_FAILOVER, &Idle, &query), refused);
}

#[test]
fn failover_ignores_loads_so_that_every_proxy_agrees() {
    let (cluster, key, [home, next, _]) = three(|m, [home, ..]| m[usize::from(home)].health = Health::Down);
    let mut loads = Fixed { in_flight: vec![0; 3], saturated: vec![next] };
    loads.in_flight[usize::from(next)] = 1000;
    let decision = pick(&cluster, STICKY, &loads, &ask(key, Binding::To(slot(home))));
    assert_eq!(decision, sent(next, Outcome::Moved, Some(Reason::BackendDown), true));
}

#[test]
fn failed_attempt_counts_as_down() {
    let (cluster, key, [home, next, last]) = three(|_, _| ());
    let mut tried = Tried::default();
    tried.insert(home);
    let query = Query { tried: &tried, ..ask(key, Binding::To(slot(home))) };
    assert_eq!(
        pick(&cluster, STICKY, &Idle, &query),
        sent(next, Outcome::Moved, Some(Reason::BackendDown), true)
    );
    // Checks will tell whether it is down. Until then, only this request moves.
    assert_eq!(
        pick(&cluster, CHECKED, &Idle, &query),
        sent(next, Outcome::Moved, Some(Reason::BackendDown), false)
    );
    // Where nothing listens, the session is gone. It begins anew at its heir, and must stay there.
    let mut refused = Tried::default();
    refused.insert_refused(home);
    let query = Query { tried: &refused, ..ask(key, Binding::To(slot(home))) };
    assert_eq!(
        pick(&cluster, CHECKED, &Idle, &query),
        sent(next, Outcome::Moved, Some(Reason::BackendDown), true)
    );

    let mut tried = tried.clone();
    tried.insert(next);
    for binding in [Binding::To(slot(home)), Binding::RingOnly] {
        let query = Query { tried: &tried, ..ask(key, binding) };
        let rebind = binding != Binding::RingOnly;
        let moved = sent(last, Outcome::Moved, Some(Reason::BackendDown), rebind);
        assert_eq!(pick(&cluster, STICKY, &Idle, &query), moved);
    }
    let query = Query { tried: &tried, ..ask(key, Binding::Absent) };
    assert_eq!(
        pick(&cluster, STICKY, &Idle, &query),
        sent(last, Outcome::New, Some(Reason::BackendDown), true)
    );

    let mut tried = tried.clone();
    tried.insert(last);
    for binding in [Binding::To(slot(home)), Binding::RingOnly, Binding::Absent] {
        let query = Query { tried: &tried, ..ask(key, binding) };
        let refused = Decision::Unavailable(Some(Reason::BackendDown));
        assert_eq!(pick(&cluster, STICKY, &Idle, &query), refused);
    }
}

#[test]
fn hold_waits_for_a_backend_that_is_down_but_not_for_maintenance() {
    for (policy, binds) in [(STICKY, true), (TEMPORARY, true), (NO_FAILOVER, true), (STICKY, false)] {
        let binding = |home| if binds { Binding::To(slot(home)) } else { Binding::RingOnly };
        let (down, key, [home, ..]) = three(|m, [home, ..]| m[usize::from(home)].health = Health::Down);
        let query = Query { may_hold: true, ..ask(key, binding(home)) };
        assert_eq!(pick(&down, policy, &Idle, &query), Decision::Hold(home));

        let (up, key, [home, ..]) = three(|_, _| ());
        let mut tried = Tried::default();
        tried.insert(home);
        let query = Query { may_hold: true, tried: &tried, ..ask(key, binding(home)) };
        assert_eq!(pick(&up, policy, &Idle, &query), Decision::Hold(home));

        let (maint, key, [home, ..]) = three(|m, [home, ..]| {
            m[usize::from(home)].admin = AdminState::Maint;
            m[usize::from(home)].health = Health::Down;
        });
        let query = Query { may_hold: true, ..ask(key, binding(home)) };
        assert!(!matches!(pick(&maint, policy, &Idle, &query), Decision::Hold(_)));
    }
}

#[test]
fn new_sessions_are_not_held() {
    let (cluster, key, [_, next, _]) = three(|m, [home, ..]| m[usize::from(home)].health = Health::Down);
    let query = Query { may_hold: true, ..ask(key, Binding::Absent) };
    assert_eq!(
        pick(&cluster, STICKY, &Idle, &query),
        sent(next, Outcome::New, Some(Reason::BackendDown), true)
    );
}

#[test]
fn sessions_of_a_removed_backend_are_rebound_under_every_policy() {
    let (cluster, key, [home, ..]) = three(|_, _| ());
    for policy in [STICKY, TEMPORARY, NO_FAILOVER] {
        for binding in [Binding::Unknown, Binding::To(Slot(999))] {
            let decision = pick(&cluster, policy, &Idle, &ask(key, binding));
            assert_eq!(decision, sent(home, Outcome::Moved, Some(Reason::Removed), true));
        }
    }
}

#[test]
fn new_session_goes_home() {
    let (cluster, key, [home, ..]) = three(|_, _| ());
    for (binding, reason) in [
        (Binding::Absent, None),
        (Binding::Expired, Some(Reason::Expired)),
        (Binding::Forged, Some(Reason::Forged)),
    ] {
        let decision = pick(&cluster, STICKY, &Idle, &ask(key, binding));
        assert_eq!(decision, sent(home, Outcome::New, reason, true));
    }
}

#[test]
fn new_session_has_a_reason_if_not_at_home() {
    let because = |change: fn(&mut Member)| {
        let (cluster, key, [_, next, _]) = three(|m, [home, ..]| change(&mut m[usize::from(home)]));
        match pick(&cluster, STICKY, &Idle, &ask(key, Binding::Absent)) {
            Decision::Send(Verdict { member, outcome: Outcome::New, reason, rebind: true }) => {
                assert_eq!(member, next);
                reason
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(because(|home| home.health = Health::Down), Some(Reason::BackendDown));
    assert_eq!(because(|home| home.admin = AdminState::Drain), Some(Reason::Drained));
    assert_eq!(because(|home| home.admin = AdminState::Maint), Some(Reason::Maint));
    assert_eq!(because(|home| home.active_points = 1), Some(Reason::Capacity), "slow start");
}

#[test]
fn new_session_skips_full_members() {
    let (cluster, key, [home, next, last]) = three(|_, _| ());
    let query = ask(key, Binding::Absent);
    let elsewhere = |member| sent(member, Outcome::New, Some(Reason::Capacity), true);

    let mut at_cap = Fixed { in_flight: vec![0; 3], saturated: vec![] };
    at_cap.in_flight[usize::from(home)] = 1;
    // ⌈1.25 × 2 / 3⌉ = 1, and one is in flight.
    assert_eq!(pick(&cluster, STICKY, &at_cap, &query), elsewhere(next));
    let uncapped = Policy { balance_percent: None, ..STICKY };
    assert_eq!(pick(&cluster, uncapped, &at_cap, &query), sent(home, Outcome::New, None, true));

    let full = Fixed { in_flight: vec![0; 3], saturated: vec![home, next] };
    assert_eq!(pick(&cluster, uncapped, &full, &query), elsewhere(last));

    let all_full = Fixed { in_flight: vec![0; 3], saturated: vec![0, 1, 2] };
    let refused = Decision::Unavailable(Some(Reason::Capacity));
    assert_eq!(pick(&cluster, STICKY, &all_full, &query), refused);
    let unkeyed = Query { key: None, ..query };
    assert_eq!(pick(&cluster, STICKY, &all_full, &unkeyed), refused);
}

#[test]
fn cap_is_the_mean_times_the_balance_rounded_up() {
    let mut members = members(2);
    members[1].weight = Weight::new(3).unwrap();
    let cluster = cluster(members);
    // 40 in flight including the new one, weights 1 : 3, so the caps are 12.5 and 37.5.
    let cap = Cap::new(&cluster, &Fixed { in_flight: vec![20, 19], saturated: vec![] }, 125);
    assert!(cap.admits(0, 12) && !cap.admits(0, 13), "the cap is 13, including the new one");
    assert!(cap.admits(1, 37) && !cap.admits(1, 38));
    // A whole number is its own ceiling.
    let cap = Cap::new(&cluster, &Fixed { in_flight: vec![20, 19], saturated: vec![] }, 100);
    assert!(cap.admits(0, 9) && !cap.admits(0, 10));
}

#[test]
fn cap_does_not_overflow() {
    let cluster = cluster(members(2));
    let cap = Cap::new(&cluster, &Fixed { in_flight: vec![u32::MAX; 2], saturated: vec![] }, u32::MAX);
    assert!(cap.admits(0, u32::MAX));
}

#[test]
fn least_loaded_takes_it_if_all_are_over_their_cap() {
    let (cluster, key, [home, next, last]) = three(|_, _| ());
    let too_tight = Policy { balance_percent: Some(10), ..STICKY };
    let mut loads = Fixed { in_flight: vec![9; 3], saturated: vec![] };
    loads.in_flight[usize::from(last)] = 8;
    let decision = pick(&cluster, too_tight, &loads, &ask(key, Binding::Absent));
    assert_eq!(decision, sent(last, Outcome::New, Some(Reason::Capacity), true));
    loads.saturated.push(last);
    let decision = pick(&cluster, too_tight, &loads, &ask(key, Binding::Absent));
    assert_eq!(decision, sent(home, Outcome::New, None, true), "the first of {home} and {next} on the walk");
}

#[test]
fn slow_start_shrinks_the_cap_with_the_share() {
    // One of two has a hundredth of its points: the other carries the load and must not reach a cap
    // that counts on half of it being elsewhere.
    let mut members = members(2);
    members[1].active_points = 1;
    let cluster = cluster(members);
    let loads = Fixed { in_flight: vec![100, 1], saturated: vec![] };
    let cap = Cap::new(&cluster, &loads, 125);
    assert!(cap.admits(0, 100));
    assert!(!cap.admits(1, 2));
}

#[test]
fn shunned_backend_gets_no_new_sessions_but_keeps_what_it_has() {
    let (cluster, key, [home, next, _]) = three(|m, [home, ..]| m[usize::from(home)].shunned = true);
    let decide = |binding| pick(&cluster, STICKY, &Idle, &ask(key, binding));
    assert_eq!(decide(Binding::Absent), sent(next, Outcome::New, Some(Reason::Shunned), true));
    assert_eq!(decide(Binding::Expired), sent(next, Outcome::New, Some(Reason::Expired), true));
    assert_eq!(decide(Binding::To(slot(home))), sent(home, Outcome::Kept, None, false));
    assert_eq!(decide(Binding::RingOnly), sent(home, Outcome::Kept, None, false));
    // A failover ignores it: the heir was announced.
    assert_eq!(decide(Binding::Unknown), sent(home, Outcome::Moved, Some(Reason::Removed), true));
    assert_eq!(successor(&cluster, key, next), Some(home));
    for random in 0..100_u64 {
        let query = Query { key: None, random: random << 32 | random, ..ask(key, Binding::Absent) };
        let Decision::Send(verdict) = pick(&cluster, STICKY, &Idle, &query) else { panic!("a verdict") };
        assert_ne!(verdict.member, home, "a request without a session went to a shunned backend");
    }
}

#[test]
fn shunned_backend_is_better_than_a_draining_one_or_an_error() {
    let (cluster, key, [home, next, last]) = three(|m, [home, next, last]| {
        m[usize::from(home)].admin = AdminState::Drain;
        m[usize::from(next)].shunned = true;
        m[usize::from(last)].health = Health::Down;
    });
    let new = ask(key, Binding::Absent);
    assert_eq!(pick(&cluster, STICKY, &Idle, &new), sent(next, Outcome::New, Some(Reason::Drained), true));
    let (cluster, _, _) = three(|m, [home, ..]| m[usize::from(home)].shunned = true);
    let mut tried = Tried::default();
    tried.insert(next);
    tried.insert(last);
    let after_failures = Query { tried: &tried, ..ask(key, Binding::Absent) };
    let taken = sent(home, Outcome::New, Some(Reason::Shunned), true);
    assert_eq!(pick(&cluster, STICKY, &Idle, &after_failures), taken);
    let full = Fixed { in_flight: vec![0; 3], saturated: vec![next, last] };
    assert_eq!(pick(&cluster, STICKY, &full, &new), sent(home, Outcome::New, Some(Reason::Capacity), true));
    let unkeyed = Query { key: None, ..new };
    assert_eq!(pick(&cluster, STICKY, &full, &unkeyed), sent(home, Outcome::Unkeyed, None, true));
}

#[test]
fn draining_backend_is_the_last_resort() {
    let (cluster, key, [home, next, _]) = three(|m, [home, next, last]| {
        m[usize::from(home)].health = Health::Down;
        m[usize::from(next)].admin = AdminState::Drain;
        m[usize::from(last)].health = Health::Down;
    });
    let down = Some(Reason::BackendDown);
    let decide = |binding| pick(&cluster, STICKY, &Idle, &ask(key, binding));
    assert_eq!(decide(Binding::Absent), sent(next, Outcome::New, down, true));
    assert_eq!(decide(Binding::To(slot(home))), sent(next, Outcome::Moved, down, true));
    assert_eq!(decide(Binding::RingOnly), sent(next, Outcome::Moved, down, false));
    assert_eq!(successor(&cluster, key, home), Some(next));
    assert_eq!(successor(&cluster, key, next), None);
    let unkeyed = Query { key: None, ..ask(key, Binding::Absent) };
    assert_eq!(pick(&cluster, STICKY, &Idle, &unkeyed), sent(next, Outcome::Unkeyed, None, true));

    let full = Fixed { in_flight: vec![], saturated: vec![next] };
    let refused = Decision::Unavailable(Some(Reason::Capacity));
    assert_eq!(pick(&cluster, STICKY, &full, &ask(key, Binding::Absent)), refused);
    assert_eq!(pick(&cluster, STICKY, &full, &unkeyed), refused);
}

#[test]
fn new_session_on_a_draining_home_has_the_reason() {
    let (cluster, key, [home, ..]) = three(|m, _| m.iter_mut().for_each(|m| m.admin = AdminState::Drain));
    let decide = |binding| pick(&cluster, STICKY, &Idle, &ask(key, binding));
    assert_eq!(decide(Binding::Absent), sent(home, Outcome::New, Some(Reason::Drained), true));
    assert_eq!(decide(Binding::RingOnly), sent(home, Outcome::Kept, None, false));
}

#[test]
fn requests_without_a_key_spread_over_draining_backends() {
    let mut members = members(3);
    for member in &mut members {
        member.admin = AdminState::Drain;
    }
    members[2].weight = Weight::new(4).unwrap();
    let cluster = cluster(members);
    let query = Query { key: None, ..ask(KeyHash(0), Binding::RingOnly) };
    let loads = Fixed { in_flight: vec![2, 3, 7], saturated: vec![] };
    assert_eq!(pick(&cluster, STICKY, &loads, &query), sent(2, Outcome::Unkeyed, None, false));
}

#[test]
fn draining_backend_gets_no_new_sessions_if_others_are_full() {
    let (cluster, key, [home, next, _]) =
        three(|m, [_, _, last]| m[usize::from(last)].admin = AdminState::Drain);
    let loads = Fixed { in_flight: vec![], saturated: vec![home, next] };
    let refused = Decision::Unavailable(Some(Reason::Capacity));
    assert_eq!(pick(&cluster, STICKY, &loads, &ask(key, Binding::Absent)), refused);
}

#[test]
fn unavailable_has_the_reason_of_the_home() {
    let (cluster, key, [home, ..]) = three(|m, [home, ..]| {
        for member in m.iter_mut() {
            member.health = Health::Down;
        }
        m[usize::from(home)].admin = AdminState::Maint;
    });
    let maint = Decision::Unavailable(Some(Reason::Maint));
    for binding in [Binding::Absent, Binding::RingOnly, Binding::To(slot(home))] {
        assert_eq!(pick(&cluster, STICKY, &Idle, &ask(key, binding)), maint);
    }
    let unkeyed = Query { key: None, ..ask(key, Binding::Absent) };
    assert_eq!(pick(&cluster, STICKY, &Idle, &unkeyed), Decision::Unavailable(None));
}

#[test]
fn empty_cluster_is_unavailable() {
    let empty = cluster(vec![]);
    for binding in [Binding::Absent, Binding::RingOnly] {
        for key in [None, Some(KeyHash(1))] {
            let query = Query { key, ..ask(KeyHash(1), binding) };
            assert_eq!(pick(&empty, STICKY, &Idle, &query), Decision::Unavailable(None));
        }
    }
}

#[test]
fn ring_only_keeps_a_key_at_home_or_has_a_reason() {
    let decide = |change: fn(&mut Member)| {
        let (cluster, key, walk) = three(|m, [home, ..]| change(&mut m[usize::from(home)]));
        (pick(&cluster, STICKY, &Idle, &ask(key, Binding::RingOnly)), walk)
    };
    let (decision, [home, ..]) = decide(|_| ());
    assert_eq!(decision, sent(home, Outcome::Kept, None, false));
    for (change, reason) in [
        ((|m| m.health = Health::Down) as fn(&mut Member), Reason::BackendDown),
        (|m| m.admin = AdminState::Drain, Reason::Drained),
        (|m| m.admin = AdminState::Maint, Reason::Maint),
        (|m| m.active_points = 1, Reason::Capacity),
    ] {
        let (decision, [_, next, _]) = decide(change);
        assert_eq!(decision, sent(next, Outcome::Moved, Some(reason), false));
    }
}

#[test]
fn ring_only_honours_failover_none() {
    for (change, refused) in [
        ((|m| m.health = Health::Down) as fn(&mut Member), true),
        (|m| m.admin = AdminState::Maint, true),
        (|m| m.admin = AdminState::Drain, false),
        (|m| m.active_points = 1, false),
    ] {
        let (cluster, key, _) = three(|m, [home, ..]| change(&mut m[usize::from(home)]));
        let decision = pick(&cluster, NO_FAILOVER, &Idle, &ask(key, Binding::RingOnly));
        assert_eq!(matches!(decision, Decision::Unavailable(_)), refused, "{decision:?}");
    }
}

#[test]
fn requests_without_a_key_go_to_the_less_loaded_of_two() {
    let cluster = cluster(members(2));
    let query = |random| Query { key: None, random, ..ask(KeyHash(0), Binding::RingOnly) };
    for random in (0..64).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
        // Two members, two draws: always both.
        let loads = Fixed { in_flight: vec![5, 4], saturated: vec![] };
        assert_eq!(pick(&cluster, STICKY, &loads, &query(random)), sent(1, Outcome::Unkeyed, None, false));
        let loads = Fixed { in_flight: vec![5, 4], saturated: vec![1] };
        assert_eq!(pick(&cluster, STICKY, &loads, &query(random)), sent(0, Outcome::Unkeyed, None, false));
    }
}

#[test]
fn requests_without_a_key_are_drawn_by_weight() {
    let mut members = members(4);
    members[0].weight = Weight::new(5).unwrap();
    members[3].health = Health::Down;
    let cluster = cluster(members);
    let mut seen = [0; 4];
    let mut random = 1u64;
    for _ in 0..7000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = random ^ random >> 29;
        let query = Query { key: None, random: mixed, ..ask(KeyHash(0), Binding::RingOnly) };
        let Decision::Send(verdict) = pick(&cluster, STICKY, &Idle, &query) else { panic!("nobody") };
        seen[usize::from(verdict.member)] += 1;
    }
    // At equal loads the first draw decides: 5 : 1 : 1 of 7000.
    assert_eq!(seen[3], 0);
    for (seen, ideal) in seen.into_iter().zip([5000i32, 1000, 1000]) {
        assert!((seen - ideal).abs() < 150, "{seen} of {ideal}");
    }
}

#[test]
fn another_member_is_found_if_both_draws_are_unusable() {
    let cluster = cluster(members(12));
    let only = 7;
    let loads = Fixed { in_flight: vec![], saturated: (0..12).filter(|&m| m != only).collect() };
    for random in (0..64).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
        let query = Query { key: None, random, ..ask(KeyHash(0), Binding::RingOnly) };
        assert_eq!(pick(&cluster, STICKY, &loads, &query), sent(only, Outcome::Unkeyed, None, false));
    }
}

#[test]
fn session_without_a_key_that_must_move_is_balanced() {
    let mut members = members(3);
    members[0].health = Health::Down;
    let cluster = cluster(members);
    let query = Query { key: None, ..ask(KeyHash(0), Binding::To(slot(0))) };
    let loads = Fixed { in_flight: vec![0, 9, 3], saturated: vec![] };
    let moved = sent(2, Outcome::Moved, Some(Reason::BackendDown), true);
    assert_eq!(pick(&cluster, STICKY, &loads, &query), moved);
    let new = Query { key: None, ..ask(KeyHash(0), Binding::Expired) };
    assert_eq!(pick(&cluster, STICKY, &loads, &new), sent(2, Outcome::New, Some(Reason::Expired), true));
}
