//! Failed attempts: reports them, and decides whether another one is safe, and where.

use tokio::time::Instant;

use super::binding::Session;
use super::error::ProxyError;
use super::state::Request;
use crate::affinity::pick::{Failover, Outcome};
use crate::model::client_net::ClientNet;
use crate::model::snapshot::Observation;

/// Where the next attempt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retry {
    /// There is none.
    No,
    /// To the same backend, on a new connection.
    Again,
    /// Along the walk.
    Elsewhere,
}

impl Request<'_> {
    /// Counts a failed attempt, whether or not it counts against the backend's health.
    pub(crate) fn count_failure(&self, error: &ProxyError) {
        if let (true, Some(upstream), Some(verdict)) =
            (error.is_backend_failure(), self.upstream(), self.verdict)
        {
            upstream.backend_metrics[usize::from(verdict.member)].failed(error.code());
        }
    }

    /// Reports a failed attempt to the control plane, if it counts against the backend.
    pub(crate) fn observe_failure(&self, error: &ProxyError) {
        let (Some(upstream), Some(verdict)) = (self.upstream(), self.verdict) else { return };
        // A held request keeps trying a backend that is expected back. If those attempts counted,
        // they would keep the backend ejected for longer.
        let unreachable = matches!(error, ProxyError::Connect(_) | ProxyError::ConnectTimeout);
        let held = !upstream.state.config.affinity.hold.is_zero() && verdict.outcome == Outcome::Kept;
        if error.counts_against_backend() && !(unreachable && held) {
            let Some(facts) = &self.facts else { return };
            let observation = Observation::Failed(ClientNet::of(facts.client_ip));
            self.worker.report(upstream.report(verdict.member, observation));
            // After the report: the success that ends the failure must be reported behind it.
            upstream.pools[usize::from(verdict.member)].live().failed();
        }
    }

    /// Takes the binding of a new session back. Returns whether the request is free to go elsewhere:
    /// it belongs to no session, or is the only request of a new one.
    fn gives_up(&mut self) -> bool {
        let outcome = self.verdict.map(|verdict| verdict.outcome);
        matches!(outcome, Some(Outcome::New | Outcome::Unkeyed))
            && self.session.as_mut().is_some_and(Session::give_up)
    }

    /// Decides whether another attempt is safe and within the retry limits. If so, marks the failed
    /// member as tried, or keeps it for an attempt on a new connection.
    pub(crate) fn may_retry(&mut self, error: &ProxyError) -> Retry {
        let (Some(route), Some(verdict), Some(facts)) = (self.route, self.verdict, &self.facts) else {
            return Retry::No;
        };
        let replayable = facts.replayable();
        if self.tally.status != 0 {
            return Retry::No;
        }
        // A connection that was idle may have closed at any time. That says nothing about the backend.
        let stale = matches!(error, ProxyError::BackendClosed { reused: true });
        // A session that exists is at this backend. A new one has nothing to lose elsewhere.
        let free = !stale && error.is_refused_answer() && self.gives_up();
        let upstream = self.view.upstream_of(route);
        let safe = match error {
            // An existing session stays with its backend; a new one goes elsewhere.
            ProxyError::Saturated => verdict.outcome != Outcome::Kept,
            _ if free => replayable,
            other => other.allows_retry(replayable),
        };
        if !safe {
            return Retry::No;
        }
        // A failed connect costs nothing, so the request may follow the walk to its end. A failure
        // that took time, or that came after the request was sent, is a retry, and retries are
        // limited. A backend that refused a stream unprocessed gets one more attempt on a new
        // connection, because the session is there.
        let refused = matches!(error, ProxyError::BackendRefused { .. });
        let going_away = matches!(error, ProxyError::BackendRefused { going_away: true, .. });
        let again = going_away || (refused && !self.fresh_connection);
        let sent = !free && (matches!(error, ProxyError::BackendClosed { .. }) || again);
        let costly = sent || free || refused || matches!(error, ProxyError::ConnectTimeout);
        if costly {
            self.retries += 1;
            let spent = self.retries >= upstream.state.config.retry.attempts;
            // A connection that goes away is no sign of a failing upstream: no budget is spent.
            if spent || !(going_away || upstream.budget.withdraw(Instant::now())) {
                return Retry::No;
            }
        }
        if sent {
            // The session is at this backend, so try it again on a new connection. If the backend
            // is dead, the connect fails, and the next attempt follows the walk.
            self.fresh_connection = true;
            Retry::Again
        } else {
            self.gives_up();
            if error.is_refused_connection() {
                self.tried.insert_refused(verdict.member);
            } else {
                self.tried.insert(verdict.member);
            }
            Retry::Elsewhere
        }
    }

    /// Returns whether the upstream's failover policy is `none`.
    pub(crate) fn never_fails_over(&self) -> bool {
        let failover = self.upstream().map(|upstream| upstream.policy.failover);
        failover == Some(Failover::None)
    }
}
