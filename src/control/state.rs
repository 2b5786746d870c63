//! The control state: a pure reducer over events and virtual time.
//!
//! `now` is the time since the process started. It is an argument so that tests can control it. It
//! must not go backwards.
//!
//! A reload ([`Event::Configure`]) matches upstreams by name and backends by id. Health, strikes,
//! live counters, tables, an ephemeral cookie key, a backend's own request to be drained and the
//! admin state that an operator set at run time all survive. The operator's setting ends when the
//! *file's* `state` for that backend changes, because the file is then more recent. A backend that
//! was removed and is added again starts without history, but keeps its slot and counters, so its
//! sessions find it. If slots run out, those of removed backends without sessions are given back.
//!
//! The health rules are in `health.rs`. Two of them concern the upstream as a whole. Failed requests
//! never take down the last backend that is eligible for new sessions. When no backend is eligible, all
//! penalties are waived, because a backend that may be broken is better than none.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ahash::HashSet;

use super::probe::ProbeResult;
use super::reload::{ReloadSummary, UpstreamChange, UpstreamChangeKind};
use super::slots::{SlotRegistry, TooManyBackends};
use super::transition::Transition;
use super::upstream::UpstreamControl;
use crate::affinity::{AdminState, BackendId, Slot};
use crate::model::Config;
use crate::model::live_tls::LiveTls;
use crate::model::snapshot::{Report, Snapshot};

/// An input of the reducer.
#[derive(Debug, Clone)]
pub enum Event {
    /// An active check finished.
    Probe {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The backend.
        slot: Slot,
        /// Its result.
        result: ProbeResult,
    },
    /// A worker reported the outcome of a request.
    Passive(Report),
    /// An operator set an admin state. Ignored if the backend does not exist.
    Admin {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The backend.
        backend: BackendId,
        /// The new state.
        state: AdminState,
    },
    /// A new configuration. Ignored if it has too many backends.
    Configure(Arc<Config>),
    /// Time passed.
    Tick,
}

/// The effects of an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Whether there is a new snapshot to publish.
    pub changed: bool,
    /// Transitions to log.
    pub log: Vec<Transition>,
}

/// The state of the control plane.
#[derive(Debug)]
pub struct ControlState {
    config: Arc<Config>,
    tls: Arc<LiveTls>,
    workers: usize,
    /// The wall-clock time at `now` = 0, for operators.
    began: SystemTime,
    registry: Arc<SlotRegistry>,
    /// In the order of `config.upstreams`, which is by name.
    upstreams: Vec<UpstreamControl>,
    snapshot: Arc<Snapshot>,
}

impl ControlState {
    /// Creates the initial state.
    ///
    /// # Panics
    /// If an upstream has more backends than there are slots (65,536).
    pub fn new(config: Arc<Config>, workers: usize, now: Duration) -> Self {
        let registry = Arc::new(SlotRegistry::default());
        let upstreams: Vec<_> = config
            .upstreams
            .iter()
            .map(|upstream| UpstreamControl::new(upstream, registry.of(&upstream.name), workers, now))
            .collect::<Result<_, _>>()
            .expect("invariant: a valid configuration has at most 65536 backends in an upstream");
        let snapshot = Arc::new(Snapshot {
            generation: 1,
            config: Arc::clone(&config),
            tls: Arc::default(),
            began: SystemTime::UNIX_EPOCH,
            upstreams: upstreams.iter().map(|u| Arc::clone(u.published())).collect(),
        });
        let began = SystemTime::UNIX_EPOCH;
        Self { config, tls: Arc::default(), workers, began, registry, upstreams, snapshot }
    }

    /// Publishes this TLS state with the configuration.
    #[must_use]
    pub fn with_tls(mut self, tls: Arc<LiveTls>) -> Self {
        self.tls = tls;
        self.snapshot = self.snapshot_of(self.snapshot.generation);
        self
    }

    /// Sets the wall-clock time at `now` = 0.
    #[must_use]
    pub fn with_start(mut self, began: SystemTime) -> Self {
        self.began = began;
        self.snapshot = self.snapshot_of(self.snapshot.generation);
        self
    }

    /// Applies an event that happened at `now`.
    pub fn apply(&mut self, event: Event, now: Duration) -> Effects {
        match event {
            Event::Probe { upstream, slot, result } => self.at_upstream(&upstream, now, |upstream, log| {
                upstream.probed(slot, result, now, log);
            }),
            Event::Passive(report) => self.at_upstream(&report.upstream, now, |upstream, log| {
                upstream.observed(report.slot, report.observation, now, log);
            }),
            Event::Admin { upstream, backend, state } => {
                self.set_admin_state(&upstream, &backend, state, now).unwrap_or_default()
            }
            Event::Configure(config) => {
                self.configure(config, now).map(|(_, effects)| effects).unwrap_or_default()
            }
            Event::Tick => self.tick(now),
        }
    }

    /// Applies an [`Event::Admin`] and reports errors.
    pub fn set_admin_state(
        &mut self,
        upstream: &str,
        backend: &BackendId,
        state: AdminState,
        now: Duration,
    ) -> Result<Effects, UnknownBackend> {
        let known = self.index_of(upstream).is_some_and(|index| self.upstreams[index].has(backend));
        if !known {
            return Err(UnknownBackend { upstream: upstream.into(), backend: backend.clone() });
        }
        Ok(self.at_upstream(upstream, now, |upstream, log| upstream.set_admin(backend, state, log)))
    }

    /// Applies an [`Event::Configure`] and returns a summary. On an error, nothing changes.
    pub fn configure(
        &mut self,
        config: Arc<Config>,
        now: Duration,
    ) -> Result<(ReloadSummary, Effects), TooManyBackends> {
        self.reload(config, Arc::clone(&self.tls), now)
    }

    /// Applies a configuration together with its TLS state, which are published as one. On an
    /// error, nothing changes.
    pub fn reload(
        &mut self,
        config: Arc<Config>,
        tls: Arc<LiveTls>,
        now: Duration,
    ) -> Result<(ReloadSummary, Effects), TooManyBackends> {
        let mut summary = ReloadSummary { generation: self.snapshot.generation, ..Default::default() };
        let same_tls = tls.same_as(&self.tls);
        if *config == *self.config && same_tls {
            return Ok((summary, self.tick(now)));
        }
        // Everything that can fail comes first.
        for upstream in &config.upstreams {
            let slots = self.registry.of(&upstream.name);
            let have_slots = || upstream.backends.iter().all(|b| slots.slot_of(&b.id).is_some());
            if have_slots() {
                continue;
            }
            let wanted: HashSet<_> = upstream.backends.iter().map(|backend| &backend.id).collect();
            match self.index_of(&upstream.name) {
                Some(index) => self.upstreams[index].take_back_slots(&wanted),
                None => drop(slots.take_back(|_, id| wanted.contains(id))),
            }
            if !have_slots() {
                return Err(TooManyBackends { upstream: Arc::clone(&upstream.name) });
            }
        }
        let mut log = Vec::new();
        let mut before: Vec<_> = std::mem::take(&mut self.upstreams).into_iter().map(Some).collect();
        for config in &config.upstreams {
            let known = before.iter_mut().find(|u| u.as_ref().is_some_and(|u| *u.name() == config.name));
            let upstream = if let Some(mut upstream) = known.and_then(Option::take) {
                summary.upstreams.extend(upstream.configure(config, self.workers, now, &mut log)?);
                upstream
            } else {
                let slots = self.registry.of(&config.name);
                let upstream = UpstreamControl::new(config, slots, self.workers, now)?;
                summary.upstreams.push(change_of_all(&upstream, UpstreamChangeKind::Added));
                upstream
            };
            self.upstreams.push(upstream);
        }
        for upstream in before.into_iter().flatten() {
            summary.upstreams.push(change_of_all(&upstream, UpstreamChangeKind::Removed));
        }
        summary.upstreams.sort_by(|a, b| a.name.cmp(&b.name));
        summary.settings = has_other_settings(&self.config, &config) || !same_tls;
        self.config = config;
        self.tls = tls;
        for upstream in &mut self.upstreams {
            upstream.settle(now, &mut log);
        }
        self.rebuild();
        summary.generation = self.snapshot.generation;
        Ok((summary, Effects { changed: true, log }))
    }

    /// Returns the current snapshot. It is only rebuilt when something changes.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// Returns when an [`Event::Tick`] is due if nothing else happens.
    pub fn next_wakeup(&self) -> Option<Duration> {
        self.upstreams.iter().filter_map(UpstreamControl::next_wakeup).min()
    }

    /// Returns the time from the start of a check to the start of the next one of the same backend;
    /// `None` if the backend is not checked.
    pub fn check_interval(&self, upstream: &str, slot: Slot) -> Option<Duration> {
        self.upstreams[self.index_of(upstream)?].check_interval(slot)
    }

    /// Returns the slots of all upstreams. They are shared because loading bindings from a file also
    /// assigns slots.
    pub fn slots(&self) -> &Arc<SlotRegistry> {
        &self.registry
    }

    fn tick(&mut self, now: Duration) -> Effects {
        let mut effects = Effects::default();
        for upstream in &mut self.upstreams {
            effects.changed |= upstream.settle(now, &mut effects.log);
        }
        if effects.changed {
            self.rebuild();
        }
        effects
    }

    fn at_upstream(
        &mut self,
        name: &str,
        now: Duration,
        event: impl FnOnce(&mut UpstreamControl, &mut Vec<Transition>),
    ) -> Effects {
        let mut effects = Effects::default();
        let Some(index) = self.index_of(name) else { return effects };
        let upstream = &mut self.upstreams[index];
        event(upstream, &mut effects.log);
        effects.changed = upstream.settle(now, &mut effects.log);
        if effects.changed {
            self.rebuild();
        }
        effects
    }

    fn index_of(&self, name: &str) -> Option<usize> {
        self.upstreams.binary_search_by(|u| (**u.name()).cmp(name)).ok()
    }

    fn rebuild(&mut self) {
        self.snapshot = self.snapshot_of(self.snapshot.generation + 1);
    }

    fn snapshot_of(&self, generation: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot {
            generation,
            config: Arc::clone(&self.config),
            tls: Arc::clone(&self.tls),
            began: self.began,
            upstreams: self.upstreams.iter().map(|u| Arc::clone(u.published())).collect(),
        })
    }
}

/// The upstream or the backend is not configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown backend `{backend}` in upstream `{upstream}`")]
pub struct UnknownBackend {
    /// The requested upstream.
    pub upstream: String,
    /// The requested backend.
    pub backend: BackendId,
}

fn change_of_all(upstream: &UpstreamControl, kind: UpstreamChangeKind) -> UpstreamChange {
    let ids: Vec<_> = upstream.ids().cloned().collect();
    let (added, removed) = match kind {
        UpstreamChangeKind::Removed => (Vec::new(), ids),
        UpstreamChangeKind::Added | UpstreamChangeKind::Changed => (ids, Vec::new()),
    };
    UpstreamChange {
        name: Arc::clone(upstream.name()),
        kind,
        added,
        removed,
        changed: Vec::new(),
        ring: true,
        forgotten: false,
    }
}

fn has_other_settings(old: &Config, new: &Config) -> bool {
    // Destructured so that a new section cannot be missed here. Routes refer to upstreams by index.
    // If only the index changed, the route is still reported as changed: finding out would cost more.
    let Config {
        server,
        client_ip,
        timeouts,
        limits,
        forwarding,
        access_log,
        listeners,
        routes,
        upstreams: _,
    } = old;
    *server != new.server
        || *client_ip != new.client_ip
        || *timeouts != new.timeouts
        || *limits != new.limits
        || *forwarding != new.forwarding
        || *access_log != new.access_log
        || *listeners != new.listeners
        || *routes != new.routes
}

#[cfg(test)]
mod tests;
