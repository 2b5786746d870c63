//! The control state of one backend.

use std::time::Duration;

use super::health::HealthMachine;
use super::slow_start::Ramp;
use crate::affinity::{AdminState, Health, Slot};
use crate::model::{Backend, Upstream};

/// The control state of one backend.
#[derive(Debug)]
pub(super) struct BackendControl {
    pub(super) slot: Slot,
    /// The state that an operator set at run time, if it differs from the file.
    pub(super) operator: Option<AdminState>,
    /// Whether the backend asked to be drained by answering a check with a `drain_status`.
    pub(super) asks_to_drain: bool,
    pub(super) health: HealthMachine,
    pub(super) ramp: Option<Ramp>,
    /// Whether it was eligible for existing sessions when it was last settled. A change to true starts
    /// its slow start.
    pub(super) serving: bool,
    /// Whether it was configured when the process (or the upstream) started. If so, its first check
    /// does not cause a slow start.
    pub(super) from_start: bool,
}

impl BackendControl {
    /// Creates the state of a backend without history.
    pub(super) fn new(slot: Slot, config: &Upstream, now: Duration, from_start: bool) -> Self {
        Self {
            slot,
            operator: None,
            asks_to_drain: false,
            health: HealthMachine::new(config, now),
            ramp: None,
            serving: false,
            from_start,
        }
    }

    /// Returns the effective admin state: the operator's (or else the file's), or `drain` if that is
    /// `ready` and the backend asked to be drained.
    pub(super) fn admin(&self, rules: &Backend) -> AdminState {
        match self.operator.unwrap_or(rules.admin) {
            AdminState::Ready if self.asks_to_drain => AdminState::Drain,
            wish => wish,
        }
    }

    /// Returns whether it is eligible for existing sessions.
    pub(super) fn is_serving(&self, rules: &Backend) -> bool {
        self.health.health() == Health::Up && self.admin(rules) != AdminState::Maint
    }

    /// Returns how many of its `points` are active at `now`.
    pub(super) fn active_points(&self, points: u32, now: Duration) -> u32 {
        self.ramp.map_or(points, |ramp| ramp.active(points, now))
    }
}
