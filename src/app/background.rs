//! The runtime for everything off the request path: control plane, health checks, admin listener.

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

use super::error::AppError;

/// A runtime that may be dropped anywhere, even in a task of another runtime.
#[derive(Debug)]
pub(super) struct Background(Option<Runtime>);

impl Background {
    pub(super) fn new() -> Result<Self, AppError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build();
        Ok(Self(Some(runtime.map_err(AppError::Thread)?)))
    }

    /// Enters the runtime, so that tasks spawned here run on it.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }

    pub(super) fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
