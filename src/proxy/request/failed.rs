//! After a failed attempt: who is told, and whether another one is safe.

use tokio::time::Instant;

use super::error::ProxyError;
use super::state::Request;
use crate::affinity::pick::{Failover, Outcome};
use crate::model::snapshot::Observation;

impl Request<'_> {
    /// Tells the control plane and the counters of a failed attempt.
    pub(crate) fn observe_failure(&self, error: &ProxyError) {
        let (Some(upstream), Some(verdict)) = (self.upstream(), self.verdict) else { return };
        // A session that is held waits for its backend to come back: were its
        // vain looks held against the backend, they would eject it for longer.
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

    /// Is another attempt safe and allowed? Marks the failed member as tried.
    pub(crate) fn may_retry(&mut self, error: &ProxyError) -> bool {
        let (Some(route), Some(verdict), Some(facts)) = (self.route, self.verdict, &self.facts) else {
            return false;
        };
        if self.tally.status != 0 {
            return false;
        }
        let upstream = self.view.upstream_of(route);
        let safe = match error {
            // An existing session waits for its place; a new one goes elsewhere.
            ProxyError::Saturated => verdict.outcome != Outcome::Kept,
            other => other.allows_retry(facts.replayable()),
        };
        if !safe {
            return false;
        }
        // A refused connection costs nothing: the walk is followed to its end.
        // What costs time, or was sent, is a retry, and those are bounded.
        // What was not looked at may be next time, once: its session is there.
        let refused = matches!(error, ProxyError::BackendRefused { .. });
        let going_away = matches!(error, ProxyError::BackendRefused { going_away: true, .. });
        let again = going_away || (refused && !self.fresh_connection);
        let sent = matches!(error, ProxyError::BackendClosed { .. }) || again;
        let costly = sent || refused || matches!(error, ProxyError::ConnectTimeout);
        if costly {
            self.retries += 1;
            let spent = self.retries >= upstream.state.config.retry.attempts;
            // The end of a connection is no sign of a failing upstream.
            if spent || !(going_away || upstream.budget.withdraw(Instant::now())) {
                return false;
            }
        }
        if sent {
            // The session is there if anywhere: try the same backend again, freshly. If
            // it has died, it refuses, and the walk goes on.
            self.fresh_connection = true;
        } else {
            self.tried.insert(verdict.member);
        }
        true
    }

    /// Does the policy keep the session waiting for its own backend?
    pub(crate) fn never_fails_over(&self) -> bool {
        let failover = self.upstream().map(|upstream| upstream.policy.failover);
        failover == Some(Failover::None)
    }
}
