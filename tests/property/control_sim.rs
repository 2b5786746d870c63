//! A seeded simulation of the control plane, with random health checks, reports, operator
//! commands, reloads and passing time. Every invariant is checked after each event. `SEED=n`
//! replays one run.

#![expect(clippy::unwrap_used, reason = "the simulation only looks up what it inserted")]

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use homing::affinity::{AdminState, BackendId, Member, Slot};
use homing::control::probe::{ProbeFailure, ProbeResult};
use homing::control::{ControlState, Event};
use homing::model::Upstream;
use homing::model::client_net::ClientNet;
use homing::model::live::BackendLive;
use homing::model::snapshot::{Observation, Report, Snapshot};

use self::configs::{IDS, MAX_RISE, NAMES, mutated, random_config};

mod configs;
mod invariants;

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
        let Seen { downs, shuns, hangs, ups, reloads, ramps, spared } = seen;
        assert!(
            [downs, shuns, hangs, ups, reloads, ramps, spared].iter().all(|&n| n > 50),
            "downs {downs}, shuns {shuns}, hangs {hangs}, ups {ups}, reloads {reloads}, ramps {ramps}, \
             spared {spared}"
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
    shuns: u32,
    hangs: u32,
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
    /// Passes in a row since it went down, was shunned or was last unwatched.
    passes: u32,
    /// Failures in a row since it came up or was last unwatched.
    fails: u32,
    /// When the first request failed since the last success.
    silent_since: Option<Duration>,
    /// The clients whose requests failed since the last success.
    failed_clients: HashSet<ClientNet>,
    /// The 5xx responses since it came up: when, and to whom.
    server_errors: Vec<(Duration, ClientNet)>,
    /// When failed requests took it down, and for how long at least.
    hung: Option<(Duration, Duration)>,
    /// When it was shunned, and for how long at least, unless checks pass.
    shunned: Option<(Duration, Duration)>,
    /// The end of its trial, if it may be on trial.
    trial_until: Option<Duration>,
}

impl Known {
    fn answered(&mut self) {
        self.silent_since = None;
        self.failed_clients.clear();
    }

    /// It went up or down: everything counts anew.
    fn turned(&mut self) {
        self.answered();
        self.server_errors.clear();
        (self.passes, self.fails, self.shunned) = (0, 0, None);
    }
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
        self.check_transitions(&event, &effects, &before, &after, seen);
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
                let client = ClientNet::of(Ipv4Addr::new(192, 0, 2, self.rng.u8(..5)).into());
                let observation = match self.rng.u32(..20) {
                    0..12 => Observation::Failed(client),
                    12..19 => Observation::ServerError(client),
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
                    Observation::Failed(client) => {
                        known.silent_since.get_or_insert(self.now);
                        known.failed_clients.insert(*client);
                    }
                    Observation::ServerError(client) => known.server_errors.push((self.now, *client)),
                    Observation::Recovered => known.answered(),
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
            if let (Some(a), Some(b)) = (old.table(), new.table()) {
                assert!(Arc::ptr_eq(a, b), "a reload must keep the table");
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
                assert!(member.eligible_for_new() && !member.shunned, "{member:?} is stuck");
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
