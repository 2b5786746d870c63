//! The immutable state that workers read. Each change publishes a new snapshot.

use std::sync::Arc;

use super::line::Line;
use super::live::BackendLive;
use super::live_tls::LiveTls;
use super::{Config, Upstream};
use crate::affinity::cookie::KeyRing;
use crate::affinity::table::Table;
use crate::affinity::{Cluster, KeyHash, Slot};

/// A consistent view of the configuration and all backends. A request uses the same snapshot from
/// start to end.
#[derive(Debug)]
pub struct Snapshot {
    /// Increases with every change.
    pub generation: u64,
    /// The configuration that it was built from.
    pub config: Arc<Config>,
    /// The TLS state of its listeners and upstreams.
    pub tls: Arc<LiveTls>,
    /// In the order of [`Config::upstreams`].
    pub upstreams: Vec<Arc<UpstreamState>>,
}

/// The state of one upstream.
#[derive(Debug)]
pub struct UpstreamState {
    /// Its configuration.
    pub config: Arc<Upstream>,
    /// Its ring and members. Member `i` is `config.backends[i]`.
    pub cluster: Cluster,
    /// Its bindings.
    pub memory: Memory,
    /// Live counters, by member index.
    pub live: Vec<Arc<BackendLive>>,
    /// The requests that wait for a place at a backend. It survives reloads.
    pub line: Arc<Line>,
}

/// The store of an upstream's bindings. It survives reloads.
#[derive(Debug, Clone)]
pub enum Memory {
    /// No store.
    None,
    /// A table in the proxy.
    Table(Arc<Table>),
    /// Cookies at the clients, sealed with these keys.
    Cookie(Arc<KeyRing>),
}

/// An observation of a backend that a worker reports to the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The backend.
    pub slot: Slot,
    /// The observation.
    pub observation: Observation,
}

/// The outcome of a real request at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// The connection failed or was closed before a response.
    Failed,
    /// The connection was closed during a request of the session with this key. Repeated failures of
    /// one session count once, because its requests may be what makes the backend fail.
    BrokenOff(KeyHash),
    /// The backend answered with a 5xx status.
    ServerError,
    /// The backend answered after failures.
    Recovered,
}
