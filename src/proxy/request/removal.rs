//! Tunnels after a reload. A tunnel stays open as long as its route and backend are configured;
//! once they are removed, it has the grace period to end.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::Instant;

use super::state::Request;
use crate::affinity::BackendId;
use crate::model::{Address, Config};
use crate::proxy::view::View;
use crate::proxy::worker::Worker;

/// The route and backend of a tunnel, and whether they are still configured.
#[derive(Debug)]
pub(crate) struct TunnelRoute {
    host: String,
    path: String,
    upstream: Arc<str>,
    backend: BackendId,
    address: Address,
    /// The configuration checked last.
    config: Arc<Config>,
    /// When the route or backend was found removed.
    removed: Option<Instant>,
}

impl TunnelRoute {
    /// Returns the route of a request; `None` if it has none.
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

    /// Returns when the tunnel must close; `None` while its route is configured.
    pub(crate) fn must_end_by(&mut self, worker: &Rc<Worker>) -> Option<Instant> {
        let view = worker.view();
        if !Arc::ptr_eq(&view.snapshot.config, &self.config) {
            self.config = Arc::clone(&view.snapshot.config);
            // Another reload may have restored it.
            self.removed =
                if self.is_configured(&view) { None } else { self.removed.or_else(|| Some(Instant::now())) };
        }
        self.removed.map(|since| since + self.config.server.shutdown_grace)
    }

    /// Returns whether the host and path still lead to the upstream, and the upstream still has the
    /// backend at the same address.
    fn is_configured(&self, view: &View) -> bool {
        let found =
            view.router.find(&self.host, &self.path).map(|route| &view.upstream_of(route).state.config);
        found.is_some_and(|upstream| {
            upstream.name == self.upstream
                && upstream.backends.iter().any(|b| b.id == self.backend && b.address == self.address)
        })
    }
}
