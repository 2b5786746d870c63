//! The admin listener: metrics, health and state to read, and the few things
//! that can be changed while Homing runs.
//!
//! It has no passwords; it is closed to strangers by where it listens (loopback
//! by default), by who may change things (only this host), and against
//! browsers (`guard`). It knows the rest of the program through
//! [`AdminBackend`] only.

mod guard;
mod handler;
mod server;
mod status;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;

use crate::affinity::{AdminState, BackendId};
use crate::model::snapshot::Snapshot;

pub use server::serve;

/// A future in a box.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the admin listener asks of the rest of the program.
pub trait AdminBackend: Send + Sync + 'static {
    /// The state in force.
    fn snapshot(&self) -> Arc<Snapshot>;
    /// The metrics in the Prometheus text format.
    fn metrics_text(&self) -> String;
    /// Is the process on its way out?
    fn draining(&self) -> bool;
    /// Sets a backend's admin state. Both names exist in the current snapshot.
    fn set_state(
        &self,
        upstream: String,
        backend: BackendId,
        state: AdminState,
    ) -> BoxFuture<Result<(), String>>;
    /// Loads the configuration anew; says what changed, or what is wrong with
    /// it (several lines).
    fn reload(&self) -> BoxFuture<Result<String, String>>;
}
