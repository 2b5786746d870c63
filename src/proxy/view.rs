//! A snapshot as one worker sees it: with its own pools, budgets and counters
//! beside each upstream, found by index.

use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use tokio::time::Instant;

use super::listener_settings::ListenerSettings;
use super::retry_budget::RetryBudget;
use crate::affinity::pick::{Loads, Policy};
use crate::affinity::{BackendId, Slot};
use crate::h1::HeadLimits;
use crate::model::router::Router;
use crate::model::snapshot::{Observation, Report, Snapshot, UpstreamState};
use crate::model::{Address, ListenerId};
use crate::proxy::backend::pool::BackendPool;
use crate::telemetry::{UpstreamMetrics, WorkerMetrics};

/// One request uses one of these from beginning to end.
#[derive(Debug)]
pub(crate) struct View {
    /// What all workers share.
    pub snapshot: Arc<Snapshot>,
    /// Its routes, arranged.
    pub router: Router,
    /// The limits of heads, either way.
    pub head_limits: HeadLimits,
    /// By index of the configuration's upstreams.
    pub upstreams: Vec<UpstreamView>,
    /// How each listener serves its clients, by index of the configuration's listeners.
    pub listeners: Vec<ListenerSettings>,
    /// Is any of them told of clients by the PROXY protocol?
    pub announces: bool,
}

/// One upstream, in one worker.
#[derive(Debug)]
pub(crate) struct UpstreamView {
    /// What all workers share.
    pub state: Arc<UpstreamState>,
    /// This worker's counters for it.
    pub metrics: Arc<UpstreamMetrics>,
    /// How a pick is made.
    pub policy: Policy,
    /// By member index.
    pub pools: Vec<Rc<BackendPool>>,
    /// This worker's share of retries.
    pub budget: Rc<RetryBudget>,
    /// By member index: since when it cannot serve its sessions.
    away: Vec<Option<Instant>>,
}

/// Pools outlive snapshots for as long as id and address stay.
pub(crate) type PoolKey = (Arc<str>, BackendId, Address);

impl View {
    /// Arranges a snapshot for a worker; what `previous` had is taken over.
    pub(crate) fn new(
        worker: usize,
        snapshot: Arc<Snapshot>,
        metrics: &WorkerMetrics,
        previous: Option<&Self>,
    ) -> Self {
        let mut pools: AHashMap<PoolKey, Rc<BackendPool>> = AHashMap::new();
        let mut budgets = AHashMap::new();
        for upstream in previous.into_iter().flat_map(|view| &view.upstreams) {
            let config = &upstream.state.config;
            budgets.insert(Arc::clone(&config.name), (config.retry, Rc::clone(&upstream.budget)));
            for (backend, pool) in config.backends.iter().zip(&upstream.pools) {
                let key = (Arc::clone(&config.name), backend.id.clone(), backend.address.clone());
                pools.insert(key, Rc::clone(pool));
            }
        }
        let workers = snapshot.config.server.workers.get();
        let now = Instant::now();
        let upstreams = snapshot.upstreams.iter().enumerate().map(|(index, state)| {
            let config = &state.config;
            let tls = snapshot.tls.upstream(index);
            let pools = config.backends.iter().zip(&state.live).map(|(backend, live)| {
                let key = (Arc::clone(&config.name), backend.id.clone(), backend.address.clone());
                match pools.remove(&key) {
                    Some(pool) if pool.fits(config, tls) => {
                        pool.configure(backend, config);
                        pool
                    }
                    other => {
                        if let Some(pool) = other {
                            pool.retire();
                        }
                        Rc::new(BackendPool::new(worker, backend, Arc::clone(live), config, tls))
                    }
                }
            });
            let before =
                previous.and_then(|view| view.upstreams.iter().find(|u| u.state.config.name == config.name));
            let away = state.cluster.members().iter().map(|member| {
                let since = || {
                    let before = before?;
                    before.away_since(before.state.cluster.index_of(member.slot)?)
                };
                (!member.eligible_for_existing()).then(|| since().unwrap_or(now))
            });
            let budget = match budgets.remove(&config.name) {
                Some((retry, budget)) if retry == config.retry => budget,
                _ => Rc::new(RetryBudget::new(&config.retry, workers, now)),
            };
            UpstreamView {
                metrics: metrics.upstream(&config.name),
                policy: Policy {
                    failover: config.affinity.failover,
                    balance_percent: config.affinity.balance_percent,
                },
                pools: pools.collect(),
                away: away.collect(),
                budget,
                state: Arc::clone(state),
            }
        });
        let upstreams: Vec<UpstreamView> = upstreams.collect();
        let announces = upstreams.iter().any(|upstream| upstream.state.config.proxy_protocol.is_some());
        // Whoever still uses one may go on, but nothing is kept in it.
        pools.values().for_each(|pool| pool.retire());
        let listeners = 0..snapshot.config.listeners.len();
        let listeners = listeners.map(|index| ListenerSettings::new(&snapshot, index)).collect();
        let limits = &snapshot.config.limits;
        let head_limits =
            HeadLimits { head_bytes: limits.head_bytes, fields: limits.fields, uri_bytes: limits.uri_bytes };
        Self {
            router: Router::new(&snapshot.config.routes),
            head_limits,
            upstreams,
            listeners,
            announces,
            snapshot,
        }
    }
}

impl View {
    /// The settings of a listener; `None` if a reload has removed it.
    pub(crate) fn listener(&self, id: &ListenerId) -> Option<&ListenerSettings> {
        self.listeners.iter().find(|listener| listener.id == *id)
    }

    /// The upstream that a route leads to.
    pub(crate) fn upstream_of(&self, route: usize) -> &UpstreamView {
        &self.upstreams[self.snapshot.config.routes[route].upstream]
    }
}

impl UpstreamView {
    /// The slot of a member.
    pub(crate) fn slot(&self, member: u16) -> Slot {
        self.state.cluster.members()[usize::from(member)].slot
    }

    /// The id of a member.
    pub(crate) fn id(&self, member: u16) -> &BackendId {
        &self.state.cluster.members()[usize::from(member)].id
    }

    /// Since when a member cannot serve its sessions, if it cannot.
    pub(crate) fn away_since(&self, member: u16) -> Option<Instant> {
        self.away.get(usize::from(member)).copied().flatten()
    }

    /// Do responses with a 5xx status count against a backend?
    pub(crate) fn counts_server_errors(&self) -> bool {
        self.state.config.passive.as_ref().is_some_and(|passive| passive.max_5xx.is_some())
    }

    /// What a request saw of a member, for the control plane.
    pub(crate) fn report(&self, member: u16, observation: Observation) -> Report {
        Report { upstream: Arc::clone(&self.state.config.name), slot: self.slot(member), observation }
    }
}

impl Loads for UpstreamView {
    fn in_flight(&self, index: u16) -> u32 {
        self.state.live[usize::from(index)].in_flight()
    }

    fn saturated(&self, index: u16) -> bool {
        let limit = self.state.config.backends[usize::from(index)].max_connections;
        limit.is_some_and(|limit| self.in_flight(index) >= limit)
    }
}
