//! What one worker counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Record;
use super::counter::{Counter, NamedCounters};
use super::histogram::Histogram;
use super::outcomes::{OUTCOMES, REASONS, outcome_index, reason_index};
use super::refusal::Refusal;

/// One worker's counters. Only the worker's own thread calls the methods that
/// count; a second thread would lose counts.
///
/// A worker resolves an upstream's cell with [`WorkerMetrics::upstream`] when it
/// sees a new snapshot, keeps it beside the snapshot, and counts with
/// [`WorkerMetrics::record_in`]: no lock and no lookup per request. Cells belong
/// to the upstream's name and outlive reloads.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct WorkerMetrics {
    accepted: Counter,
    closed: Counter,
    /// By [`Refusal`].
    refused: [Counter; Refusal::ALL.len()],
    /// By version (1.2, 1.3) and whether a session was resumed.
    handshakes: [[Counter; 2]; 2],
    failed_handshakes: NamedCounters,
    refused_headers: NamedCounters,
    tunnels_opened: Counter,
    tunnels_closed: Counter,
    pub(crate) http2: Http2Metrics,
    /// Requests for which no route was found, or no head could be read.
    unrouted: UpstreamMetrics,
    /// Locked at a snapshot change and by a scrape, never for a request.
    upstreams: Mutex<BTreeMap<Arc<str>, Arc<UpstreamMetrics>>>,
}

/// One worker's counters of HTTP/2.
#[derive(Debug, Default)]
pub(crate) struct Http2Metrics {
    pub(crate) connections: Counter,
    pub(crate) served: Counter,
    pub(crate) malformed: Counter,
    pub(crate) floods: Counter,
}

/// One worker's counters of one upstream.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct UpstreamMetrics {
    /// By outcome and reason; the last of each is "none".
    pub(crate) requests: [[Counter; REASONS.len() + 1]; OUTCOMES.len() + 1],
    /// By [`Source`] and class (1xx is 0).
    pub(crate) responses: [[Counter; CLASSES]; 2],
    pub(crate) errors: NamedCounters,
    pub(crate) duration: Histogram,
    pub(crate) response_head: Histogram,
    pub(crate) connect: Histogram,
    pub(crate) attempts: Counter,
    pub(crate) retries: Counter,
    pub(crate) fresh: Counter,
    pub(crate) reused: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
}

/// Response classes: 1xx to 5xx.
pub(crate) const CLASSES: usize = 5;

/// Who made a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Backend,
    Proxy,
}

impl WorkerMetrics {
    /// The cell of an upstream, made if need be. Takes a lock: once per snapshot
    /// change, not per request.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        let mut upstreams = self.upstreams.lock();
        if let Some(cell) = upstreams.get(name) {
            return Arc::clone(cell);
        }
        let cell = Arc::<UpstreamMetrics>::default();
        upstreams.insert(Arc::from(name), Arc::clone(&cell));
        cell
    }

    /// Counts a finished request. Finds the upstream's cell by name, behind a
    /// lock; who has the cell at hand calls [`WorkerMetrics::record_in`].
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

    /// A client connection was accepted.
    pub fn connection_opened(&self) {
        self.accepted.add(1);
    }

    /// An accepted client connection is gone.
    pub fn connection_closed(&self) {
        self.closed.add(1);
    }

    /// A client connection was closed at once, for this limit's sake; not
    /// counted as accepted.
    pub fn refused_connection(&self, refusal: Refusal) {
        self.refused[refusal as usize].add(1);
    }

    /// A client connection speaks HTTP/2.
    pub fn http2_opened(&self) {
        self.http2.connections.add(1);
    }

    /// A client opened a stream, with a request or what cannot be one.
    pub fn http2_stream(&self, malformed: bool) {
        if malformed { self.http2.malformed.add(1) } else { self.http2.served.add(1) }
    }

    /// A client's HTTP/2 connection was cut for a flood of frames.
    pub fn http2_flooded(&self) {
        self.http2.floods.add(1);
    }

    /// A client's TLS handshake succeeded, with TLS 1.3 (`newest`) or 1.2.
    pub fn tls_handshake(&self, newest: bool, resumed: bool) {
        self.handshakes[usize::from(newest)][usize::from(resumed)].add(1);
    }

    /// A client's TLS handshake failed, of this.
    pub fn tls_handshake_failed(&self, reason: &'static str) {
        self.failed_handshakes.add(reason, 1);
    }

    /// A client's connection was closed for its PROXY header, of this.
    pub fn proxy_header_refused(&self, reason: &'static str) {
        self.refused_headers.add(reason, 1);
    }

    /// Refused PROXY headers.
    pub(crate) fn refused_headers(&self) -> &NamedCounters {
        &self.refused_headers
    }

    /// TLS handshakes: by version and whether resumed, and failed ones.
    pub(crate) fn handshakes(&self) -> ([[u64; 2]; 2], &NamedCounters) {
        let counts = self.handshakes.each_ref().map(|version| version.each_ref().map(Counter::get));
        (counts, &self.failed_handshakes)
    }

    /// A connection was upgraded to a tunnel.
    pub fn tunnel_opened(&self) {
        self.tunnels_opened.add(1);
    }

    /// A tunnel is gone.
    pub fn tunnel_closed(&self) {
        self.tunnels_closed.add(1);
    }

    /// Client connections refused, by [`Refusal`].
    pub(crate) fn refused(&self) -> [u64; Refusal::ALL.len()] {
        self.refused.each_ref().map(Counter::get)
    }

    /// Client connections: (open now, accepted).
    pub(crate) fn connections(&self) -> (u64, u64) {
        // Closed before opened: what closes in between is not missed below zero.
        let closed = self.closed.get();
        let accepted = self.accepted.get();
        (accepted.saturating_sub(closed), accepted)
    }

    /// Tunnels: (open now, opened).
    pub(crate) fn tunnels(&self) -> (u64, u64) {
        let closed = self.tunnels_closed.get();
        let opened = self.tunnels_opened.get();
        (opened.saturating_sub(closed), opened)
    }

    /// What belongs to no upstream.
    pub(crate) fn unrouted(&self) -> &UpstreamMetrics {
        &self.unrouted
    }

    /// All upstreams' cells.
    pub(crate) fn upstreams(&self) -> Vec<(Arc<str>, Arc<UpstreamMetrics>)> {
        self.upstreams.lock().iter().map(|(name, cell)| (Arc::clone(name), Arc::clone(cell))).collect()
    }
}

impl UpstreamMetrics {
    /// A connection to a backend was made for a request.
    pub fn connection_opened(&self) {
        self.fresh.add(1);
    }

    /// A request was sent on a pooled connection.
    pub fn connection_reused(&self) {
        self.reused.add(1);
    }

    fn record(&self, record: &Record<'_>) {
        let outcome = record.outcome.map_or(OUTCOMES.len(), outcome_index);
        let reason = record.reason.map_or(REASONS.len(), reason_index);
        self.requests[outcome][reason].add(1);

        let class = usize::from(record.status / 100).clamp(1, CLASSES) - 1;
        self.responses[source(record) as usize][class].add(1);
        if let Some(error) = record.error {
            self.errors.add(error, 1);
        }

        // A tunnel lives for hours and says nothing of how fast requests are.
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

    /// Adds all that `other` has counted: how a scrape sums over workers.
    pub(crate) fn absorb(&self, other: &Self) {
        let tables = self.requests.iter().flatten().zip(other.requests.iter().flatten());
        let tables = tables.chain(self.responses.iter().flatten().zip(other.responses.iter().flatten()));
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
        ] {
            mine.add(theirs.get());
        }
    }
}

/// An error with a status below 400 is a backend's response that broke off
/// after its head was sent: Homing's own answers to errors are 4xx and 5xx, and
/// a redirect before any upstream was chosen.
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
    fn a_cell_outlives_its_snapshot() {
        let worker = WorkerMetrics::default();
        let before = worker.upstream("shop");
        assert!(Arc::ptr_eq(&before, &worker.upstream("shop")));
        assert!(!Arc::ptr_eq(&before, &worker.upstream("blog")));
    }

    #[test]
    fn both_ways_to_record_count_in_the_same_cell() {
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
    fn a_response_that_broke_off_is_still_the_backends() {
        let upstream = fixture::upstream("shop", &["node1"]);
        let of = |status, error| source(&Record { status, error, ..fixture::record(&upstream) });
        assert_eq!(of(200, None), Source::Backend);
        assert_eq!(of(500, None), Source::Backend);
        assert_eq!(of(200, Some("body_idle")), Source::Backend);
        assert_eq!(of(504, Some("response_timeout")), Source::Proxy);
    }

    #[test]
    fn any_status_has_a_class() {
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
    fn a_tunnels_life_is_no_request_duration() {
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
