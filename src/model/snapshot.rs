//! The immutable state that workers read. Each change publishes a new snapshot.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::client_net::ClientNet;
use super::line::Line;
use super::live::BackendLive;
use super::live_tls::LiveTls;
use super::{Config, Upstream};
use crate::affinity::cookie::{CookieConfig, KeyRing};
use crate::affinity::crowd::Crowd;
use crate::affinity::table::Table;
use crate::affinity::{Cluster, Slot};

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
    /// When the control plane started. Times in [`Standing`] count from here.
    pub began: SystemTime,
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
    /// Why each member is up, shunned or down, by member index.
    pub standings: Vec<Standing>,
    /// The requests that wait for a place at a backend. It survives reloads.
    pub line: Arc<Line>,
}

/// Why a backend is up, shunned or down, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Why it is down or shunned; `None` if it is neither.
    pub why: Option<Arc<str>>,
    /// Since when it has been up, shunned or down.
    pub since: Duration,
    /// The end of its penalty. A backend that is shunned gets new sessions again then, or earlier if
    /// its checks pass. A backend that is down may come up then, and not before. `None` if only
    /// checks can change its state.
    pub until: Option<Duration>,
}

impl UpstreamState {
    /// Returns the table, if `remember` lists it.
    pub fn table(&self) -> Option<&Arc<Table>> {
        self.memory.table.as_ref().filter(|_| self.config.affinity.remember.table.is_some())
    }
}

/// What holds an upstream's bindings. It survives reloads.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// The table in the proxy. If only the cookie is configured, it holds what clients have not
    /// brought back yet, and what a table held before the reload.
    pub table: Option<Arc<Table>>,
    /// The sealed cookies at the clients. If only the table is configured, they are the ones that
    /// were issued before the reload.
    pub seals: Option<Seals>,
    /// The share of one address in the new sessions.
    pub crowd: Arc<Crowd>,
}

/// Sealed cookies.
#[derive(Debug, Clone)]
pub struct Seals {
    /// The keys that seal and open them.
    pub keys: Arc<KeyRing>,
    /// Their settings.
    pub config: Arc<CookieConfig>,
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

/// The outcome of a real request at a backend. Failures name the client, because repeated failures
/// of one client count once: its requests may be what makes the backend fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A request of this client got no response, or only a part of one.
    Failed(ClientNet),
    /// The backend answered a request of this client with a 5xx status.
    ServerError(ClientNet),
    /// The backend answered after failures.
    Recovered,
}
