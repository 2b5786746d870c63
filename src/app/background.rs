//! The runtime for everything off the request path: control plane, health checks, admin listener.

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};

use super::error::AppError;

/// A runtime that may be dropped anywhere, even in a task of another runtime.
#[derive(Debug)]
pub(super) struct Background(Option<Runtime>, Handle);

impl Background {
    pub(super) fn new() -> Result<Self, AppError> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build();
        let runtime = runtime.map_err(AppError::Thread)?;
        let handle = runtime.handle().clone();
        Ok(Self(Some(runtime), handle))
    }

    /// Enters the runtime, so that tasks spawned here run on it.
    pub(super) fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }

    pub(super) fn handle(&self) -> Handle {
        self.1.clone()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
