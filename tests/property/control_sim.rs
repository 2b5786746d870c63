//! A seeded simulation of the control plane, with random health checks, reports, operator
//! commands, reloads and passing time. Every invariant is checked after each event. `SEED=n`
//! replays one run.

#![expect(clippy::unwrap_used, reason = "the simulation only looks up what it inserted")]

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use homing::affinity::ring::Ring;
use homing::affinity::{AdminState, BackendId, Health, Member, Slot};
use homing::control::probe::{ProbeFailure, ProbeResult};
use homing::control::{ControlState, Effects, Event};
use homing::model::Upstream;
use homing::model::live::BackendLive;
use homing::model::snapshot::{Memory, Observation, Report, Snapshot};

use self::configs::{IDS, MAX_RISE, NAMES, mutated, random_config};

mod configs;

const SEEDS: u64 = 128;
const EVENTS: u32 = 500;
const WORKERS: usize = 2;
const FAIL: ProbeResult = ProbeResult::Fail(ProbeFailure::Connect(ErrorKind::ConnectionRefused));

#[test]
fn the_control_state_keeps_its_invariants_under_any_events() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..SEEDS).collect(),
    };
    let mut seen = Seen::default();
    for seed in seeds {
        let _replay = Replay(seed);
        let mut sim = Sim::new(seed);
        for _ in 0..EVENTS {
            sim.step(&mut seen);
        }
        sim.heal();
    }
    // A simulation in which nothing happens proves nothing.
    if std::env::var("SEED").is_err() {
        let Seen { downs, ejections, ups, reloads, ramps, spared } = seen;
        assert!(
            [downs, ejections, ups, reloads, ramps, spared].iter().all(|&n| n > 100),
            "downs {downs}, ejections {ejections}, ups {ups}, reloads {reloads}, ramps {ramps}, spared {spared}"
        );
    }
}

/// Prints how to replay a run that panics.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with SEED={}", self.0);
        }
    }
}

/// Counts of the events worth testing.
#[derive(Default)]
struct Seen {
    downs: u32,
    ejections: u32,
    ups: u32,
    reloads: u32,
    ramps: u32,
    spared: u32,
}

type Key = (Arc<str>, BackendId);
/// The inputs of a ring: seed, virtual nodes, ids and weights.
type RingOf = (u64, u32, Vec<(BackendId, u16)>);

/// What the simulation expects of a backend, from the documented rules.
#[derive(Clone, Default)]
struct Known {
    operator: Option<AdminState>,
    drains: bool,
    /// Passes in a row since it went down or was last unwatched.
    passes: u32,
    /// Failures in a row since it came up or was last unwatched.
    fails: u32,
    /// Failed requests since the last success.
    failed_requests: u32,
    /// 5xx responses since it came up.
    server_errors: u32,
    /// When failed requests ejected it, and for how long at least.
    ejected: Option<(Duration, Duration)>,
    /// The end of its trial, if it may be on trial.
    trial_until: Option<Duration>,
}

struct Sim {
    rng: Rng,
    state: ControlState,
    now: Duration,
    known: HashMap<Key, Known>,
    slots: HashMap<Key, Slot>,
    ids: HashMap<(Arc<str>, Slot), BackendId>,
    live: HashMap<Key, Arc<BackendLive>>,
    digests: HashMap<RingOf, u64>,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let config = random_config(&mut rng);
        let state = ControlState::new(config, WORKERS, Duration::ZERO);
        let mut sim = Self {
            rng,
            state,
            now: Duration::ZERO,
            known: HashMap::new(),
            slots: HashMap::new(),
            ids: HashMap::new(),
            live: HashMap::new(),
            digests: HashMap::new(),
        };
        sim.forget_the_gone();
        sim.check_invariants();
        sim
    }

    fn step(&mut self, seen: &mut Seen) {
        let before = self.state.snapshot();
        let wakeup = self.state.next_wakeup();
        if self.rng.u32(..3) == 0 {
            self.now += Duration::from_millis(self.rng.u64(..3_000));
        }
        let event = self.random_event(&before);
        let effects = self.state.apply(event.clone(), self.now);
        let after = self.state.snapshot();

        assert_eq!(
            effects.changed,
            !Arc::ptr_eq(&before, &after),
            "`changed` must be set exactly when there is a new snapshot"
        );
        assert_eq!(after.generation, before.generation + u64::from(effects.changed));
        if matches!(event, Event::Tick) && wakeup.is_none_or(|at| self.now < at) {
            assert!(
                !effects.changed,
                "a tick before next_wakeup ({wakeup:?}) changed something at {:?}",
                self.now
            );
        }
        if let Some(at) = self.state.next_wakeup() {
            assert!(at > self.now || !matches!(event, Event::Tick), "a tick left something due");
        }
        if let Event::Configure(config) = &event {
            assert_eq!(*after.config, **config);
            let same = *before.config == **config;
            let due = wakeup.is_some_and(|at| self.now >= at);
            assert!(if same { due || !effects.changed } else { effects.changed });
            seen.reloads += u32::from(!same);
            self.reconfigured(&before, &after);
        }
        self.expect(&event, &before);
        self.transitions(&event, &effects, &before, &after, seen);
        self.check_invariants();
    }

    fn random_event(&mut self, snapshot: &Snapshot) -> Event {
        // Sometimes a name or slot that does not exist.
        let stranger = self.rng.u32(..50) == 0;
        let upstream: Arc<str> = if stranger {
            NAMES[self.rng.usize(..NAMES.len())].into()
        } else {
            Arc::clone(&snapshot.upstreams[self.rng.usize(..snapshot.upstreams.len())].config.name)
        };
        let state = snapshot.upstreams.iter().find(|u| u.config.name == upstream);
        let members = state.map_or(&[][..], |u| u.cluster.members());
        let (backend, slot) = if stranger || members.is_empty() {
            (IDS[self.rng.usize(..IDS.len())].parse().unwrap(), Slot(self.rng.u16(..8)))
        } else {
            // Mostly the first ones, so that several events in a row hit the same backend.
            let index = self.rng.usize(..members.len()).min(self.rng.usize(..members.len()));
            (members[index].id.clone(), members[index].slot)
        };
        match self.rng.u32(..100) {
            0..45 => {
                let result = match self.rng.u32(..20) {
                    0..9 => ProbeResult::Pass,
                    9..19 => FAIL,
                    _ => ProbeResult::Drain,
                };
                Event::Probe { upstream, slot, result }
            }
            45..75 => {
                let observation = match self.rng.u32(..10) {
                    0..5 => Observation::Failed,
                    5..9 => Observation::ServerError,
                    _ => Observation::Recovered,
                };
                Event::Passive(Report { upstream, slot, observation })
            }
            75..82 => {
                let state = match self.rng.u32(..8) {
                    0..5 => AdminState::Ready,
                    5..7 => AdminState::Drain,
                    _ => AdminState::Maint,
                };
                Event::Admin { upstream, backend, state }
            }
            82..85 if self.rng.bool() => Event::Configure(Arc::new((*snapshot.config).clone())),
            82..85 => Event::Configure(mutated(&snapshot.config, &mut self.rng)),
            _ => Event::Tick,
        }
    }

    /// Updates what the simulation expects, by the documented rules.
    fn expect(&mut self, event: &Event, before: &Snapshot) {
        match event {
            Event::Probe { upstream, slot, result } => {
                let Some((rules, member)) = member(before, upstream, *slot) else { return };
                if rules.health_check.is_none() || member.admin == AdminState::Maint {
                    return;
                }
                let known = self.known.get_mut(&(Arc::clone(upstream), member.id.clone())).unwrap();
                if *result == FAIL {
                    (known.passes, known.fails) = (0, known.fails + 1);
                } else {
                    (known.passes, known.fails) = (known.passes + 1, 0);
                    known.drains = *result == ProbeResult::Drain;
                }
            }
            Event::Passive(Report { upstream, slot, observation }) => {
                let Some((rules, member)) = member(before, upstream, *slot) else { return };
                let down_or_maint = !member.eligible_for_existing();
                if rules.passive.is_none() || down_or_maint {
                    return;
                }
                let known = self.known.get_mut(&(Arc::clone(upstream), member.id.clone())).unwrap();
                match observation {
                    Observation::Failed | Observation::BrokenOff(_) => known.failed_requests += 1,
                    Observation::ServerError => known.server_errors += 1,
                    Observation::Recovered => known.failed_requests = 0,
                }
            }
            Event::Admin { upstream, backend, state } => {
                let Some(rules) = before.config.upstreams.iter().find(|u| u.name == *upstream) else {
                    return;
                };
                let Some(file) = rules.backends.iter().find(|b| b.id == *backend) else { return };
                let known = self.known.get_mut(&(Arc::clone(upstream), backend.clone())).unwrap();
                known.operator = (*state != file.admin).then_some(*state);
            }
            Event::Configure(_) | Event::Tick => {}
        }
    }

    fn reconfigured(&mut self, before: &Snapshot, after: &Snapshot) {
        self.forget_the_gone();
        for new in &after.upstreams {
            let Some(old) = before.upstreams.iter().find(|u| u.config.name == new.config.name) else {
                continue;
            };
            let points = |u: &Upstream| {
                let ids: Vec<_> = u.backends.iter().map(|b| (b.id.clone(), b.weight)).collect();
                (u.affinity.seed, u.affinity.vnodes, ids)
            };
            let same_ring = points(&old.config) == points(&new.config);
            assert_eq!(
                same_ring,
                Arc::ptr_eq(old.cluster.ring(), new.cluster.ring()),
                "the ring must be rebuilt exactly when its inputs change"
            );
            if let (Memory::Table(a), Memory::Table(b)) = (&old.memory, &new.memory) {
                let same_seed = old.config.affinity.seed == new.config.affinity.seed;
                assert_eq!(Arc::ptr_eq(a, b), same_seed, "the table must be kept exactly when the seed is");
            }
            for backend in &new.config.backends {
                let Some(file) = old.config.backends.iter().find(|b| b.id == backend.id) else { continue };
                let known = self.known.get_mut(&(Arc::clone(&new.config.name), backend.id.clone())).unwrap();
                if file.admin != backend.admin || known.operator == Some(backend.admin) {
                    known.operator = None;
                }
                if new.config.health_check.is_none() {
                    known.drains = false;
                }
            }
        }
    }

    /// Forgets backends that are no longer configured, except for their slots and, while
    /// their upstream exists, their counters.
    fn forget_the_gone(&mut self) {
        let snapshot = self.state.snapshot();
        let mut known = HashMap::new();
        for upstream in &snapshot.upstreams {
            for member in upstream.cluster.members() {
                let key = (Arc::clone(&upstream.config.name), member.id.clone());
                known.insert(key.clone(), self.known.remove(&key).unwrap_or_default());
            }
        }
        self.known = known;
        self.live.retain(|(name, _), _| snapshot.upstreams.iter().any(|u| u.config.name == *name));
    }

    /// Checks that health changes only by the rules.
    fn transitions(
        &mut self,
        event: &Event,
        effects: &Effects,
        before: &Snapshot,
        after: &Snapshot,
        seen: &mut Seen,
    ) {
        seen.spared += u32::try_from(effects.log.iter().filter(|t| t.from == t.to).count()).unwrap();
        for upstream in &after.upstreams {
            let rules = &upstream.config;
            let Some(old) = before.upstreams.iter().find(|u| u.config.name == rules.name) else { continue };
            let some_eligible = |members: &[Member]| members.iter().any(Member::eligible_for_new);
            if matches!(event, Event::Passive(_)) && some_eligible(old.cluster.members()) {
                assert!(
                    some_eligible(upstream.cluster.members()),
                    "passive checks ejected the last eligible backend"
                );
            }
            for new in upstream.cluster.members() {
                let Some(old) = old.cluster.members().iter().find(|m| m.id == new.id) else { continue };
                let key = (Arc::clone(&rules.name), new.id.clone());
                let known = self.known.get_mut(&key).unwrap();
                let logged = effects.log.iter().any(|t| {
                    t.upstream == rules.name
                        && t.backend.as_ref() == Some(&new.id)
                        && (t.from, t.to) == (old.health.as_str(), new.health.as_str())
                });
                let in_maintenance = old.admin == AdminState::Maint && new.admin == AdminState::Maint;
                assert!(
                    !in_maintenance || old.health == new.health,
                    "the health of a backend in maintenance changed"
                );
                match (old.health, new.health) {
                    (Health::Up, Health::Down) => {
                        assert!(logged, "a change of health was not logged");
                        seen.downs += 1;
                        match event {
                            Event::Probe { slot, result, .. } => {
                                assert!(*slot == new.slot && *result == FAIL, "{event:?}");
                                assert!(known.fails >= rules.health_check.as_ref().unwrap().fall);
                                known.ejected = None;
                            }
                            Event::Passive(Report { slot, observation, .. }) => {
                                seen.ejections += 1;
                                let rule = rules.passive.as_ref().unwrap();
                                assert_eq!(*slot, new.slot);
                                let on_trial = known.trial_until.is_some_and(|until| self.now < until);
                                match observation {
                                    Observation::Failed | Observation::BrokenOff(_) => {
                                        assert!(
                                            known.failed_requests
                                                >= if on_trial { 1 } else { rule.max_fails }
                                        );
                                    }
                                    Observation::ServerError => {
                                        assert!(known.server_errors >= rule.max_5xx.unwrap());
                                    }
                                    Observation::Recovered => panic!("a success ejected a backend"),
                                }
                                known.ejected = Some((self.now, rule.penalty));
                            }
                            _ => panic!("{event:?} took a backend down"),
                        }
                        *known = Known {
                            passes: 0,
                            fails: 0,
                            failed_requests: 0,
                            server_errors: 0,
                            ..known.clone()
                        };
                    }
                    (Health::Down, Health::Up) => {
                        assert!(logged, "a change of health was not logged");
                        seen.ups += 1;
                        if let Some(check) = &rules.health_check {
                            assert!(known.passes >= check.rise, "{} of {} passes", known.passes, check.rise);
                        }
                        // Backends that came up in the same event do not count.
                        let alone = !upstream.cluster.members().iter().any(|other| {
                            other.eligible_for_new()
                                && member(before, &rules.name, other.slot)
                                    .is_some_and(|(_, m)| m.health == Health::Up && other.id != new.id)
                        });
                        if let Some((at, penalty)) = known.ejected {
                            assert!(
                                alone || self.now >= at + penalty,
                                "it came up before its penalty was over"
                            );
                        }
                        known.trial_until = rules.passive.as_ref().map(|rule| self.now + rule.window);
                        known.ejected = None;
                        *known = Known {
                            passes: 0,
                            fails: 0,
                            failed_requests: 0,
                            server_errors: 0,
                            ..known.clone()
                        };
                    }
                    (Health::Up, Health::Up) | (Health::Down, Health::Down) => {
                        // While a backend stays up, its active points only grow.
                        if old.eligible_for_existing() && old.weight == new.weight {
                            let same = Arc::ptr_eq(upstream.cluster.ring(), ring_of(before, &rules.name));
                            assert!(!same || new.active_points >= old.active_points, "active points shrank");
                        }
                    }
                }
                seen.ramps += u32::from(new.active_points != old.active_points);
            }
        }
    }

    /// Checks the invariants that hold at any time.
    fn check_invariants(&mut self) {
        let snapshot = self.state.snapshot();
        assert_eq!(snapshot.upstreams.len(), snapshot.config.upstreams.len());
        for (upstream, rules) in snapshot.upstreams.iter().zip(&snapshot.config.upstreams) {
            assert_eq!(upstream.config, *rules);
            let members = upstream.cluster.members();
            let ids = |i: usize| (&members[i].id, members[i].weight);
            assert!(rules.backends.iter().map(|b| (&b.id, b.weight)).eq((0..members.len()).map(ids)));
            assert!(members.is_sorted_by(|a, b| a.id < b.id));
            assert_eq!(upstream.live.len(), members.len());
            let ring = upstream.cluster.ring();
            assert_eq!(ring.members(), members.len());
            for ((index, member), (backend, live)) in
                (0u16..).zip(members).zip(rules.backends.iter().zip(&upstream.live))
            {
                let key = (Arc::clone(&rules.name), member.id.clone());
                assert_eq!(
                    *self.slots.entry(key.clone()).or_insert(member.slot),
                    member.slot,
                    "a slot changed"
                );
                let owner = self
                    .ids
                    .entry((Arc::clone(&rules.name), member.slot))
                    .or_insert_with(|| member.id.clone());
                assert_eq!(*owner, member.id, "a slot was reused");
                assert_eq!(upstream.cluster.index_of(member.slot), Some(index));
                let first = self.live.entry(key.clone()).or_insert_with(|| Arc::clone(live));
                assert!(Arc::ptr_eq(first, live), "counters were lost");

                let all = ring.points_of(index);
                assert!((1..=all).contains(&member.active_points), "{} of {all}", member.active_points);
                if rules.slow_start.is_zero() {
                    assert_eq!(member.active_points, all);
                }
                if member.admin == AdminState::Maint {
                    assert!(!member.eligible_for_existing() && !member.eligible_for_new());
                }
                let known = &self.known[&key];
                let wanted = known.operator.unwrap_or(backend.admin);
                let expected =
                    if wanted == AdminState::Ready && known.drains { AdminState::Drain } else { wanted };
                assert_eq!(member.admin, expected);
                let unwatched = rules.health_check.is_none() && rules.passive.is_none();
                if unwatched && member.health == Health::Down && member.admin != AdminState::Maint {
                    // Only an ejection from before a reload can remain, until it ends.
                    assert!(self.state.next_wakeup().is_some());
                }
            }
            let ids: Vec<_> = rules.backends.iter().map(|b| (b.id.clone(), b.weight.get())).collect();
            let affinity = &rules.affinity;
            let digest =
                self.digests.entry((affinity.seed.0, affinity.vnodes, ids)).or_insert_with(|| ring.digest());
            assert_eq!(*digest, ring.digest(), "equal backends, weights and seed gave another ring");
        }
        let distinct: HashSet<_> = self.digests.values().collect();
        assert_eq!(distinct.len(), self.digests.len(), "different rings have the same digest");
    }

    /// Makes every backend healthy and checks that all of them recover.
    fn heal(&mut self) {
        let snapshot = self.state.snapshot();
        for upstream in &snapshot.upstreams {
            for backend in &upstream.config.backends {
                let (upstream, backend) = (Arc::clone(&upstream.config.name), backend.id.clone());
                let event = Event::Admin { upstream, backend, state: AdminState::Ready };
                self.state.apply(event, self.now);
            }
            for member in upstream.cluster.members() {
                for _ in 0..MAX_RISE {
                    let (upstream, slot) = (Arc::clone(&upstream.config.name), member.slot);
                    self.state.apply(Event::Probe { upstream, slot, result: ProbeResult::Pass }, self.now);
                }
            }
        }
        let mut ticks = 0;
        while let Some(wakeup) = self.state.next_wakeup() {
            self.now = self.now.max(wakeup);
            self.state.apply(Event::Tick, self.now);
            ticks += 1;
            assert!(ticks < 10_000, "the control state never stops asking for ticks");
        }
        for upstream in &self.state.snapshot().upstreams {
            for (index, member) in (0u16..).zip(upstream.cluster.members()) {
                assert!(member.eligible_for_new(), "{member:?} is stuck");
                assert_eq!(member.active_points, upstream.cluster.ring().points_of(index));
            }
        }
    }
}

fn member<'a>(snapshot: &'a Snapshot, upstream: &str, slot: Slot) -> Option<(&'a Upstream, &'a Member)> {
    let state = snapshot.upstreams.iter().find(|u| *u.config.name == *upstream)?;
    let index = state.cluster.index_of(slot)?;
    Some((&state.config, &state.cluster.members()[usize::from(index)]))
}

fn ring_of<'a>(snapshot: &'a Snapshot, upstream: &str) -> &'a Arc<Ring> {
    snapshot.upstreams.iter().find(|u| *u.config.name == *upstream).unwrap().cluster.ring()
}
