//! What becomes of a tunnel when the configuration changes: a reload cuts none,
//! but one whose route or backend it has removed has the grace period to end.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::state::Request;
use crate::affinity::BackendId;
use crate::model::{Address, Config};
use crate::proxy::view::View;
use crate::proxy::worker::Worker;

/// The way that a tunnel took, and whether it is still configured.
#[derive(Debug)]
pub(crate) struct TunnelRoute {
    host: String,
    path: String,
    upstream: Arc<str>,
    backend: BackendId,
    address: Address,
    /// The configuration that was asked last.
    config: Arc<Config>,
    /// Since when the way is removed.
    removed: Option<Instant>,
}

impl TunnelRoute {
    /// The way of this request; `None` if it took none.
    pub(crate) fn of(request: &Request<'_>) -> Option<Self> {
        let text = request.facts.as_ref()?.text.as_ref()?;
        let upstream = request.upstream()?;
        let backend = upstream.state.config.backends.get(usize::from(request.verdict?.member))?;
        Some(Self {
            host: text.host.clone(),
            path: text.path.clone(),
            upstream: Arc::clone(&upstream.state.config.name),
            backend: backend.id.clone(),
            address: backend.address.clone(),
            config: Arc::clone(&request.view.snapshot.config),
            removed: None,
        })
    }

    /// When whoever goes this way is to leave it; `None` as long as it is configured.
    pub(crate) fn closes_at(&mut self, worker: &Rc<Worker>) -> Option<Instant> {
        let view = worker.view();
        if !Arc::ptr_eq(&view.snapshot.config, &self.config) {
            self.config = Arc::clone(&view.snapshot.config);
            // A way that was removed may be back.
            self.removed =
                if self.is_configured(&view) { None } else { self.removed.or_else(|| Some(Instant::now())) };
        }
        self.removed.map(|since| since + self.config.server.shutdown_grace)
    }

    /// Does the route still lead to the upstream, and has that still the backend,
    /// where it was?
    fn is_configured(&self, view: &View) -> bool {
        let found =
            view.router.find(&self.host, &self.path).map(|route| &view.upstream_of(route).state.config);
        found.is_some_and(|upstream| {
            upstream.name == self.upstream
                && upstream.backends.iter().any(|b| b.id == self.backend && b.address == self.address)
        })
    }
}
