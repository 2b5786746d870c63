//! The health of one backend, from active checks and from the outcomes of requests.
//!
//! | from | to | when |
//! |---|---|---|
//! | up | down | `fall` consecutive checks failed |
//! | up | down | `max_fails` consecutive requests failed, or one on trial, or `max_5xx` within `window`; never for the last eligible backend |
//! | down | up | its penalty is over and, with active checks, `rise` consecutive checks passed since it went down |
//! | down | up | its penalty is waived because no backend is eligible; `rise` checks are still required |
//!
//! Consecutive failures of one session on established connections count once. A request that crashes
//! its backend and is repeated must not take the backend away from all other sessions.
//!
//! Without active checks, or after a waived penalty, it comes back *on trial*: for one `window`, or
//! until a request succeeds, a single failed request ejects it again.

use std::collections::VecDeque;
use std::time::Duration;

use super::penalty::Penalty;
use super::probe::ProbeFailure;
use super::transition::TransitionReason;
use crate::affinity::{Health, KeyHash};
use crate::model::snapshot::Observation;
use crate::model::{HealthCheck, PassiveCheck, Upstream};

/// The health state machine of one backend.
#[derive(Debug)]
pub(super) struct HealthMachine {
    state: State,
    /// Consecutive checks: passes while down, failures while up.
    checks: u32,
    /// Consecutive failed requests.
    failed_requests: u32,
    /// Sessions of these failed requests; at most `max_fails`.
    failed_sessions: Vec<KeyHash>,
    /// Times of 5xx responses, oldest first; at most `max_5xx`.
    server_errors: VecDeque<Duration>,
    penalty: Penalty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up { trial_until: Option<Duration> },
    Down { until: Duration, unchecked: bool },
}

/// The effect of a request's outcome on the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Observed {
    /// Nothing changed.
    Nothing,
    /// The backend was ejected.
    Ejected(TransitionReason),
    /// The backend was spared because it is the last one. Returned once per series of failures.
    Spared,
}

impl HealthMachine {
    /// Creates the state before the first check. Without active checks the backend starts up, because
    /// nothing else would bring it up.
    pub(super) fn new(rules: &Upstream, now: Duration) -> Self {
        let state = match rules.initial_health {
            Health::Down if rules.health_check.is_some() => State::Down { until: now, unchecked: true },
            Health::Up | Health::Down => State::Up { trial_until: None },
        };
        Self {
            state,
            checks: 0,
            failed_requests: 0,
            failed_sessions: Vec::new(),
            server_errors: VecDeque::new(),
            penalty: Penalty::default(),
        }
    }

    /// Returns whether it is up or down.
    pub(super) fn health(&self) -> Health {
        match self.state {
            State::Up { .. } => Health::Up,
            State::Down { .. } => Health::Down,
        }
    }

    /// Returns whether it is down only because no check has passed or failed yet.
    pub(super) fn is_unchecked(&self) -> bool {
        matches!(self.state, State::Down { unchecked: true, .. })
    }

    /// Records a passed check. The next [`Self::reenter`] may bring the backend up.
    pub(super) fn check_passed(&mut self) {
        match self.state {
            State::Up { .. } => self.checks = 0,
            State::Down { .. } => self.checks = self.checks.saturating_add(1),
        }
    }

    /// Records a failed check. Returns the reason if this takes the backend down.
    pub(super) fn check_failed(
        &mut self,
        last: ProbeFailure,
        check: &HealthCheck,
        passive: Option<&PassiveCheck>,
        now: Duration,
    ) -> Option<TransitionReason> {
        match &mut self.state {
            State::Down { unchecked, .. } => {
                *unchecked = false;
                self.checks = 0;
                None
            }
            State::Up { .. } => {
                self.checks = self.checks.saturating_add(1);
                if self.checks < check.fall {
                    return None;
                }
                let held_for =
                    passive.map_or(Duration::ZERO, |rule| self.penalty.strike_by_checks(rule, now));
                self.go_down(now, held_for);
                Some(TransitionReason::ChecksFailed { last, held_for })
            }
        }
    }

    /// Records the outcome of a request. `others` is whether another backend is eligible.
    pub(super) fn observe(
        &mut self,
        observation: Observation,
        rule: &PassiveCheck,
        others: bool,
        now: Duration,
    ) -> Observed {
        // A late report of a request that was in flight when the backend went down.
        let State::Up { trial_until } = &mut self.state else { return Observed::Nothing };
        match observation {
            Observation::Recovered => {
                self.failed_requests = 0;
                self.failed_sessions.clear();
                *trial_until = None;
                Observed::Nothing
            }
            Observation::BrokenOff(session) if self.failed_sessions.contains(&session) => Observed::Nothing,
            Observation::Failed | Observation::BrokenOff(_) => {
                if let Observation::BrokenOff(session) = observation
                    && self.failed_requests < rule.max_fails
                {
                    self.failed_sessions.push(session);
                }
                let on_trial = trial_until.is_some_and(|until| now < until);
                self.failed_requests = self.failed_requests.saturating_add(1);
                if self.failed_requests < rule.max_fails && !on_trial {
                    return Observed::Nothing;
                }
                if !others {
                    let first = self.failed_requests == rule.max_fails.max(1);
                    return if first { Observed::Spared } else { Observed::Nothing };
                }
                let penalty = self.eject(rule, now);
                Observed::Ejected(TransitionReason::RequestsFailed { penalty })
            }
            Observation::ServerError => {
                let Some(max) = rule.max_5xx else { return Observed::Nothing };
                let max = usize::try_from(max).unwrap_or(usize::MAX).max(1);
                while self.server_errors.len() >= max
                    || self.server_errors.front().is_some_and(|&at| now.saturating_sub(at) >= rule.window)
                {
                    self.server_errors.pop_front();
                }
                self.server_errors.push_back(now);
                if self.server_errors.len() < max {
                    return Observed::Nothing;
                }
                if !others {
                    // Restart the count, so that this is reported once per `max_5xx`.
                    self.server_errors.clear();
                    return Observed::Spared;
                }
                let penalty = self.eject(rule, now);
                Observed::Ejected(TransitionReason::ServerErrors { penalty })
            }
        }
    }

    /// Brings the backend up if it may come up. Returns the reason if it did.
    pub(super) fn reenter(&mut self, rules: &Upstream, now: Duration) -> Option<TransitionReason> {
        let State::Down { until, .. } = self.state else { return None };
        if now < until || !self.has_risen(rules) {
            return None;
        }
        if rules.health_check.is_some() {
            self.go_up(None, now);
            return Some(TransitionReason::ChecksPassed);
        }
        self.go_up(rules.passive.as_ref(), now);
        Some(TransitionReason::PenaltyOver)
    }

    /// Waives the penalty because no backend is eligible. Brings the backend up unless it still has to
    /// pass checks.
    pub(super) fn waive(&mut self, rules: &Upstream, now: Duration) -> Option<TransitionReason> {
        (self.health() == Health::Down && self.has_risen(rules)).then(|| {
            self.go_up(rules.passive.as_ref(), now);
            TransitionReason::PenaltyWaived
        })
    }

    /// Returns when time alone can bring it up.
    pub(super) fn wakeup(&self, rules: &Upstream) -> Option<Duration> {
        match self.state {
            State::Down { until, .. } if self.has_risen(rules) => Some(until),
            State::Up { .. } | State::Down { .. } => None,
        }
    }

    /// Returns whether a series of checks is in progress that may change its health.
    pub(super) fn in_doubt(&self, rules: &Upstream) -> bool {
        self.checks > 0 && !(self.health() == Health::Down && self.has_risen(rules))
    }

    /// Resets all counts, because it was not watched for a while or the rules changed.
    pub(super) fn forget_counts(&mut self) {
        self.checks = 0;
        self.failed_requests = 0;
        self.failed_sessions.clear();
        self.server_errors.clear();
    }

    fn has_risen(&self, rules: &Upstream) -> bool {
        rules.health_check.as_ref().is_none_or(|check| self.checks >= check.rise)
    }

    fn eject(&mut self, rule: &PassiveCheck, now: Duration) -> Duration {
        let penalty = self.penalty.strike_by_requests(rule, now);
        self.go_down(now, penalty);
        penalty
    }

    fn go_down(&mut self, now: Duration, held_for: Duration) {
        self.state = State::Down { until: now.saturating_add(held_for), unchecked: false };
        self.forget_counts();
    }

    fn go_up(&mut self, trial: Option<&PassiveCheck>, now: Duration) {
        self.state = State::Up { trial_until: trial.map(|rule| now.saturating_add(rule.window)) };
        self.forget_counts();
        self.penalty.came_up(now);
    }
}
