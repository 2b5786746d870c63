//! The hold: waits for a session's backend to come back before failing over.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::binding::Session;
use super::client::Client;
use super::error::ProxyError;
use super::state::Request;
use crate::affinity::Member;
use crate::affinity::pick::Binding;
use crate::proxy::view::{UpstreamView, View};

/// How long to wait before another attempt at a backend that refuses connections but is up
/// according to its health checks.
const HOLD_STEP: Duration = Duration::from_millis(100);

impl Request<'_> {
    /// Returns whether the request may wait for its session's backend. The time counts from when
    /// the backend went away, so that sessions do not each wait for a backend that is long dead.
    pub(crate) fn may_hold(&self, upstream: &UpstreamView, session: &Session) -> bool {
        let hold = upstream.state.config.affinity.hold;
        if hold.is_zero() {
            return false;
        }
        let bound = match session.binding {
            Binding::To(slot) => upstream.state.cluster.index_of(slot),
            _ => None,
        };
        let since = bound.and_then(|member| upstream.away_since(member));
        let until = self.hold_until.or_else(|| since.map(|since| since + hold));
        until.is_none_or(|until| Instant::now() < until)
    }

    /// Waits until a member may be back, but no longer than the configured hold. Then forgets the
    /// route, the session and the members tried.
    ///
    /// # Errors
    /// [`ProxyError::ClientGone`] if the client disconnects.
    pub(crate) async fn hold(&mut self, member: u16, client: &mut Client) -> Result<(), ProxyError> {
        let Some(route) = self.route else { return Err(ProxyError::ClientGone) };
        let upstream = self.view.upstream_of(route);
        let (name, slot) = (Arc::clone(&upstream.state.config.name), upstream.slot(member));
        let since = upstream.away_since(member).unwrap_or_else(Instant::now);
        let until = *self.hold_until.get_or_insert(since + upstream.state.config.affinity.hold);
        let is_up = upstream.state.cluster.members()[usize::from(member)].eligible_for_existing();
        let wait = async {
            if is_up {
                // The health checks have not noticed the failure yet: try again soon.
                tokio::time::sleep_until(until.min(Instant::now() + HOLD_STEP)).await;
                return;
            }
            let back = |view: &View| {
                let upstream = view.upstreams.iter().find(|u| u.state.config.name == name);
                let cluster = upstream.map(|u| &u.state.cluster);
                let member = cluster.and_then(|c| c.index_of(slot).map(|i| &c.members()[usize::from(i)]));
                member.is_none_or(Member::eligible_for_existing)
            };
            self.worker.wait_until(until, back).await;
        };
        let watch_client = self.view.snapshot.config.server.cancel_on_client_close;
        tokio::select! {
            () = wait => {}
            () = client.gone(&self.worker.buffers), if watch_client => return Err(ProxyError::ClientGone),
        }
        // The configuration and the session's binding may have changed.
        self.start_over();
        Ok(())
    }
}
