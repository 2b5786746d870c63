//! Waiting for a session's backend that may come back, before failing over.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::binding::Session;
use super::client::Client;
use super::error::ProxyError;
use super::state::Request;
use crate::affinity::Member;
use crate::affinity::pick::{Binding, Tried};
use crate::proxy::view::{UpstreamView, View};

/// Time between two looks at a backend that is waited for although its checks
/// say that it is up.
const HOLD_STEP: Duration = Duration::from_millis(100);

impl Request<'_> {
    /// May it still be waited for the session's backend? Only while that is
    /// away for less than the configured time: one that is long dead is not
    /// waited for by every session anew.
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

    /// Waits until a member may be back, as long as the configuration allows
    /// and the client does not go away.
    pub(crate) async fn hold(&mut self, member: u16, client: &mut Client) -> Result<(), ProxyError> {
        let Some(route) = self.route else { return Err(ProxyError::ClientGone) };
        let upstream = self.view.upstream_of(route);
        let (name, slot) = (Arc::clone(&upstream.state.config.name), upstream.slot(member));
        let since = upstream.away_since(member).unwrap_or_else(Instant::now);
        let until = *self.hold_until.get_or_insert(since + upstream.state.config.affinity.hold);
        let said_to_be_up = upstream.state.cluster.members()[usize::from(member)].eligible_for_existing();
        let wait = async {
            if said_to_be_up {
                // The checks have not noticed, or do not agree: look again soon.
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
        let watched = self.view.snapshot.config.server.cancel_on_client_close;
        tokio::select! {
            () = wait => {}
            () = client.gone(&self.worker.buffers), if watched => return Err(ProxyError::ClientGone),
        }
        // Routes, members and the session's binding may have changed meanwhile;
        // indices into the old view mean nothing in the new one.
        self.tried = Tried::default();
        (self.route, self.verdict, self.session) = (None, None, None);
        self.view = self.worker.view();
        Ok(())
    }
}
