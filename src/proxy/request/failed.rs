//! Failed attempts: reports them, and decides whether another one is safe.

use tokio::time::Instant;

use super::error::ProxyError;
use super::state::Request;
use crate::affinity::pick::{Failover, Outcome};
use crate::model::snapshot::Observation;

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
            upstream.pools[usize::from(verdict.member)].live().failed();
            let key = self.session.as_ref().and_then(|session| session.key);
            let observation = match (error.came_after_connecting(), key) {
                (true, Some(key)) => Observation::BrokenOff(key),
                _ => Observation::Failed,
            };
            self.worker.report(upstream.report(verdict.member, observation));
        }
    }

    /// Returns whether another attempt is safe and within the retry limits. If so, marks the failed
    /// member as tried, or keeps it for an attempt on a new connection.
    pub(crate) fn may_retry(&mut self, error: &ProxyError) -> bool {
        let (Some(route), Some(verdict), Some(facts)) = (self.route, self.verdict, &self.facts) else {
            return false;
        };
        if self.tally.status != 0 {
            return false;
        }
        let upstream = self.view.upstream_of(route);
        let safe = match error {
            // An existing session stays with its backend; a new one goes elsewhere.
            ProxyError::Saturated => verdict.outcome != Outcome::Kept,
            other => other.allows_retry(facts.replayable()),
        };
        if !safe {
            return false;
        }
        // A failed connect costs nothing, so the request may follow the walk to its end. A failure
        // that took time, or that came after the request was sent, is a retry, and retries are
        // limited. A backend that refused a stream unprocessed gets one more attempt on a new
        // connection, because the session is there.
        let refused = matches!(error, ProxyError::BackendRefused { .. });
        let going_away = matches!(error, ProxyError::BackendRefused { going_away: true, .. });
        let again = going_away || (refused && !self.fresh_connection);
        let sent = matches!(error, ProxyError::BackendClosed { .. }) || again;
        let costly = sent || refused || matches!(error, ProxyError::ConnectTimeout);
        if costly {
            self.retries += 1;
            let spent = self.retries >= upstream.state.config.retry.attempts;
            // A connection that goes away is no sign of a failing upstream: no budget is spent.
            if spent || !(going_away || upstream.budget.withdraw(Instant::now())) {
                return false;
            }
        }
        if sent {
            // The session is at this backend, so try it again on a new connection. If the backend
            // is dead, the connect fails, and the next attempt follows the walk.
            self.fresh_connection = true;
        } else {
            self.tried.insert(verdict.member);
        }
        true
    }

    /// Returns whether the upstream's failover policy is `none`.
    pub(crate) fn never_fails_over(&self) -> bool {
        let failover = self.upstream().map(|upstream| upstream.policy.failover);
        failover == Some(Failover::None)
    }
}
