//! One worker's view of a snapshot: each upstream with this worker's pools, retry budget and
//! counters.

use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;
use tokio::time::Instant;

use super::listener_settings::ListenerSettings;
use super::retry_budget::RetryBudget;
use crate::affinity::pick::{Loads, Policy};
use crate::affinity::{BackendId, Slot};
use crate::dial::names::Names;
use crate::h1::HeadLimits;
use crate::model::router::Router;
use crate::model::snapshot::{Observation, Report, Snapshot, UpstreamState};
use crate::model::{Address, ListenerId};
use crate::proxy::backend::pool::BackendPool;
use crate::telemetry::{BackendMetrics, UpstreamMetrics, WorkerMetrics};

/// A worker's view of a snapshot. A request uses the same one from start to finish.
#[derive(Debug)]
pub(crate) struct View {
    /// The snapshot, shared by all workers.
    pub snapshot: Arc<Snapshot>,
    /// The router built from the snapshot's routes.
    pub router: Router,
    /// Limits on the heads of requests and responses.
    pub head_limits: HeadLimits,
    /// The upstreams, in the order of the configuration.
    pub upstreams: Vec<UpstreamView>,
    /// The settings of each listener, by index of [`Config::listeners`](crate::model::Config::listeners).
    pub listeners: Vec<ListenerSettings>,
    /// Whether any upstream's connections are announced (PROXY protocol).
    pub announces: bool,
}

/// One worker's view of an upstream.
#[derive(Debug)]
pub(crate) struct UpstreamView {
    /// The upstream's state, shared by all workers.
    pub state: Arc<UpstreamState>,
    /// This worker's counters for the upstream.
    pub metrics: Arc<UpstreamMetrics>,
    /// This worker's counters for each backend, by member index.
    pub backend_metrics: Vec<Arc<BackendMetrics>>,
    /// How backends are picked.
    pub policy: Policy,
    /// The pools, by member index.
    pub pools: Vec<Rc<BackendPool>>,
    /// This worker's retry budget.
    pub budget: Rc<RetryBudget>,
    /// By member index: since when the backend has been unable to serve its sessions.
    away: Vec<Option<Instant>>,
}

/// Identifies a pool. A pool survives reloads while its backend's id and address stay the same.
pub(crate) type PoolKey = (Arc<str>, BackendId, Address);

impl View {
    /// Creates a worker's view of a snapshot. Reuses the pools and retry budgets of `previous`.
    pub(crate) fn new(
        worker: usize,
        snapshot: Arc<Snapshot>,
        metrics: &WorkerMetrics,
        names: &Names,
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
            let cell = metrics.upstream(&config.name);
            let pools = config.backends.iter().enumerate().map(|(member, backend)| {
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
                        Rc::new(BackendPool::new(worker, state, member, tls, names, &cell))
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
            let ids = config.backends.iter().map(|backend| backend.id.as_str());
            UpstreamView {
                backend_metrics: cell.backends(ids),
                metrics: Arc::clone(&cell),
                policy: Policy {
                    failover: config.affinity.failover,
                    balance_percent: config.affinity.balance_percent,
                    checked: config.health_check.is_some(),
                },
                pools: pools.collect(),
                away: away.collect(),
                budget,
                state: Arc::clone(state),
            }
        });
        let upstreams: Vec<UpstreamView> = upstreams.collect();
        let announces = upstreams.iter().any(|upstream| upstream.state.config.proxy_protocol.is_some());
        // Requests in flight may finish, but their connections are not pooled again.
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
    /// Returns the settings of a listener; `None` if a reload has removed it.
    pub(crate) fn listener(&self, id: &ListenerId) -> Option<&ListenerSettings> {
        self.listeners.iter().find(|listener| listener.id == *id)
    }

    /// Returns the upstream of a route.
    pub(crate) fn upstream_of(&self, route: usize) -> &UpstreamView {
        &self.upstreams[self.snapshot.config.routes[route].upstream]
    }
}

impl UpstreamView {
    /// Returns the slot of a member.
    pub(crate) fn slot(&self, member: u16) -> Slot {
        self.state.cluster.members()[usize::from(member)].slot
    }

    /// Returns the id of a member.
    pub(crate) fn id(&self, member: u16) -> &BackendId {
        &self.state.cluster.members()[usize::from(member)].id
    }

    /// Returns since when a member has been unable to serve its sessions. `None` if it can.
    pub(crate) fn away_since(&self, member: u16) -> Option<Instant> {
        self.away.get(usize::from(member)).copied().flatten()
    }

    /// Returns true if 5xx responses count against a backend.
    pub(crate) fn counts_server_errors(&self) -> bool {
        self.state.config.passive.as_ref().is_some_and(|passive| passive.max_5xx.is_some())
    }

    /// Creates a report to the control plane about a member.
    pub(crate) fn report(&self, member: u16, observation: Observation) -> Report {
        Report { upstream: Arc::clone(&self.state.config.name), slot: self.slot(member), observation }
    }
}

impl Loads for UpstreamView {
    fn in_flight(&self, index: u16) -> u32 {
        self.state.live[usize::from(index)].in_flight()
    }

    fn saturated(&self, index: u16) -> bool {
        self.state.live[usize::from(index)].is_full()
    }
}
