//! The admin listener's access to the proxy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::AppError;
use super::shared::Shared;
use crate::admin::{self, AdminBackend, BoxFuture, LastReload};
use crate::affinity::recall::Layer;
use crate::affinity::{AdminState, BackendId};
use crate::error_chain;
use crate::model::Config;
use crate::model::snapshot::Snapshot;

/// What the admin listener may see and do.
pub(super) struct AdminPort(Arc<Shared>);

/// Binds the admin address, if one is configured.
pub(super) fn bind(config: &Config) -> Result<Option<TcpListener>, AppError> {
    let Some(address) = config.server.admin else { return Ok(None) };
    let listener = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    listener.map(Some).map_err(|source| AppError::Bind { address: address.into(), source })
}

impl AdminPort {
    /// Serves the admin API until `cancel` is cancelled. Returns the bound address.
    pub(super) fn serve(
        listener: TcpListener,
        shared: &Arc<Shared>,
        tracker: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Option<SocketAddr> {
        let address = listener.local_addr().ok();
        let backend: Arc<dyn AdminBackend> = Arc::new(Self(Arc::clone(shared)));
        tracker.spawn(admin::serve(listener, backend, cancel.clone()));
        address
    }
}

impl AdminBackend for AdminPort {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.control.snapshot()
    }

    fn metrics_text(&self) -> String {
        self.0.metrics.render(&self.0.control.snapshot())
    }

    fn recalled(&self, upstream: &str) -> Vec<(Layer, u64)> {
        self.0.metrics.recalled(upstream)
    }

    fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    fn last_reload(&self) -> Option<LastReload> {
        self.0.last_reload.lock().clone()
    }

    fn started(&self) -> SystemTime {
        self.0.started
    }

    fn set_state(
        &self,
        upstream: String,
        backend: BackendId,
        state: AdminState,
    ) -> BoxFuture<Result<(), String>> {
        let control = self.0.control.clone();
        Box::pin(async move {
            control.set_admin_state(&upstream, &backend, state).await.map_err(|error| error.to_string())
        })
    }

    fn reload(&self) -> BoxFuture<Result<String, String>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.reload_file().await.map_err(|error| error_chain(&error)) })
    }
}
