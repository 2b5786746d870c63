//! The admin listener: serves metrics, health and status, and changes admin states at run time.
//!
//! It has no authentication. It is protected by its address (loopback by default), by accepting
//! changes only from this host, and by checks against browsers (`guard`). It accesses the rest of the
//! program only through [`AdminBackend`].

mod guard;
mod handler;
mod server;
mod status;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use crate::affinity::recall::Layer;
use crate::affinity::{AdminState, BackendId};
use crate::model::snapshot::Snapshot;

pub use server::serve;

/// A boxed future.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The outcome of a reload of the configuration file.
#[derive(Debug, Clone)]
pub struct LastReload {
    /// When it ended.
    pub at: SystemTime,
    /// A summary of the changes, or the errors (several lines).
    pub outcome: Result<String, String>,
}

/// The rest of the program, as the admin listener uses it.
pub trait AdminBackend: Send + Sync + 'static {
    /// Returns the current snapshot.
    fn snapshot(&self) -> Arc<Snapshot>;
    /// Returns the metrics in the Prometheus text format.
    fn metrics_text(&self) -> String;
    /// Returns the requests of an upstream whose session was known, by layer of memory.
    fn recalled(&self, upstream: &str) -> Vec<(Layer, u64)>;
    /// Returns whether the process is shutting down.
    fn draining(&self) -> bool;
    /// Returns the latest reload of the configuration file; `None` before the first.
    fn last_reload(&self) -> Option<LastReload>;
    /// Returns when the process started to serve.
    fn started(&self) -> SystemTime;
    /// Sets a backend's admin state. The upstream and the backend exist in the current snapshot.
    fn set_state(
        &self,
        upstream: String,
        backend: BackendId,
        state: AdminState,
    ) -> BoxFuture<Result<(), String>>;
    /// Reloads the configuration. Returns a summary of the changes, or the errors (several lines).
    fn reload(&self) -> BoxFuture<Result<String, String>>;
}
