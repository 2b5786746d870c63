//! The counters of all workers and the page that a scrape reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

use super::access_log::{AccessLog, LogCounts};
use super::backend::BackendMetrics;
use super::class::CLASS_WORDS;
use super::counter::Counter;
use super::exposition::{Exposition, Family};
use super::families;
use super::histogram::Histogram;
use super::outcomes::{OUTCOMES, REASONS};
use super::process::Process;
use super::refusal::Refusal;
use super::upstream_page;
use super::worker::{Http2Metrics, Source, UpstreamMetrics, WorkerMetrics};
use crate::affinity::recall::Layer;
use crate::model::snapshot::Snapshot;

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    workers: Box<[Arc<WorkerMetrics>]>,
    access_log: Mutex<LogSource>,
    config: Mutex<ConfigStatus>,
}

/// The configuration in effect, and whether a later one was refused.
#[derive(Debug)]
struct ConfigStatus {
    /// Whether the latest attempt to load a configuration succeeded.
    success: bool,
    /// When the configuration in effect was loaded.
    loaded: SystemTime,
}

/// The counts of the access log.
#[derive(Debug, Default)]
struct LogSource {
    current: Option<Arc<LogCounts>>,
    /// Counts of earlier access logs: (dropped, errors).
    earlier: (u64, u64),
}

impl Metrics {
    /// Creates counters for this many workers.
    pub fn new(workers: usize) -> Self {
        let config = ConfigStatus { success: true, loaded: SystemTime::now() };
        Self {
            workers: (0..workers).map(|_| Arc::default()).collect(),
            access_log: Mutex::default(),
            config: Mutex::new(config),
        }
    }

    /// Returns the counters of worker `index`. Only its thread may write to them.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn worker(&self, index: usize) -> Arc<WorkerMetrics> {
        Arc::clone(&self.workers[index])
    }

    /// Notes the outcome of a reload, which ended at this time.
    pub fn note_reload(&self, success: bool, at: SystemTime) {
        let mut config = self.config.lock();
        config.success = success;
        if success {
            config.loaded = at;
        }
    }

    /// Exposes the losses of this access log, added to those of earlier logs.
    pub fn watch_access_log(&self, log: &AccessLog) {
        let mut source = self.access_log.lock();
        if let Some(previous) = source.current.replace(log.counts()) {
            source.earlier.0 += previous.dropped();
            source.earlier.1 += previous.errors();
        }
    }

    /// Renders the page in the Prometheus text format
    /// ([`CONTENT_TYPE`](super::exposition::CONTENT_TYPE)).
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let mut page = Exposition::default();
        page.family(&families::INFO).sample(&[env!("CARGO_PKG_VERSION")], 1);
        page.family(&families::SNAPSHOT_GENERATION).sample(&[], snapshot.generation);
        self.render_config(&mut page);
        self.render_connections(&mut page);
        self.render_handshakes(&mut page);
        render_certificates(&mut page, snapshot);
        render_requests(&mut page, &self.totals(snapshot));
        upstream_page::queues(&mut page, &snapshot.upstreams);
        upstream_page::backends(&mut page, &snapshot.upstreams);
        self.render_backend_requests(&mut page, snapshot);
        self.render_access_log(&mut page);
        render_process(&mut page, &Process::read());
        page.finish()
    }

    /// Returns the requests of an upstream whose session was known, by the layer that knew it.
    pub fn recalled(&self, upstream: &str) -> Vec<(Layer, u64)> {
        let cells: Vec<_> = self.workers.iter().map(|worker| worker.upstream(upstream)).collect();
        let sum = |layer| cells.iter().map(|cell| cell.recalled[layer as usize].get()).sum();
        [Layer::Table, Layer::Cookie].map(|layer| (layer, sum(layer))).to_vec()
    }

    /// Sums the workers' counters by upstream. Upstreams that a reload removed are kept, so that no
    /// counter ever decreases. `""` holds requests without an upstream.
    fn totals(&self, snapshot: &Snapshot) -> BTreeMap<Arc<str>, UpstreamMetrics> {
        let mut totals = BTreeMap::<Arc<str>, UpstreamMetrics>::new();
        let unrouted = totals.entry(Arc::from("")).or_default();
        for worker in &self.workers {
            unrouted.absorb(worker.unrouted());
        }
        for upstream in &snapshot.upstreams {
            totals.entry(Arc::clone(&upstream.config.name)).or_default();
        }
        for (name, cell) in self.workers.iter().flat_map(|worker| worker.upstreams()) {
            totals.entry(name).or_default().absorb(&cell);
        }
        totals
    }

    fn render_backend_requests(&self, page: &mut Exposition, snapshot: &Snapshot) {
        let mut sums = BTreeMap::<Arc<str>, BTreeMap<Box<str>, BackendMetrics>>::new();
        for (name, cell) in self.workers.iter().flat_map(|worker| worker.upstreams()) {
            cell.sum_backends(sums.entry(name).or_default());
        }
        let none = BackendMetrics::default();
        let backends: Vec<_> = snapshot
            .upstreams
            .iter()
            .flat_map(|upstream| {
                let (name, sums) = (&upstream.config.name, sums.get(&upstream.config.name));
                upstream.cluster.members().iter().map(move |member| (name, sums, member.id.as_str()))
            })
            .map(|(name, sums, id)| ([&**name, id], sums.and_then(|sums| sums.get(id)).unwrap_or(&none)))
            .collect();
        let mut samples = page.family(&families::BACKEND_RESPONSES);
        for ([upstream, id], cell) in &backends {
            for (class, count) in CLASS_WORDS.iter().zip(&cell.responses) {
                samples.sample(&[upstream, id, class], count.get());
            }
        }
        let mut samples = page.family(&families::BACKEND_RESPONSE_HEAD);
        for (labels, cell) in &backends {
            samples.histogram(labels, &cell.latency);
        }
        let mut samples = page.family(&families::BACKEND_FAILURES);
        for ([upstream, id], cell) in &backends {
            for (error, count) in cell.failures.iter() {
                samples.sample(&[upstream, id, error], count);
            }
        }
    }

    fn render_config(&self, page: &mut Exposition) {
        let (success, loaded) = {
            let config = self.config.lock();
            (config.success, config.loaded.duration_since(UNIX_EPOCH).unwrap_or_default())
        };
        page.family(&families::CONFIG_RELOAD_SUCCESS).sample(&[], u8::from(success));
        page.family(&families::CONFIG_RELOAD_TIMESTAMP).sample(&[], loaded.as_secs());
    }

    fn render_connections(&self, page: &mut Exposition) {
        let (mut open, mut accepted, mut tunnels, mut tunnels_opened) = (0, 0, 0, 0);
        let mut refused = [0; Refusal::ALL.len()];
        for worker in &self.workers {
            let (o, a) = worker.connections();
            (open, accepted) = (open + o, accepted + a);
            for (sum, own) in refused.iter_mut().zip(worker.refused()) {
                *sum += own;
            }
            let (t, total) = worker.tunnels();
            (tunnels, tunnels_opened) = (tunnels + t, tunnels_opened + total);
        }
        page.family(&families::CONNECTIONS).sample(&[], open);
        page.family(&families::CONNECTIONS_ACCEPTED).sample(&[], accepted);
        let mut samples = page.family(&families::CONNECTIONS_REFUSED);
        for (refusal, count) in Refusal::ALL.iter().zip(refused) {
            samples.sample(&[refusal.as_str()], count);
        }
        page.family(&families::TUNNELS).sample(&[], tunnels);
        page.family(&families::TUNNELS_OPENED).sample(&[], tunnels_opened);
        page.family(&families::EVENT_STREAMS).sample(&[], self.event_streams());
        let sum = |read: fn(&Http2Metrics) -> &Counter| -> u64 {
            self.workers.iter().map(|worker| read(&worker.http2).get()).sum()
        };
        page.family(&families::HTTP2_CONNECTIONS).sample(&[], sum(|http2| &http2.connections));
        let mut streams = page.family(&families::HTTP2_STREAMS);
        streams.sample(&["served"], sum(|http2| &http2.served));
        streams.sample(&["malformed"], sum(|http2| &http2.malformed));
        streams.sample(&["refused"], sum(|http2| &http2.refused));
        let waiting: u64 = self.workers.iter().map(|worker| worker.waiting_memory.get()).sum();
        page.family(&families::WAITING_MEMORY).sample(&[], waiting);
        page.family(&families::HTTP2_FLOODS).sample(&[], sum(|http2| &http2.floods));
    }

    fn event_streams(&self) -> u64 {
        self.workers.iter().map(|worker| worker.event_streams()).sum()
    }

    /// Returns the number of tunnels and event streams open now.
    pub fn endless_streams(&self) -> u64 {
        self.event_streams() + self.workers.iter().map(|worker| worker.tunnels().0).sum::<u64>()
    }

    fn render_handshakes(&self, page: &mut Exposition) {
        let mut refused = BTreeMap::<&'static str, u64>::new();
        for (reason, n) in self.workers.iter().flat_map(|worker| worker.refused_headers().iter()) {
            *refused.entry(reason).or_default() += n;
        }
        let mut samples = page.family(&families::PROXY_HEADERS_REFUSED);
        for (reason, count) in refused {
            samples.sample(&[reason], count);
        }
        let mut counts = [[0; 2]; 2];
        let mut failed = BTreeMap::<&'static str, u64>::new();
        for worker in &self.workers {
            let (own, own_failed) = worker.handshakes();
            for (sum, own) in counts.iter_mut().flatten().zip(own.iter().flatten()) {
                *sum += own;
            }
            for (reason, n) in own_failed.iter() {
                *failed.entry(reason).or_default() += n;
            }
        }
        let mut samples = page.family(&families::TLS_HANDSHAKES);
        for (version, counts) in ["1.2", "1.3"].iter().zip(counts) {
            for (result, count) in ["full", "resumed"].iter().zip(counts) {
                samples.sample(&[version, result], count);
            }
        }
        for (reason, count) in failed {
            samples.sample(&["none", reason], count);
        }
    }

    fn render_access_log(&self, page: &mut Exposition) {
        let (dropped, errors) = {
            let source = self.access_log.lock();
            let (dropped, errors) =
                source.current.as_ref().map_or((0, 0), |log| (log.dropped(), log.errors()));
            (source.earlier.0 + dropped, source.earlier.1 + errors)
        };
        page.family(&families::ACCESS_LOG_DROPPED).sample(&[], dropped);
        page.family(&families::ACCESS_LOG_ERRORS).sample(&[], errors);
    }
}

fn render_certificates(page: &mut Exposition, snapshot: &Snapshot) {
    let mut samples = page.family(&families::TLS_CERTIFICATE_EXPIRY);
    for (index, listener) in snapshot.config.listeners.iter().enumerate() {
        let Some(live) = snapshot.tls.listener(index).and_then(|tls| tls.live()) else { continue };
        let address = listener.bind.to_string();
        // If several certificates have the same name, report the first to expire.
        let mut expiry = BTreeMap::<String, u64>::new();
        for identity in live.identities.iter() {
            let at = identity.facts.not_after.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            for name in &identity.facts.names {
                expiry.entry(name.to_string()).and_modify(|known| *known = at.min(*known)).or_insert(at);
            }
        }
        for (name, at) in expiry {
            samples.sample(&[&address, &name], at);
        }
    }
}

fn render_requests(page: &mut Exposition, totals: &BTreeMap<Arc<str>, UpstreamMetrics>) {
    let mut samples = page.family(&families::REQUESTS);
    for (name, total) in totals {
        for (outcome, reasons) in total.requests.iter().enumerate() {
            for (reason, count) in reasons.iter().enumerate() {
                // `increase()` misses the first count of a series that starts with it, so expose all expected
                // series from the start.
                if count.get() > 0 || (!name.is_empty() && is_usual(outcome, reason)) {
                    let outcome = OUTCOMES.get(outcome).map_or("none", |outcome| outcome.as_str());
                    let reason = REASONS.get(reason).map_or("", |reason| reason.as_str());
                    samples.sample(&[name, outcome, reason], count.get());
                }
            }
        }
    }

    let mut samples = page.family(&families::RECALLED);
    for (name, total) in totals.iter().filter(|(name, _)| !name.is_empty()) {
        for layer in [Layer::Table, Layer::Cookie] {
            samples.sample(&[name, layer.as_str()], total.recalled[layer as usize].get());
        }
    }

    let mut samples = page.family(&families::SESSIONS_BY_ADDRESS);
    for (name, total) in totals.iter().filter(|(name, _)| !name.is_empty()) {
        for (address, count) in ["largest", "other"].iter().zip(&total.by_address) {
            samples.sample(&[name, address], count.get());
        }
    }

    let mut samples = page.family(&families::RESPONSES);
    for (name, total) in totals {
        for (source, word) in [(Source::Backend, "backend"), (Source::Proxy, "proxy")] {
            for (class, count) in total.responses[source as usize].iter().enumerate() {
                let usual = match source {
                    Source::Backend => class > 0 && !name.is_empty(),
                    Source::Proxy => class >= 3,
                };
                if count.get() > 0 || usual {
                    samples.sample(&[name, CLASS_WORDS[class], word], count.get());
                }
            }
        }
    }

    let mut samples = page.family(&families::ERRORS);
    for (name, total) in totals {
        for (error, count) in total.errors.iter() {
            samples.sample(&[name, error], count);
        }
    }

    let mut histograms = |family, histogram: fn(&UpstreamMetrics) -> &Histogram| {
        let mut samples = page.family(family);
        for (name, total) in totals {
            samples.histogram(&[name], histogram(total));
        }
    };
    histograms(&families::REQUEST_DURATION, |total| &total.duration);
    histograms(&families::RESPONSE_HEAD, |total| &total.response_head);
    histograms(&families::CONNECT, |total| &total.connect);

    let mut counters = |family, value: fn(&UpstreamMetrics) -> u64| {
        let mut samples = page.family(family);
        for (name, total) in totals {
            samples.sample(&[name], value(total));
        }
    };
    counters(&families::ATTEMPTS, |total| total.attempts.get());
    counters(&families::RETRIES, |total| total.retries.get());
    counters(&families::RECEIVED, |total| total.bytes_in.get());
    counters(&families::SENT, |total| total.bytes_out.get());

    let mut samples = page.family(&families::POOL_CONNECTIONS);
    for (name, total) in totals.iter().filter(|(name, _)| !name.is_empty()) {
        samples.sample(&[name, "fresh"], total.fresh.get());
        samples.sample(&[name, "reused"], total.reused.get());
    }
    let mut samples = page.family(&families::BACKEND_HTTP2_CANCELLED);
    for (name, total) in totals.iter().filter(|(name, _)| !name.is_empty()) {
        samples.sample(&[name, "finished"], total.cancelled_finished.get());
        samples.sample(&[name, "reset"], total.cancelled_reset.get());
    }
    let mut samples = page.family(&families::BACKEND_HTTP2_ISOLATED);
    for (name, total) in totals.iter().filter(|(name, _)| !name.is_empty()) {
        samples.sample(&[name], total.isolated.get());
    }
}

/// Returns whether a pair of outcome and reason occurs in normal operation.
fn is_usual(outcome: usize, reason: usize) -> bool {
    use crate::affinity::pick::Outcome;
    let has_reason = reason < REASONS.len();
    match OUTCOMES.get(outcome) {
        Some(Outcome::Kept | Outcome::Unkeyed) => !has_reason,
        Some(Outcome::New) => true,
        Some(Outcome::Moved) => has_reason,
        None => false,
    }
}

fn render_process(page: &mut Exposition, process: &Process) {
    let mut gauge = |family: &'static Family, value: Option<f64>| {
        if let Some(value) = value {
            page.family(family).sample(&[], value);
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "descriptors, threads and bytes stay below 2^53")]
    let float = |n: u64| n as f64;
    gauge(&families::PROCESS_CPU, process.cpu.map(|cpu| cpu.as_secs_f64()));
    gauge(&families::PROCESS_OPEN_FDS, process.open_fds.map(float));
    gauge(&families::PROCESS_MAX_FDS, process.max_fds.map(float));
    gauge(&families::PROCESS_RESIDENT, process.resident_bytes.map(float));
    gauge(&families::PROCESS_THREADS, process.threads.map(float));
    gauge(&families::PROCESS_START, process.started.map(|started| started.as_secs_f64()));
}

#[cfg(test)]
mod tests;
