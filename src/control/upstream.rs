//! The control state of one upstream.

use std::sync::Arc;
use std::time::Duration;

use ahash::{HashMap, HashSet};

use super::backend::BackendControl;
use super::build::{build_ring, build_state, has_same_ring, index_u16};
use super::health::Observed;
use super::memory;
use super::probe::ProbeResult;
use super::reload::{UpstreamChange, UpstreamChangeKind};
use super::slots::{Slots, TooManyBackends};
use super::slow_start::Ramp;
use super::transition::{Transition, TransitionReason};
use crate::affinity::ring::Ring;
use crate::affinity::{AdminState, BackendId, Health, Slot};
use crate::model::line::Line;
use crate::model::live::BackendLive;
use crate::model::snapshot::{Memory, Observation, UpstreamState};
use crate::model::{Backend, Upstream};

/// The control state of one upstream and its published state.
#[derive(Debug)]
pub(super) struct UpstreamControl {
    config: Arc<Upstream>,
    slots: Arc<Slots>,
    /// Counters of every backend that was ever configured. Requests to a removed backend may still be
    /// in flight when it is added again.
    live: HashMap<Slot, Arc<BackendLive>>,
    line: Arc<Line>,
    ring: Arc<Ring>,
    memory: Memory,
    /// In the order of `config.backends`.
    backends: Vec<BackendControl>,
    published: Arc<UpstreamState>,
    /// When `published` was last updated.
    settled: Duration,
}

impl UpstreamControl {
    /// Creates the state of a new upstream. Its initial backends have no slow start.
    pub(super) fn new(
        config: &Arc<Upstream>,
        slots: Arc<Slots>,
        workers: usize,
        now: Duration,
    ) -> Result<Self, TooManyBackends> {
        let ring = build_ring(config);
        let mut live = HashMap::default();
        let mut backends = Vec::with_capacity(config.backends.len());
        for backend in &config.backends {
            let slot = slot_of(&slots, config, backend)?;
            live.insert(slot, Arc::new(BackendLive::new(workers)));
            backends.push(BackendControl::new(slot, config, now, true));
        }
        for (backend, rules) in backends.iter_mut().zip(&config.backends) {
            backend.serving = backend.is_serving(rules);
        }
        let memory = memory::new(&config.affinity.remember);
        let line = Arc::default();
        let published = build_state(config, &ring, &memory, &backends, &live, &line, now);
        let config = Arc::clone(config);
        Ok(Self { config, slots, live, line, ring, memory, backends, published, settled: now })
    }

    /// Returns its name.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// Returns the state that workers see.
    pub(super) fn published(&self) -> &Arc<UpstreamState> {
        &self.published
    }

    /// Returns the ids of its backends.
    pub(super) fn ids(&self) -> impl Iterator<Item = &BackendId> {
        self.config.backends.iter().map(|b| &b.id)
    }

    /// Applies the result of a check.
    pub(super) fn probed(
        &mut self,
        slot: Slot,
        result: ProbeResult,
        now: Duration,
        log: &mut Vec<Transition>,
    ) {
        let Some(index) = self.index_of(slot) else { return };
        let config = Arc::clone(&self.config);
        let Some(check) = &config.health_check else { return };
        // The check was running when the backend went into maintenance.
        if self.admin(index) == AdminState::Maint {
            return;
        }
        match result {
            ProbeResult::Pass | ProbeResult::Drain => {
                self.change_admin(index, TransitionReason::Backend, log, |b| {
                    b.asks_to_drain = result == ProbeResult::Drain;
                });
                self.backends[index].health.check_passed();
            }
            ProbeResult::Fail(last) => {
                let health = &mut self.backends[index].health;
                if let Some(reason) = health.check_failed(last, check, config.passive.as_ref(), now) {
                    log.push(self.health_change(index, Health::Up, Health::Down, reason));
                }
            }
        }
    }

    /// Applies the outcome of a request.
    pub(super) fn observed(
        &mut self,
        slot: Slot,
        observation: Observation,
        now: Duration,
        log: &mut Vec<Transition>,
    ) {
        let Some(index) = self.index_of(slot) else { return };
        let config = Arc::clone(&self.config);
        let Some(rule) = &config.passive else { return };
        if self.admin(index) == AdminState::Maint {
            return;
        }
        let others = (0..self.backends.len()).any(|other| other != index && self.is_eligible_for_new(other));
        match self.backends[index].health.observe(observation, &config, rule, others, now) {
            Observed::Nothing => {}
            Observed::Shunned(reason) => log.push(self.shun_change(index, "up", "shunned", reason)),
            Observed::Down(reason) => {
                log.push(self.health_change(index, Health::Up, Health::Down, reason));
            }
            Observed::Spared => {
                log.push(self.health_change(index, Health::Up, Health::Up, TransitionReason::LastEligible));
            }
        }
    }

    /// Takes back the slots of removed backends to which no session and no request belongs, except those
    /// of `wanted`.
    pub(super) fn take_back_slots(&mut self, wanted: &HashSet<&BackendId>) {
        let current: HashSet<Slot> = self.backends.iter().map(|backend| backend.slot).collect();
        let has_sessions = |slot| self.memory.table.as_ref().is_some_and(|table| table.sessions(slot) > 0);
        let has_requests = |slot| self.live.get(&slot).is_some_and(|live| live.in_flight() > 0);
        let unused = self.slots.take_back(|slot, id| {
            current.contains(&slot) || wanted.contains(id) || has_sessions(slot) || has_requests(slot)
        });
        for slot in unused {
            self.live.remove(&slot);
        }
    }

    /// Returns whether it has a backend with this id.
    pub(super) fn has(&self, id: &BackendId) -> bool {
        self.ids().any(|known| known == id)
    }

    /// Sets the operator's admin state of a backend.
    pub(super) fn set_admin(&mut self, id: &BackendId, state: AdminState, log: &mut Vec<Transition>) {
        let Some(index) = self.config.backends.iter().position(|b| b.id == *id) else { return };
        let in_file = self.config.backends[index].admin;
        self.change_admin(index, TransitionReason::Operator, log, |b| {
            b.operator = (state != in_file).then_some(state);
        });
    }

    /// Applies a new configuration of the same upstream. Returns `None` if it is unchanged.
    pub(super) fn configure(
        &mut self,
        config: &Arc<Upstream>,
        workers: usize,
        now: Duration,
        log: &mut Vec<Transition>,
    ) -> Result<Option<UpstreamChange>, TooManyBackends> {
        if **config == *self.config {
            return Ok(None);
        }
        let slots = config
            .backends
            .iter()
            .map(|backend| slot_of(&self.slots, config, backend))
            .collect::<Result<Vec<_>, _>>()?;
        // Nothing below can fail.
        let old = std::mem::replace(&mut self.config, Arc::clone(config));
        let mut change = UpstreamChange {
            name: Arc::clone(&config.name),
            kind: UpstreamChangeKind::Changed,
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            ring: !has_same_ring(&old, config),
            forgotten: false,
        };
        if change.ring {
            self.ring = build_ring(config);
        }
        if let Some(reason) = memory::reconfigure(&mut self.memory, &old, config) {
            change.forgotten = true;
            log.push(Transition {
                upstream: Arc::clone(&config.name),
                backend: None,
                from: old.affinity.remember.as_str(),
                to: config.affinity.remember.as_str(),
                reason,
            });
        }
        let mut known: HashMap<Slot, (BackendControl, &Backend)> =
            self.backends.drain(..).zip(&old.backends).map(|(b, rules)| (b.slot, (b, rules))).collect();
        for (backend, slot) in config.backends.iter().zip(slots) {
            self.live.entry(slot).or_insert_with(|| Arc::new(BackendLive::new(workers)));
            let Some((mut control, before)) = known.remove(&slot) else {
                change.added.push(backend.id.clone());
                let control = BackendControl::new(slot, config, now, false);
                log.push(transition(
                    config,
                    backend,
                    "absent",
                    control.health.health().as_str(),
                    TransitionReason::Reload,
                ));
                self.backends.push(control);
                continue;
            };
            if before != backend {
                change.changed.push(backend.id.clone());
            }
            let admin = control.admin(before);
            // A changed state in the file overrides the operator's earlier setting.
            if before.admin != backend.admin || control.operator == Some(backend.admin) {
                control.operator = None;
            }
            if config.health_check.is_none() {
                control.asks_to_drain = false;
            }
            let rules_changed = config.health_check != old.health_check || config.passive != old.passive;
            if rules_changed || before.address != backend.address {
                control.health.forget_counts();
            }
            if config.slow_start.is_zero() {
                control.ramp = None;
            }
            let admin_now = control.admin(backend);
            if admin != admin_now {
                if admin == AdminState::Maint {
                    control.health.forget_counts();
                }
                log.push(transition(
                    config,
                    backend,
                    admin.as_str(),
                    admin_now.as_str(),
                    TransitionReason::Reload,
                ));
            }
            self.backends.push(control);
        }
        for backend in &old.backends {
            let Some((control, _)) = known.values().find(|(_, rules)| rules.id == backend.id) else {
                continue;
            };
            change.removed.push(backend.id.clone());
            log.push(transition(
                config,
                backend,
                control.health.health().as_str(),
                "absent",
                TransitionReason::Reload,
            ));
        }
        Ok(Some(change))
    }

    /// Applies the consequences of the last event and of the time. Returns true if the published state
    /// changed.
    pub(super) fn settle(&mut self, now: Duration, log: &mut Vec<Transition>) -> bool {
        let config = Arc::clone(&self.config);
        let watched: Vec<_> =
            (0..self.backends.len()).filter(|&index| self.admin(index) != AdminState::Maint).collect();
        for &index in &watched {
            if let Some(reason) = self.backends[index].health.reenter(&config, now) {
                log.push(self.health_change(index, Health::Down, Health::Up, reason));
            }
            if let Some(reason) = self.backends[index].health.end_shun(&config, now) {
                log.push(self.shun_change(index, "shunned", "up", reason));
            }
        }
        if !watched.iter().any(|&index| self.is_eligible_for_new(index)) {
            for index in watched {
                if let Some(reason) = self.backends[index].health.waive(&config, now) {
                    log.push(self.health_change(index, Health::Down, Health::Up, reason));
                }
            }
        }
        self.settle_ramps(now);
        self.settled = now;
        self.publish(now)
    }

    /// Returns when [`Self::settle`] is due if nothing else happens.
    pub(super) fn next_wakeup(&self) -> Option<Duration> {
        let watched = self
            .backends
            .iter()
            .zip(&self.config.backends)
            .filter(|(backend, rules)| backend.admin(rules) != AdminState::Maint);
        watched
            .flat_map(|(b, _)| {
                [b.health.wakeup(&self.config), b.ramp.map(|ramp| ramp.next_step(self.settled))]
            })
            .flatten()
            .min()
    }

    /// Returns the time from the start of a check to the start of the next one; `None` if the backend
    /// is not (or no longer) checked.
    pub(super) fn check_interval(&self, slot: Slot) -> Option<Duration> {
        let check = self.config.health_check.as_ref()?;
        let index = self.index_of(slot)?;
        let doubt = self.backends[index].health.in_doubt(&self.config);
        Some(if doubt { check.fast_interval.min(check.interval) } else { check.interval })
    }

    fn settle_ramps(&mut self, now: Duration) {
        // Whether any backend was eligible before. Without one, a slow start would only shrink the ring.
        let settled =
            (0..self.backends.len()).any(|i| self.backends[i].serving && self.is_eligible_for_new(i));
        for (backend, rules) in self.backends.iter_mut().zip(&self.config.backends) {
            let serving = backend.is_serving(rules);
            if !serving {
                backend.ramp = None;
            } else if !backend.serving && settled && !backend.from_start {
                backend.ramp = Ramp::start(now, self.config.slow_start);
            }
            if backend.ramp.is_some_and(|ramp| ramp.is_over(now)) {
                backend.ramp = None;
            }
            backend.serving = serving;
            // Once it has served, failed a check or been in maintenance, coming up means recovering.
            let put_aside = backend.admin(rules) == AdminState::Maint;
            backend.from_start &= !serving && !put_aside && backend.health.is_unchecked();
        }
    }

    fn publish(&mut self, now: Duration) -> bool {
        let published = &self.published;
        let standings = self.backends.iter().map(|backend| backend.health.standing());
        let same = published.standings.iter().cloned().eq(standings)
            && *published.config == *self.config
            && Arc::ptr_eq(published.cluster.ring(), &self.ring)
            && memory::is_same(&published.memory, &self.memory)
            && published
                .cluster
                .members()
                .iter()
                .zip(self.backends.iter().zip(&self.config.backends))
                .enumerate()
                .all(|(index, (member, (backend, rules)))| {
                    member.slot == backend.slot
                        && member.admin == backend.admin(rules)
                        && member.health == backend.health.health()
                        && member.shunned == backend.health.is_shunned()
                        && member.active_points
                            == backend.active_points(self.ring.points_of(index_u16(index)), now)
                });
        if !same {
            self.published = build_state(
                &self.config,
                &self.ring,
                &self.memory,
                &self.backends,
                &self.live,
                &self.line,
                now,
            );
        }
        !same
    }

    fn index_of(&self, slot: Slot) -> Option<usize> {
        self.backends.iter().position(|b| b.slot == slot)
    }

    fn admin(&self, index: usize) -> AdminState {
        self.backends[index].admin(&self.config.backends[index])
    }

    fn is_eligible_for_new(&self, index: usize) -> bool {
        self.admin(index) == AdminState::Ready && self.backends[index].health.health() == Health::Up
    }

    fn change_admin(
        &mut self,
        index: usize,
        reason: TransitionReason,
        log: &mut Vec<Transition>,
        change: impl FnOnce(&mut BackendControl),
    ) {
        let before = self.admin(index);
        change(&mut self.backends[index]);
        let after = self.admin(index);
        if before != after {
            if before == AdminState::Maint {
                // It was not watched in the meantime.
                self.backends[index].health.forget_counts();
            }
            log.push(transition(
                &self.config,
                &self.config.backends[index],
                before.as_str(),
                after.as_str(),
                reason,
            ));
        }
    }

    fn shun_change(
        &self,
        index: usize,
        from: &'static str,
        to: &'static str,
        reason: TransitionReason,
    ) -> Transition {
        transition(&self.config, &self.config.backends[index], from, to, reason)
    }

    fn health_change(&self, index: usize, from: Health, to: Health, reason: TransitionReason) -> Transition {
        transition(&self.config, &self.config.backends[index], from.as_str(), to.as_str(), reason)
    }
}

fn slot_of(slots: &Slots, config: &Upstream, backend: &Backend) -> Result<Slot, TooManyBackends> {
    slots.slot_of(&backend.id).ok_or_else(|| TooManyBackends { upstream: Arc::clone(&config.name) })
}

fn transition(
    config: &Upstream,
    backend: &Backend,
    from: &'static str,
    to: &'static str,
    reason: TransitionReason,
) -> Transition {
    Transition { upstream: Arc::clone(&config.name), backend: Some(backend.id.clone()), from, to, reason }
}
