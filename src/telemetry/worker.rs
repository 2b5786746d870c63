//! The counters of one worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Record;
use super::backend::BackendMetrics;
use super::class::{CLASSES, class_of};
use super::counter::{Counter, NamedCounters};
use super::histogram::Histogram;
use super::outcomes::{OUTCOMES, REASONS, outcome_index, reason_index};
use super::refusal::Refusal;
use crate::affinity::crowd::Share;

/// The counters of one worker. Only the worker's own thread may call the methods that count. A second
/// thread would lose counts.
///
/// A worker looks up an upstream's cell with [`WorkerMetrics::upstream`] when it sees a new snapshot,
/// keeps it beside the snapshot and counts with [`WorkerMetrics::record_in`], so there is no lock and
/// no lookup per request. Cells are keyed by the upstream's name and survive reloads.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct WorkerMetrics {
    accepted: Counter,
    closed: Counter,
    /// By [`Refusal`].
    refused: [Counter; Refusal::ALL.len()],
    /// By TLS version (1.2, 1.3) and whether the session was resumed.
    handshakes: [[Counter; 2]; 2],
    failed_handshakes: NamedCounters,
    refused_headers: NamedCounters,
    tunnels_opened: Counter,
    tunnels_closed: Counter,
    event_streams_opened: Counter,
    event_streams_closed: Counter,
    pub(crate) http2: Http2Metrics,
    pub(crate) waiting_memory: Counter,
    /// Requests that matched no route or whose head could not be read.
    unrouted: UpstreamMetrics,
    /// Locked when the snapshot changes and by scrapes, never for a request.
    upstreams: Mutex<BTreeMap<Arc<str>, Arc<UpstreamMetrics>>>,
}

/// The HTTP/2 counters of one worker.
#[derive(Debug, Default)]
pub(crate) struct Http2Metrics {
    pub(crate) connections: Counter,
    pub(crate) served: Counter,
    pub(crate) malformed: Counter,
    pub(crate) refused: Counter,
    pub(crate) floods: Counter,
}

/// The counters of one worker for one upstream.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct UpstreamMetrics {
    /// By outcome and reason. The last index of each means none.
    pub(crate) requests: [[Counter; REASONS.len() + 1]; OUTCOMES.len() + 1],
    /// By [`Source`] and class (1xx is index 0).
    pub(crate) responses: [[Counter; CLASSES]; 2],
    /// Requests whose session was known, by [`Layer`].
    pub(crate) recalled: [Counter; 2],
    /// New sessions placed by address: of the address that brought most, and of the others.
    pub(crate) by_address: [Counter; 2],
    pub(crate) errors: NamedCounters,
    pub(crate) duration: Histogram,
    pub(crate) response_head: Histogram,
    pub(crate) connect: Histogram,
    pub(crate) attempts: Counter,
    pub(crate) retries: Counter,
    pub(crate) fresh: Counter,
    pub(crate) reused: Counter,
    pub(crate) cancelled_finished: Counter,
    pub(crate) cancelled_reset: Counter,
    pub(crate) isolated: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    /// By id. Locked when the snapshot changes and by scrapes, never for a request.
    backends: Mutex<BTreeMap<Box<str>, Arc<BackendMetrics>>>,
}

/// Counts an open event stream until it is dropped.
#[derive(Debug)]
pub struct OpenEventStream<'a>(&'a WorkerMetrics);

impl Drop for OpenEventStream<'_> {
    fn drop(&mut self) {
        self.0.event_streams_closed.add(1);
    }
}

/// The origin of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Backend,
    Proxy,
}

impl WorkerMetrics {
    /// Returns the cell of an upstream and creates it if needed. Takes a lock, so call it once per
    /// snapshot, not per request.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        let mut upstreams = self.upstreams.lock();
        if let Some(cell) = upstreams.get(name) {
            return Arc::clone(cell);
        }
        let cell = Arc::<UpstreamMetrics>::default();
        upstreams.insert(Arc::from(name), Arc::clone(&cell));
        cell
    }

    /// Counts a finished request. Looks up the upstream's cell by name under a lock. Callers that have
    /// the cell use [`WorkerMetrics::record_in`].
    pub fn record(&self, record: &Record<'_>) {
        match record.upstream {
            Some(upstream) => self.record_in(&self.upstream(&upstream.config.name), record),
            None => self.record_in(&self.unrouted, record),
        }
    }

    /// Counts a finished request in its upstream's cell.
    pub fn record_in(&self, cell: &UpstreamMetrics, record: &Record<'_>) {
        cell.record(record);
    }

    /// Counts an accepted client connection.
    pub fn connection_opened(&self) {
        self.accepted.add(1);
    }

    /// Counts the end of an accepted client connection.
    pub fn connection_closed(&self) {
        self.closed.add(1);
    }

    /// Counts a client connection that was closed immediately because of a limit. It does not count as
    /// accepted.
    pub fn refused_connection(&self, refusal: Refusal) {
        self.refused[refusal as usize].add(1);
    }

    /// Counts a client connection that uses HTTP/2.
    pub fn http2_opened(&self) {
        self.http2.connections.add(1);
    }

    /// Counts a stream that a client opened. `malformed` means it had no valid request.
    pub fn http2_stream(&self, malformed: bool) {
        if malformed { self.http2.malformed.add(1) } else { self.http2.served.add(1) }
    }

    /// Counts a stream that was refused because its client has too many.
    pub fn http2_refused(&self) {
        self.http2.refused.add(1);
    }

    /// Sets the memory that waiting connections and requests hold, in bytes.
    pub fn set_waiting_memory(&self, bytes: u64) {
        self.waiting_memory.set(bytes);
    }

    /// Counts a client's HTTP/2 connection that was closed because of a flood of frames.
    pub fn http2_flooded(&self) {
        self.http2.floods.add(1);
    }

    /// Counts a successful TLS handshake with a client, with TLS 1.3 (`newest`) or 1.2.
    pub fn tls_handshake(&self, newest: bool, resumed: bool) {
        self.handshakes[usize::from(newest)][usize::from(resumed)].add(1);
    }

    /// Counts a failed TLS handshake with a client.
    pub fn tls_handshake_failed(&self, reason: &'static str) {
        self.failed_handshakes.add(reason, 1);
    }

    /// Counts a client connection that was closed because of its PROXY header.
    pub fn proxy_header_refused(&self, reason: &'static str) {
        self.refused_headers.add(reason, 1);
    }

    /// Returns rejected PROXY headers by reason.
    pub(crate) fn refused_headers(&self) -> &NamedCounters {
        &self.refused_headers
    }

    /// Returns TLS handshakes by version and resumption, and failed ones by reason.
    pub(crate) fn handshakes(&self) -> ([[u64; 2]; 2], &NamedCounters) {
        let counts = self.handshakes.each_ref().map(|version| version.each_ref().map(Counter::get));
        (counts, &self.failed_handshakes)
    }

    /// Counts a connection that was upgraded to a tunnel.
    pub fn tunnel_opened(&self) {
        self.tunnels_opened.add(1);
    }

    /// Counts the end of a tunnel.
    pub fn tunnel_closed(&self) {
        self.tunnels_closed.add(1);
    }

    /// Counts an event stream until the result is dropped.
    pub fn event_stream(&self) -> OpenEventStream<'_> {
        self.event_streams_opened.add(1);
        OpenEventStream(self)
    }

    /// Returns the number of open event streams.
    pub(crate) fn event_streams(&self) -> u64 {
        let closed = self.event_streams_closed.get();
        self.event_streams_opened.get().saturating_sub(closed)
    }

    /// Returns refused client connections by [`Refusal`].
    pub(crate) fn refused(&self) -> [u64; Refusal::ALL.len()] {
        self.refused.each_ref().map(Counter::get)
    }

    /// Returns client connections: (open now, accepted).
    pub(crate) fn connections(&self) -> (u64, u64) {
        // Read `closed` first, so that a connection that closes in between cannot make the difference
        // negative.
        let closed = self.closed.get();
        let accepted = self.accepted.get();
        (accepted.saturating_sub(closed), accepted)
    }

    /// Returns tunnels: (open now, opened).
    pub(crate) fn tunnels(&self) -> (u64, u64) {
        let closed = self.tunnels_closed.get();
        let opened = self.tunnels_opened.get();
        (opened.saturating_sub(closed), opened)
    }

    /// Returns the counters for requests without an upstream.
    pub(crate) fn unrouted(&self) -> &UpstreamMetrics {
        &self.unrouted
    }

    /// Returns the cells of all upstreams.
    pub(crate) fn upstreams(&self) -> Vec<(Arc<str>, Arc<UpstreamMetrics>)> {
        self.upstreams.lock().iter().map(|(name, cell)| (Arc::clone(name), Arc::clone(cell))).collect()
    }
}

impl UpstreamMetrics {
    /// Returns the cells of these backends, and forgets all others. Takes a lock, so call it once per
    /// snapshot.
    pub fn backends<'a>(&self, ids: impl Iterator<Item = &'a str>) -> Vec<Arc<BackendMetrics>> {
        let mut backends = self.backends.lock();
        let mut before = std::mem::take(&mut *backends);
        let cells = ids.map(|id| {
            let cell = before.remove(id).unwrap_or_default();
            backends.insert(id.into(), Arc::clone(&cell));
            cell
        });
        cells.collect()
    }

    /// Adds up the counts of backends by id.
    pub(crate) fn sum_backends(&self, sums: &mut BTreeMap<Box<str>, BackendMetrics>) {
        for (id, cell) in &*self.backends.lock() {
            sums.entry(id.clone()).or_default().absorb(cell);
        }
    }

    /// Counts a new connection to a backend.
    pub fn connection_opened(&self) {
        self.fresh.add(1);
    }

    /// Counts a request on a pooled connection.
    pub fn connection_reused(&self) {
        self.reused.add(1);
    }

    /// Counts new sessions that were placed by the client's address.
    pub fn placed_by_address(&self, share: Share) {
        self.by_address[0].add(u64::from(share.largest));
        self.by_address[1].add(u64::from(share.others));
    }

    /// Counts a cancelled request to an HTTP/2 backend: it finished nevertheless, or was reset.
    pub fn request_cancelled(&self, finished: bool) {
        if finished { self.cancelled_finished.add(1) } else { self.cancelled_reset.add(1) }
    }

    /// Counts a new HTTP/2 connection to a backend that only one client uses.
    pub fn connection_isolated(&self) {
        self.isolated.add(1);
    }

    fn record(&self, record: &Record<'_>) {
        let outcome = record.outcome.map_or(OUTCOMES.len(), outcome_index);
        let reason = record.reason.map_or(REASONS.len(), reason_index);
        self.requests[outcome][reason].add(1);

        if let Some(layer) = record.layer {
            self.recalled[layer as usize].add(1);
        }

        self.responses[source(record) as usize][class_of(record.status)].add(1);
        if let Some(error) = record.error {
            self.errors.add(error, 1);
        }

        // Tunnels live for hours and say nothing about request latency.
        if !record.tunnel {
            self.duration.observe(record.duration);
        }
        if let Some(first_byte) = record.first_byte {
            self.response_head.observe(first_byte);
        }
        if !record.connect.is_zero() {
            self.connect.observe(record.connect);
        }

        self.attempts.add(u64::from(record.attempts));
        self.retries.add(u64::from(record.attempts.saturating_sub(1)));
        self.bytes_in.add(record.bytes_in);
        self.bytes_out.add(record.bytes_out);
    }

    /// Adds the counts of `other`. A scrape uses this to sum over workers.
    pub(crate) fn absorb(&self, other: &Self) {
        let tables = self.requests.iter().flatten().zip(other.requests.iter().flatten());
        let tables = tables.chain(self.responses.iter().flatten().zip(other.responses.iter().flatten()));
        let tables = tables.chain(self.recalled.iter().zip(&other.recalled));
        let tables = tables.chain(self.by_address.iter().zip(&other.by_address));
        for (mine, theirs) in tables {
            mine.add(theirs.get());
        }
        for (name, n) in other.errors.iter() {
            self.errors.add(name, n);
        }
        for (mine, theirs) in [
            (&self.duration, &other.duration),
            (&self.response_head, &other.response_head),
            (&self.connect, &other.connect),
        ] {
            mine.absorb(theirs);
        }
        for (mine, theirs) in [
            (&self.attempts, &other.attempts),
            (&self.retries, &other.retries),
            (&self.fresh, &other.fresh),
            (&self.reused, &other.reused),
            (&self.bytes_in, &other.bytes_in),
            (&self.bytes_out, &other.bytes_out),
            (&self.cancelled_finished, &other.cancelled_finished),
            (&self.cancelled_reset, &other.cancelled_reset),
            (&self.isolated, &other.isolated),
        ] {
            mine.add(theirs.get());
        }
    }
}

/// Returns the origin of a response. An error with a status below 400 is a backend's response that
/// was aborted after its head. Homing's own responses are 4xx and 5xx, or a redirect before an
/// upstream was chosen.
fn source(record: &Record<'_>) -> Source {
    let own = record.status >= 400 || record.upstream.is_none();
    if record.error.is_some() && own { Source::Proxy } else { Source::Backend }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::affinity::pick::{Outcome, Reason};
    use crate::telemetry::fixture;

    #[test]
    fn cell_outlives_its_snapshot() {
        let worker = WorkerMetrics::default();
        let before = worker.upstream("shop");
        assert!(Arc::ptr_eq(&before, &worker.upstream("shop")));
        assert!(!Arc::ptr_eq(&before, &worker.upstream("blog")));
    }

    #[test]
    fn cells_of_backends_survive_until_the_backend_is_removed() {
        let upstream = UpstreamMetrics::default();
        let before = upstream.backends(["a", "b"].into_iter());
        let after = upstream.backends(["b", "c"].into_iter());
        assert!(Arc::ptr_eq(&before[1], &after[0]));
        let again = upstream.backends(["a"].into_iter());
        assert!(!Arc::ptr_eq(&before[0], &again[0]), "kept the cell of a removed backend");
    }

    #[test]
    fn record_and_record_in_use_the_same_cell() {
        let worker = WorkerMetrics::default();
        let upstream = fixture::upstream("shop", &["node1"]);
        let cell = worker.upstream("shop");
        worker.record_in(&cell, &fixture::record(&upstream));
        worker.record(&fixture::record(&upstream));
        worker.record(&fixture::unrouted());
        assert_eq!(cell.requests[outcome_index(Outcome::Kept)][REASONS.len()].get(), 2);
        assert_eq!(worker.unrouted().requests[OUTCOMES.len()][REASONS.len()].get(), 1);
    }

    #[test]
    fn every_outcome_and_reason_has_its_own_counter() {
        let worker = WorkerMetrics::default();
        let upstream = fixture::upstream("shop", &["node1"]);
        let cell = worker.upstream("shop");
        for outcome in OUTCOMES.map(Some).into_iter().chain([None]) {
            for reason in REASONS.map(Some).into_iter().chain([None]) {
                worker.record_in(&cell, &Record { outcome, reason, ..fixture::record(&upstream) });
            }
        }
        assert!(cell.requests.iter().flatten().all(|counter| counter.get() == 1));
    }

    #[test]
    fn aborted_response_counts_as_the_backends() {
        let upstream = fixture::upstream("shop", &["node1"]);
        let of = |status, error| source(&Record { status, error, ..fixture::record(&upstream) });
        assert_eq!(of(200, None), Source::Backend);
        assert_eq!(of(500, None), Source::Backend);
        assert_eq!(of(200, Some("body_idle")), Source::Backend);
        assert_eq!(of(504, Some("response_timeout")), Source::Proxy);
    }

    #[test]
    fn every_status_has_a_class() {
        let worker = WorkerMetrics::default();
        let upstream = fixture::upstream("shop", &["node1"]);
        let cell = worker.upstream("shop");
        for status in [0, 101, 204, 399, 499, 599, 600, u16::MAX] {
            worker.record_in(&cell, &Record { status, ..fixture::record(&upstream) });
        }
        let classes = &cell.responses[Source::Backend as usize];
        assert_eq!(classes.each_ref().map(Counter::get), [2, 1, 1, 1, 3]);
    }

    #[test]
    fn tunnels_are_not_in_the_request_duration() {
        let worker = WorkerMetrics::default();
        let upstream = fixture::upstream("shop", &["node1"]);
        let cell = worker.upstream("shop");
        let hours = Duration::from_secs(7_200);
        worker.record_in(&cell, &Record { tunnel: true, duration: hours, ..fixture::record(&upstream) });
        assert_eq!(cell.duration.counts().iter().sum::<u64>(), 0);
        assert_eq!(cell.response_head.counts().iter().sum::<u64>(), 1);
    }

    #[test]
    fn attempts_after_the_first_are_retries() {
        let worker = WorkerMetrics::default();
        let upstream = fixture::upstream("shop", &["node1"]);
        let cell = worker.upstream("shop");
        for attempts in [0, 1, 3] {
            let reason = Some(Reason::BackendDown);
            worker.record_in(&cell, &Record { reason, attempts, ..fixture::record(&upstream) });
        }
        assert_eq!((cell.attempts.get(), cell.retries.get()), (4, 2));
    }
}
