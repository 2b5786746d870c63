//! The control state: a pure reducer over events and virtual time.
//!
//! `now` is the time since the process began. It is an argument, so that a
//! test can make it anything; it is expected not to go backwards.
//!
//! What survives a reload ([`Event::Configure`]): upstreams are matched by name
//! and backends by id. Health, strikes, live counters, tables, an ephemeral
//! cookie key, a backend's own wish to be drained and the operator's word at
//! run time all survive; only the word ends when the *file's* `state` for that
//! backend changes, since then the file is what was said last. A backend that
//! was removed and comes back begins anew, but under its old slot and
//! counters, so that its sessions find it.
//!
//! The rules of health are in `health.rs`. Two concern an upstream as a whole:
//! what requests see never ejects the last backend that is eligible for new
//! sessions, and when nobody is eligible any more, the rest of all penalties
//! is waived: a backend that may be ill is better than none.

use std::sync::Arc;
use std::time::Duration;

use super::probe::ProbeResult;
use super::reload::{ReloadSummary, UpstreamChange, UpstreamChangeKind};
use super::slots::{SlotRegistry, TooManyBackends};
use super::transition::Transition;
use super::upstream::UpstreamControl;
use crate::affinity::{AdminState, BackendId, Slot};
use crate::model::Config;
use crate::model::snapshot::{Report, Snapshot};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// An active check has ended.
    Probe {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The backend.
        slot: Slot,
        /// What it said.
        result: ProbeResult,
    },
    /// A request saw something of a backend.
    Passive(Report),
    /// An operator's word; ignored if there is no such backend.
    Admin {
        /// The upstream's name.
        upstream: Arc<str>,
        /// The backend.
        backend: BackendId,
        /// The state wished for.
        state: AdminState,
    },
    /// Another configuration; ignored if it has too many backends.
    Configure(Arc<Config>),
    /// Time has passed.
    Tick,
}

/// What follows from an event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Is there a new snapshot to publish?
    pub changed: bool,
    /// What is to be logged.
    pub log: Vec<Transition>,
}

/// Everything the control plane knows.
#[derive(Debug)]
pub struct ControlState {
    config: Arc<Config>,
    workers: usize,
    registry: Arc<SlotRegistry>,
    /// By index of `config.upstreams`, hence sorted by name.
    upstreams: Vec<UpstreamControl>,
    snapshot: Arc<Snapshot>,
}

impl ControlState {
    /// The state before anything has happened.
    ///
    /// # Panics
    /// If an upstream has more backends than there are slots (65 536).
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
            upstreams: upstreams.iter().map(|u| Arc::clone(u.published())).collect(),
        });
        Self { config, workers, registry, upstreams, snapshot }
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

    /// [`Event::Admin`], with an answer.
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

    /// [`Event::Configure`], with an answer. On an error nothing has changed.
    pub fn configure(
        &mut self,
        config: Arc<Config>,
        now: Duration,
    ) -> Result<(ReloadSummary, Effects), TooManyBackends> {
        let mut summary = ReloadSummary { generation: self.snapshot.generation, ..Default::default() };
        if *config == *self.config {
            return Ok((summary, self.tick(now)));
        }
        // Whatever can fail comes first.
        for upstream in &config.upstreams {
            let slots = self.registry.of(&upstream.name);
            if upstream.backends.iter().any(|b| slots.slot_of(&b.id).is_none()) {
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
                summary.upstreams.push(whole(&upstream, UpstreamChangeKind::Added));
                upstream
            };
            self.upstreams.push(upstream);
        }
        for upstream in before.into_iter().flatten() {
            summary.upstreams.push(whole(&upstream, UpstreamChangeKind::Removed));
        }
        summary.upstreams.sort_by(|a, b| a.name.cmp(&b.name));
        summary.settings = has_other_settings(&self.config, &config);
        self.config = config;
        for upstream in &mut self.upstreams {
            upstream.settle(now, &mut log);
        }
        self.rebuild();
        summary.generation = self.snapshot.generation;
        Ok((summary, Effects { changed: true, log }))
    }

    /// The world as it is. Rebuilt only when it changes.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot)
    }

    /// When a [`Event::Tick`] is due though nothing happens.
    pub fn next_wakeup(&self) -> Option<Duration> {
        self.upstreams.iter().filter_map(UpstreamControl::next_wakeup).min()
    }

    /// How long after the begin of a check the next one of the same backend
    /// begins; `None` if there shall be none.
    pub fn check_interval(&self, upstream: &str, slot: Slot) -> Option<Duration> {
        self.upstreams[self.index_of(upstream)?].check_interval(slot)
    }

    /// The slots of all upstreams, shared: ids may be given slots from
    /// elsewhere (bindings loaded from a file).
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
        self.snapshot = Arc::new(Snapshot {
            generation: self.snapshot.generation + 1,
            config: Arc::clone(&self.config),
            upstreams: self.upstreams.iter().map(|u| Arc::clone(u.published())).collect(),
        });
    }
}

/// An upstream, or a backend in it, that is not configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no backend {backend} in an upstream {upstream}")]
pub struct UnknownBackend {
    /// The upstream asked for.
    pub upstream: String,
    /// The backend asked for.
    pub backend: BackendId,
}

fn whole(upstream: &UpstreamControl, kind: UpstreamChangeKind) -> UpstreamChange {
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
    // Destructured, so that a new section cannot be forgotten here. Routes
    // name upstreams by index: a changed index alone is no changed route, but
    // it is cheaper to say so than to find out.
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
