//! The health of one backend, from active checks and from the outcomes of requests.
//!
//! Checks decide health. What requests see steers new sessions: a backend at which requests fail is
//! *shunned*, which means that it keeps its sessions and gets no new ones.
//!
//! | from | to | when |
//! |---|---|---|
//! | up | shunned | requests of `max_fails` clients failed without an answer in between (of one client while on trial), or `max_5xx` clients got a 5xx within `window` |
//! | shunned | up | `rise` consecutive checks passed since, or the penalty is over |
//! | up, shunned | down | `fall` consecutive checks failed |
//! | up, shunned | down | no check asks the application (TCP checks, or none), and it answered nobody for a whole `window` in which requests of `max_fails` clients failed; never the last eligible backend |
//! | down | up | its penalty is over and, with active checks, `rise` consecutive checks passed since it went down |
//! | down | up | its penalty is waived because no backend is eligible; `rise` checks are still required |
//!
//! Where there are checks, one client alone can never take a backend away from the others, whatever
//! `max_fails` is.
//!
//! After a penalty that no check has ended, it is *on trial* for one `window`, or until a request
//! succeeds.

use std::sync::Arc;
use std::time::Duration;

use super::failures::{ServerErrors, Silence};
use super::penalty::Penalty;
use super::probe::ProbeFailure;
use super::transition::TransitionReason;
use crate::affinity::Health;
use crate::model::snapshot::{Observation, Standing};
use crate::model::{HealthCheck, PassiveCheck, Probe, Upstream};

/// The health state machine of one backend.
#[derive(Debug)]
pub(super) struct HealthMachine {
    state: State,
    /// When it went up or down, or was shunned.
    since: Duration,
    /// Set while it is up and shunned.
    shun: Option<Penalized>,
    /// Why it is shunned or down, for operators.
    why: Option<Arc<str>>,
    /// Consecutive failed checks while up.
    failed_checks: u32,
    /// Consecutive passed checks since it went down or was shunned.
    passed_checks: u32,
    silence: Silence,
    /// Whether this silence was found to be no reason to go down, because it is the last one.
    spared: bool,
    server_errors: ServerErrors,
    /// For failed checks.
    flaps: Penalty,
    /// For failed requests.
    strikes: Penalty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up { trial_until: Option<Duration> },
    Down(Penalized),
}

/// A penalty and its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Penalized {
    until: Duration,
    /// `None`: no check has passed or failed yet.
    why: Option<TransitionReason>,
}

/// The effect of a request's outcome on the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Observed {
    /// Nothing changed.
    Nothing,
    /// It gets no new sessions for a while.
    Shunned(TransitionReason),
    /// It went down.
    Down(TransitionReason),
    /// It was spared because it is the last one. Returned once per silence.
    Spared,
}

impl HealthMachine {
    /// Creates the state before the first check. Without active checks the backend starts up, because
    /// nothing else would bring it up.
    pub(super) fn new(rules: &Upstream, now: Duration) -> Self {
        let state = match rules.initial_health {
            Health::Down if rules.health_check.is_some() => State::Down(Penalized { until: now, why: None }),
            Health::Up | Health::Down => State::Up { trial_until: None },
        };
        Self {
            state,
            since: now,
            shun: None,
            why: (state != State::Up { trial_until: None }).then(|| "no check has passed yet".into()),
            failed_checks: 0,
            passed_checks: 0,
            silence: Silence::default(),
            spared: false,
            server_errors: ServerErrors::default(),
            flaps: Penalty::default(),
            strikes: Penalty::default(),
        }
    }

    /// Returns whether it is up or down.
    pub(super) fn health(&self) -> Health {
        match self.state {
            State::Up { .. } => Health::Up,
            State::Down(_) => Health::Down,
        }
    }

    /// Returns whether it is up but gets no new sessions.
    pub(super) fn is_shunned(&self) -> bool {
        self.shun.is_some()
    }

    /// Returns whether it is down only because no check has passed or failed yet.
    pub(super) fn is_unchecked(&self) -> bool {
        matches!(self.state, State::Down(Penalized { why: None, .. }))
    }

    /// Returns why it is up, shunned or down.
    pub(super) fn standing(&self) -> Standing {
        let penalized = match self.state {
            State::Up { .. } => self.shun,
            State::Down(penalized) => Some(penalized),
        };
        Standing {
            why: self.why.clone(),
            since: self.since,
            until: penalized.map(|penalized| penalized.until).filter(|until| *until > self.since),
        }
    }

    /// Records a passed check. The next [`Self::reenter`] or [`Self::end_shun`] may act on it.
    pub(super) fn check_passed(&mut self) {
        self.failed_checks = 0;
        if self.health() == Health::Down || self.is_shunned() {
            self.passed_checks = self.passed_checks.saturating_add(1);
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
        self.passed_checks = 0;
        match &mut self.state {
            State::Down(Penalized { why, .. }) => {
                if why.is_none() {
                    let reason = TransitionReason::ChecksFailed { last, held_for: Duration::ZERO };
                    *why = Some(reason);
                    self.why = Some(reason.to_string().into());
                }
                None
            }
            State::Up { .. } => {
                self.failed_checks = self.failed_checks.saturating_add(1);
                if self.failed_checks < check.fall {
                    return None;
                }
                let held_for = passive.map_or(Duration::ZERO, |rule| self.flaps.strike_by_checks(rule, now));
                let reason = TransitionReason::ChecksFailed { last, held_for };
                self.go_down(reason, held_for, now);
                Some(reason)
            }
        }
    }

    /// Records the outcome of a request. `others` is whether another backend is eligible.
    pub(super) fn observe(
        &mut self,
        observation: Observation,
        rules: &Upstream,
        rule: &PassiveCheck,
        others: bool,
        now: Duration,
    ) -> Observed {
        // A late report of a request that was in flight when the backend went down.
        let State::Up { trial_until } = &mut self.state else { return Observed::Nothing };
        match observation {
            Observation::Recovered => {
                *trial_until = None;
                self.silence.end();
                self.spared = false;
                Observed::Nothing
            }
            Observation::Failed(client) => {
                let max_fails = usize::try_from(rule.max_fails).unwrap_or(usize::MAX);
                let on_trial = trial_until.is_some_and(|until| now < until);
                self.silence.failed(client, max_fails.max(NOT_ALONE), now);
                let clients = self.silence.clients();
                let needed = if rules.health_check.is_some() { max_fails.max(NOT_ALONE) } else { max_fails };
                let silence = self.silence.lasted(now);
                if !asks_application(rules) && clients >= needed && silence >= rule.window {
                    return self.hangs(clients, silence, rule, others, now);
                }
                if clients < max_fails && !on_trial {
                    return Observed::Nothing;
                }
                self.shun(rule, now, |penalty| TransitionReason::RequestsFailed { clients, penalty })
            }
            Observation::ServerError(client) => {
                let Some(max) = rule.max_5xx else { return Observed::Nothing };
                let clients = self.server_errors.add(client, rule.window, now);
                if clients < usize::try_from(max).unwrap_or(usize::MAX) {
                    return Observed::Nothing;
                }
                self.server_errors.clear();
                self.shun(rule, now, |penalty| TransitionReason::ServerErrors { clients, penalty })
            }
        }
    }

    /// Brings the backend up if it may come up. Returns the reason if it did.
    pub(super) fn reenter(&mut self, rules: &Upstream, now: Duration) -> Option<TransitionReason> {
        let State::Down(Penalized { until, why }) = self.state else { return None };
        if now < until || !self.has_risen(rules) {
            return None;
        }
        let by_requests = matches!(why, Some(TransitionReason::AnsweredNobody { .. }));
        if rules.health_check.is_some() && !by_requests {
            self.go_up(None, now);
            return Some(TransitionReason::ChecksPassed);
        }
        self.go_up(rules.passive.as_ref(), now);
        Some(TransitionReason::PenaltyOver)
    }

    /// Lets it have new sessions again if checks have passed or its penalty is over. Returns the reason
    /// if it was shunned and no longer is.
    pub(super) fn end_shun(&mut self, rules: &Upstream, now: Duration) -> Option<TransitionReason> {
        let until = self.shun?.until;
        let reason = if rules.passive.is_none() {
            TransitionReason::Reload
        } else if rules.health_check.is_some() && self.has_risen(rules) {
            TransitionReason::ChecksPassed
        } else if now >= until {
            TransitionReason::PenaltyOver
        } else {
            return None;
        };
        let trial = rules.passive.as_ref().filter(|_| reason == TransitionReason::PenaltyOver);
        self.state = State::Up { trial_until: trial.map(|rule| now.saturating_add(rule.window)) };
        (self.shun, self.why, self.since, self.passed_checks) = (None, None, now, 0);
        self.strikes.came_up(now);
        Some(reason)
    }

    /// Waives the penalty because no backend is eligible. Brings the backend up unless it still has to
    /// pass checks.
    pub(super) fn waive(&mut self, rules: &Upstream, now: Duration) -> Option<TransitionReason> {
        (self.health() == Health::Down && self.has_risen(rules)).then(|| {
            self.go_up(rules.passive.as_ref(), now);
            TransitionReason::PenaltyWaived
        })
    }

    /// Returns when time alone can bring it up or let it have new sessions.
    pub(super) fn wakeup(&self, rules: &Upstream) -> Option<Duration> {
        match self.state {
            State::Down(penalized) => self.has_risen(rules).then_some(penalized.until),
            State::Up { .. } => self.shun.map(|shun| shun.until),
        }
    }

    /// Returns whether a series of checks is in progress that may change its state.
    pub(super) fn in_doubt(&self, rules: &Upstream) -> bool {
        self.failed_checks > 0 || (self.passed_checks > 0 && !self.has_risen(rules))
    }

    /// Resets all counts, because it was not watched for a while or the rules changed.
    pub(super) fn forget_counts(&mut self) {
        (self.failed_checks, self.passed_checks) = (0, 0);
        self.silence.end();
        self.spared = false;
        self.server_errors.clear();
    }

    fn has_risen(&self, rules: &Upstream) -> bool {
        rules.health_check.as_ref().is_none_or(|check| self.passed_checks >= check.rise)
    }

    /// Takes it down because it answers nobody, unless it is the last one.
    fn hangs(
        &mut self,
        clients: usize,
        silence: Duration,
        rule: &PassiveCheck,
        others: bool,
        now: Duration,
    ) -> Observed {
        if !others {
            let first = !std::mem::replace(&mut self.spared, true);
            return if first { Observed::Spared } else { Observed::Nothing };
        }
        let penalty = self.strikes.strike_by_requests(rule, now);
        let reason = TransitionReason::AnsweredNobody { clients, silence, penalty };
        self.go_down(reason, penalty, now);
        Observed::Down(reason)
    }

    /// Shuns it for a penalty. A penalty that runs already is not extended.
    fn shun(
        &mut self,
        rule: &PassiveCheck,
        now: Duration,
        reason: impl FnOnce(Duration) -> TransitionReason,
    ) -> Observed {
        if self.is_shunned() {
            return Observed::Nothing;
        }
        let penalty = self.strikes.strike_by_requests(rule, now);
        let reason = reason(penalty);
        self.shun = Some(Penalized { until: now.saturating_add(penalty), why: Some(reason) });
        self.why = Some(reason.to_string().into());
        (self.since, self.passed_checks) = (now, 0);
        Observed::Shunned(reason)
    }

    fn go_down(&mut self, reason: TransitionReason, held_for: Duration, now: Duration) {
        self.state = State::Down(Penalized { until: now.saturating_add(held_for), why: Some(reason) });
        self.why = Some(reason.to_string().into());
        (self.shun, self.since) = (None, now);
        self.forget_counts();
    }

    fn go_up(&mut self, trial: Option<&PassiveCheck>, now: Duration) {
        self.state = State::Up { trial_until: trial.map(|rule| now.saturating_add(rule.window)) };
        (self.why, self.since) = (None, now);
        self.forget_counts();
        self.flaps.came_up(now);
        self.strikes.came_up(now);
    }
}

/// Returns whether a check asks the application itself, and so tells a hung one from a healthy one.
fn asks_application(rules: &Upstream) -> bool {
    rules.health_check.as_ref().is_some_and(|check| matches!(check.probe, Probe::Http { .. }))
}

/// The fewest clients whose failed requests take down a backend that passes its checks: no client
/// may move the sessions of others alone.
const NOT_ALONE: usize = 2;
