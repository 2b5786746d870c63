//! One backend's part of the control state.

use std::time::Duration;

use super::health::HealthMachine;
use super::slow_start::Ramp;
use crate::affinity::{AdminState, Health, Slot};
use crate::model::{Backend, Upstream};

/// What is known of one backend.
#[derive(Debug)]
pub(super) struct BackendControl {
    pub(super) slot: Slot,
    /// What the operator said at run time, where it differs from the file.
    pub(super) operator: Option<AdminState>,
    /// It asked to be drained by a check's `drain_status`.
    pub(super) drains_itself: bool,
    pub(super) health: HealthMachine,
    pub(super) ramp: Option<Ramp>,
    /// Was it eligible for existing sessions when last looked at? A change to
    /// yes begins its slow start.
    pub(super) serving: bool,
    /// Was it there when the process (or the upstream) began? Then its first
    /// check is no reason for a slow start.
    pub(super) from_start: bool,
}

impl BackendControl {
    /// One that nothing is known of.
    pub(super) fn new(slot: Slot, config: &Upstream, now: Duration, from_start: bool) -> Self {
        Self {
            slot,
            operator: None,
            drains_itself: false,
            health: HealthMachine::new(config, now),
            ramp: None,
            serving: false,
            from_start,
        }
    }

    /// The stronger of what the operator (else the file) and the backend itself wish.
    pub(super) fn admin(&self, rules: &Backend) -> AdminState {
        match self.operator.unwrap_or(rules.admin) {
            AdminState::Ready if self.drains_itself => AdminState::Drain,
            wish => wish,
        }
    }

    /// Is it eligible for existing sessions?
    pub(super) fn is_serving(&self, rules: &Backend) -> bool {
        self.health.health() == Health::Up && self.admin(rules) != AdminState::Maint
    }

    /// How many of its `points` count at `now`.
    pub(super) fn active_points(&self, points: u32, now: Duration) -> u32 {
        self.ramp.map_or(points, |ramp| ramp.active(points, now))
    }
}
