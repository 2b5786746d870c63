//! What the workers read: immutable, one per change, published whole.

use std::sync::Arc;

use super::live::BackendLive;
use super::{Config, Upstream};
use crate::affinity::cookie::KeyRing;
use crate::affinity::table::Table;
use crate::affinity::{Cluster, KeyHash, Slot};

/// One state of the world. A request uses one from beginning to end.
#[derive(Debug)]
pub struct Snapshot {
    /// Grows with every change.
    pub generation: u64,
    /// The configuration it comes from.
    pub config: Arc<Config>,
    /// By index of [`Config::upstreams`].
    pub upstreams: Vec<Arc<UpstreamState>>,
}

/// One upstream's state.
#[derive(Debug)]
pub struct UpstreamState {
    /// Its configuration.
    pub config: Arc<Upstream>,
    /// Its ring and members; member `i` is `config.backends[i]`.
    pub cluster: Cluster,
    /// Its bindings.
    pub memory: Memory,
    /// Live counters, by member index.
    pub live: Vec<Arc<BackendLive>>,
}

/// Where an upstream's bindings are; outlives reloads.
#[derive(Debug, Clone)]
pub enum Memory {
    /// Nowhere.
    None,
    /// In this table.
    Table(Arc<Table>),
    /// At the client, sealed with these keys.
    Cookie(Arc<KeyRing>),
}

/// What the data plane tells the control plane of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The backend.
    pub slot: Slot,
    /// What happened.
    pub observation: Observation,
}

/// What a real request saw of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// It could not be connected to, or broke off before a response.
    Failed,
    /// It broke off in a request of the session with this key. What one session
    /// asks for again and again is one failure: it may be what it asks that fails.
    BrokenOff(KeyHash),
    /// It answered with a 5xx status.
    ServerError,
    /// It answered, after failures.
    Recovered,
}
