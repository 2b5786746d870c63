//! `GET /status`: the current state as JSON.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{AdminBackend, LastReload};
use crate::model::Bind;
use crate::model::live::LastCheck;
use crate::model::snapshot::{Snapshot, UpstreamState};
use crate::telemetry::{active_part, rfc3339, timestamp};

#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    version: &'static str,
    generation: u64,
    draining: bool,
    workers: usize,
    /// When the process started to serve.
    started: String,
    /// The latest reload of the configuration file; `null` before the first.
    last_reload: Option<ReloadStatus>,
    listeners: Vec<ListenerStatus<'a>>,
    upstreams: Vec<UpstreamStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct ReloadStatus {
    at: String,
    success: bool,
    /// What it changed.
    changes: Option<String>,
    /// Why it was refused. The configuration before it stays in effect.
    error: Option<String>,
}

impl ReloadStatus {
    fn of(reload: LastReload) -> Self {
        let (at, success) = (rfc3339(reload.at), reload.outcome.is_ok());
        let (changes, error) = match reload.outcome {
            Ok(changes) => (Some(changes), None),
            Err(error) => (None, Some(error)),
        };
        Self { at, success, changes, error }
    }
}

#[derive(Debug, Serialize)]
struct ListenerStatus<'a> {
    bind: &'a Bind,
}

#[derive(Debug, Serialize)]
struct UpstreamStatus<'a> {
    name: &'a str,
    remember: &'static str,
    /// Requests whose session was known, by the layer of memory that knew it.
    recalled: BTreeMap<&'static str, u64>,
    ring: RingStatus,
    table: Option<TableStatus>,
    backends: Vec<BackendStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct RingStatus {
    /// Equal for equal rings.
    digest: String,
    vnodes: u32,
}

#[derive(Debug, Serialize)]
struct TableStatus {
    entries: usize,
    max_entries: usize,
}

#[derive(Debug, Serialize)]
struct BackendStatus<'a> {
    id: &'a str,
    address: String,
    state: &'static str,
    health: &'static str,
    /// Whether it gets no new sessions because requests failed there.
    shunned: bool,
    /// Why it is down or shunned; null if it is neither.
    why: Option<&'a str>,
    /// Since when it has been up, shunned or down.
    since: String,
    /// The end of its penalty: a shunned backend gets new sessions again then at the latest, one that
    /// is down comes up then at the earliest. Null without a penalty.
    until: Option<String>,
    weight: u16,
    /// Fraction of all keys whose home it is.
    ring_share: f64,
    /// Fraction of its points that are active. Below 1 during slow start.
    ring_active: f64,
    in_flight: u32,
    connections: u32,
    requests: u64,
    /// Only with `remember = "table"`.
    sessions: Option<usize>,
    /// The latest active check; `null` before the first.
    last_check: Option<CheckStatus>,
}

#[derive(Debug, Serialize)]
struct CheckStatus {
    at: String,
    /// `passed`, or why not.
    result: String,
    latency_ms: f64,
}

impl CheckStatus {
    fn of(check: LastCheck) -> Self {
        let latency_ms = check.latency.as_secs_f64() * 1e3;
        Self { at: rfc3339(check.at), result: check.result, latency_ms }
    }
}

impl<'a> Status<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, backend: &dyn AdminBackend) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            generation: snapshot.generation,
            draining: backend.draining(),
            workers: snapshot.config.server.workers.get(),
            started: rfc3339(backend.started()),
            last_reload: backend.last_reload().map(ReloadStatus::of),
            listeners: snapshot
                .config
                .listeners
                .iter()
                .map(|listener| ListenerStatus { bind: &listener.bind })
                .collect(),
            upstreams: snapshot
                .upstreams
                .iter()
                .map(|upstream| UpstreamStatus::of(upstream, snapshot.began, backend))
                .collect(),
        }
    }
}

impl<'a> UpstreamStatus<'a> {
    fn of(state: &'a UpstreamState, began: SystemTime, backend: &dyn AdminBackend) -> Self {
        let recalled = backend.recalled(&state.config.name);
        let affinity = &state.config.affinity;
        let table = state.table();
        let ring = state.cluster.ring();
        let at = |time: Duration| timestamp(began.checked_add(time).unwrap_or(began));
        let members = state.cluster.members().iter().zip(&state.config.backends).zip(&state.live);
        let members = members.zip(&state.standings);
        let backends = members.zip(0..).zip(ring.shares()).map(|((parts, index), ring_share)| {
            let (((member, config), live), standing) = parts;
            BackendStatus {
                id: member.id.as_str(),
                address: config.address.to_string(),
                state: member.admin.as_str(),
                health: member.health.as_str(),
                shunned: member.shunned,
                why: standing.why.as_deref(),
                since: at(standing.since),
                until: standing.until.map(at),
                weight: member.weight.get(),
                ring_share,
                ring_active: active_part(member, ring.points_of(index)),
                in_flight: live.in_flight(),
                connections: live.connections(),
                requests: live.requests(),
                sessions: table.map(|table| table.sessions(member.slot)),
                last_check: live.last_check().map(CheckStatus::of),
            }
        });
        Self {
            name: &state.config.name,
            remember: affinity.remember.as_str(),
            recalled: recalled.into_iter().map(|(layer, requests)| (layer.as_str(), requests)).collect(),
            ring: RingStatus { digest: format!("{:016x}", ring.digest()), vnodes: affinity.vnodes },
            table: table.map(|table| TableStatus { entries: table.len(), max_entries: table.max_entries() }),
            backends: backends.collect(),
        }
    }
}
