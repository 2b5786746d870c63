//! How long a backend that went down must stay down: longer each time, and
//! shorter again after calm.
//!
//! One count of strikes serves ejections by requests and flaps of the active
//! checks. The n-th strike in a row costs `penalty` × 2ⁿ⁻¹, at most
//! `max_penalty`; a strike by active checks costs one step less, so that the
//! first is free: `rise` alone brings the backend back. Each time that the
//! backend has been up for twice the penalty of its last strike, one strike is
//! forgiven, which halves the next penalty.

use std::time::Duration;

use crate::model::PassiveCheck;

/// One backend's strikes.
#[derive(Debug, Clone, Default)]
pub(super) struct Penalty {
    strikes: u32,
    /// When it last came up; strikes are forgiven from then on.
    up_since: Duration,
}

impl Penalty {
    /// Ejected by what requests saw: how long it stays out.
    pub(super) fn strike_by_requests(&mut self, rule: &PassiveCheck, now: Duration) -> Duration {
        self.forgive(rule, now);
        let length = length(rule, self.strikes);
        self.add(rule);
        length
    }

    /// Taken down by active checks: how long it stays out even if they pass.
    pub(super) fn strike_by_checks(&mut self, rule: &PassiveCheck, now: Duration) -> Duration {
        self.forgive(rule, now);
        let length = self.strikes.checked_sub(1).map_or(Duration::ZERO, |n| length(rule, n));
        self.add(rule);
        length
    }

    /// It is up again.
    pub(super) fn back(&mut self, now: Duration) {
        self.up_since = now;
    }

    fn add(&mut self, rule: &PassiveCheck) {
        // More strikes than reach the maximum would only delay forgiveness.
        let at_most = length(rule, self.strikes.saturating_sub(1)) >= rule.max_penalty;
        if !at_most && self.strikes < MAX_STRIKES {
            self.strikes += 1;
        }
    }

    fn forgive(&mut self, rule: &PassiveCheck, now: Duration) {
        let mut calm = now.saturating_sub(self.up_since);
        while let Some(last) = self.strikes.checked_sub(1) {
            let Some(rest) = calm.checked_sub(length(rule, last).saturating_mul(2)) else { break };
            calm = rest;
            self.strikes = last;
        }
    }
}

fn length(rule: &PassiveCheck, strikes: u32) -> Duration {
    rule.penalty.saturating_mul(2u32.saturating_pow(strikes)).min(rule.max_penalty)
}

/// Keeps the loop in `forgive` short whatever the configuration says.
const MAX_STRIKES: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn rule() -> PassiveCheck {
        PassiveCheck { max_fails: 1, max_5xx: None, window: S, penalty: 10 * S, max_penalty: 60 * S }
    }

    #[test]
    fn each_ejection_doubles_up_to_the_maximum() {
        let mut penalty = Penalty::default();
        let lengths: Vec<_> = (0..6).map(|_| penalty.strike_by_requests(&rule(), Duration::ZERO)).collect();
        assert_eq!(lengths, [10 * S, 20 * S, 40 * S, 60 * S, 60 * S, 60 * S]);
    }

    #[test]
    fn first_flap_of_checks_is_free() {
        let mut penalty = Penalty::default();
        let lengths: Vec<_> = (0..6).map(|_| penalty.strike_by_checks(&rule(), Duration::ZERO)).collect();
        assert_eq!(lengths, [Duration::ZERO, 10 * S, 20 * S, 40 * S, 60 * S, 60 * S]);
    }

    #[test]
    fn twice_the_last_penalty_without_a_strike_halves_the_next() {
        let mut penalty = Penalty::default();
        for _ in 0..3 {
            penalty.strike_by_requests(&rule(), Duration::ZERO);
        }
        penalty.back(100 * S);
        // The last penalty was 40 s: one strike is forgiven after 80 s.
        assert_eq!(penalty.clone().strike_by_requests(&rule(), 179 * S), 60 * S);
        assert_eq!(penalty.clone().strike_by_requests(&rule(), 180 * S), 40 * S);
        // 80 s + 40 s + 20 s forgive everything.
        assert_eq!(penalty.clone().strike_by_requests(&rule(), 239 * S), 20 * S);
        assert_eq!(penalty.strike_by_requests(&rule(), 240 * S), 10 * S);
    }

    #[test]
    fn many_strikes_at_the_maximum_are_forgiven_as_soon_as_few() {
        let mut few = Penalty::default();
        let mut many = Penalty::default();
        for _ in 0..4 {
            few.strike_by_requests(&rule(), Duration::ZERO);
        }
        for _ in 0..1000 {
            many.strike_by_requests(&rule(), Duration::ZERO);
        }
        for calm in [0, 119, 120, 200, 1000] {
            let now = calm * S;
            assert_eq!(
                few.clone().strike_by_requests(&rule(), now),
                many.clone().strike_by_requests(&rule(), now)
            );
        }
    }

    #[test]
    fn extreme_configurations_neither_overflow_nor_loop() {
        let zero = PassiveCheck { penalty: Duration::ZERO, ..rule() };
        let huge = PassiveCheck { penalty: Duration::MAX, max_penalty: Duration::MAX, ..rule() };
        let mut penalty = Penalty::default();
        for n in 0..100 {
            assert_eq!(penalty.strike_by_requests(&zero, n * S), Duration::ZERO);
        }
        for n in 0..100 {
            assert_eq!(penalty.strike_by_requests(&huge, n * S), Duration::MAX);
        }
    }
}
