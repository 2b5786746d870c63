//! The tasks that run active checks, one per checked backend.
//!
//! After each check, a task reports to the controller and waits for the time of the next check. It
//! cannot run ahead of the controller, so results never pile up.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ahash::{HashMap, HashMapExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::probe::{ProbeResult, Prober};
use crate::affinity::{AdminState, Slot};
use crate::dial::dialer::Dialer;
use crate::dial::names::Names;
use crate::model::live::{BackendLive, LastCheck};
use crate::model::snapshot::Snapshot;
use crate::model::{Address, HealthCheck, Probe, ProxyVersion, Upstream};
use crate::tls;

/// A finished check.
#[derive(Debug)]
pub(super) struct Checked {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The backend.
    pub slot: Slot,
    /// The result.
    pub result: ProbeResult,
    /// Takes the time from the start of this check to the start of the next one. Dropping it stops the
    /// task.
    pub next: oneshot::Sender<Duration>,
}

/// All prober tasks. Dropping this stops them.
#[derive(Debug)]
pub(super) struct Probers {
    tasks: HashMap<(Arc<str>, Slot), Task>,
    results: mpsc::Sender<Checked>,
    names: Arc<Names>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

/// The backend of a new task.
struct Place<'a> {
    address: &'a Address,
    live: &'a Arc<BackendLive>,
    /// Time before the first check.
    delay: Duration,
}

#[derive(Debug)]
struct Task {
    address: Address,
    check: HealthCheck,
    tls: Option<Arc<tls::Client>>,
    http2: bool,
    proxy_protocol: Option<ProxyVersion>,
    _stop: DropGuard,
}

impl Probers {
    /// Creates an empty set. Tasks will send to `results`.
    pub(super) fn new(
        results: mpsc::Sender<Checked>,
        names: Arc<Names>,
        tracker: TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        Self { tasks: HashMap::new(), results, names, tracker, cancel }
    }

    /// Stops, starts and restarts tasks to match `snapshot`. Backends in maintenance are not checked.
    pub(super) fn reconcile(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.tasks);
        for (number, upstream) in snapshot.upstreams.iter().enumerate() {
            let tls = snapshot.tls.upstream(number);
            let Some(check) = &upstream.config.health_check else { continue };
            let total = u32::try_from(upstream.config.backends.len()).unwrap_or(u32::MAX).max(1);
            // Spread the first checks evenly over a short time.
            let spread = check.interval.min(FIRST_WITHIN) / total;
            let live = upstream.live.iter();
            for (index, ((member, backend), live)) in
                (0u32..).zip(upstream.cluster.members().iter().zip(&upstream.config.backends).zip(live))
            {
                if member.admin == AdminState::Maint {
                    continue;
                }
                let key = (Arc::clone(&upstream.config.name), member.slot);
                let task = match before.remove(&key) {
                    Some(task) if task.matches(check, &backend.address, &upstream.config, tls) => task,
                    Some(_) | None => {
                        let delay = spread.saturating_mul(index);
                        let place = Place { address: &backend.address, live, delay };
                        self.spawn(key.clone(), place, check, &upstream.config, tls)
                    }
                };
                self.tasks.insert(key, task);
            }
        }
    }

    fn spawn(
        &self,
        (upstream, slot): (Arc<str>, Slot),
        Place { address, live, delay }: Place<'_>,
        check: &HealthCheck,
        config: &Upstream,
        tls: Option<&Arc<tls::Client>>,
    ) -> Task {
        let stop = self.cancel.child_token();
        let (tls, http2) = (tls.cloned(), config.protocol.is_http2());
        let dialer = Dialer::new(address.clone(), &self.names);
        let dialer = match check.probe {
            // A TCP check only connects.
            Probe::Tcp => dialer,
            // No sessions: each check performs a full handshake.
            Probe::Http { .. } => dialer.with_tls(tls.as_ref(), 0).with_http2(http2),
        };
        let prober = Prober::new(dialer, check.probe.clone(), check.timeout)
            .with_http2(http2)
            .with_proxy_protocol(config.proxy_protocol);
        let run = run(upstream, slot, prober, Arc::clone(live), delay, self.results.clone());
        let stopped = stop.clone();
        self.tracker.spawn(async move { stopped.run_until_cancelled(run).await });
        Task {
            address: address.clone(),
            check: check.clone(),
            tls,
            http2,
            proxy_protocol: config.proxy_protocol,
            _stop: stop.drop_guard(),
        }
    }
}

impl Task {
    fn matches(
        &self,
        check: &HealthCheck,
        address: &Address,
        config: &Upstream,
        tls: Option<&Arc<tls::Client>>,
    ) -> bool {
        let same_tls = match (&self.tls, tls) {
            (Some(own), Some(tls)) => Arc::ptr_eq(own, tls),
            (own, tls) => own.is_none() && tls.is_none(),
        };
        self.check == *check
            && self.address == *address
            && same_tls
            && self.http2 == config.protocol.is_http2()
            && self.proxy_protocol == config.proxy_protocol
    }
}

async fn run(
    upstream: Arc<str>,
    slot: Slot,
    mut prober: Prober,
    live: Arc<BackendLive>,
    delay: Duration,
    results: mpsc::Sender<Checked>,
) {
    let mut due = Instant::now() + delay;
    loop {
        tokio::time::sleep_until(due).await;
        let began = Instant::now();
        let result = prober.check().await;
        live.checked(LastCheck {
            at: SystemTime::now(),
            latency: began.elapsed(),
            result: result.to_string(),
        });
        let (next, interval) = oneshot::channel();
        if results.send(Checked { upstream: Arc::clone(&upstream), slot, result, next }).await.is_err() {
            return;
        }
        let Ok(interval) = interval.await else { return };
        // The next check would be beyond the range of `Instant`.
        let Some(next) = began.checked_add(jitter(interval)) else { return };
        due = next;
    }
}

/// Returns `interval` with a jitter of ±10%, so that the checks of many proxies do not synchronize.
fn jitter(interval: Duration) -> Duration {
    (interval / 10 * 9).saturating_add((interval / 5).mul_f64(fastrand::f64()))
}

/// The first check of a backend starts within this time or the interval, whichever is shorter.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
