//! Penalties: how long a backend that went down stays down, or one that is shunned stays shunned. They
//! grow with each strike and shrink again while the backend stays up.
//!
//! Failed requests and flaps of the active checks have a count of strikes each, so that what clients
//! do never keeps a backend down for longer. The n-th strike costs `penalty` × 2ⁿ⁻¹, at most
//! `max_penalty`. A strike by active checks costs one step less, so the first is free and `rise`
//! successes alone bring the backend back. Each time the backend has been up for twice the penalty of
//! its last strike, one strike is forgiven, which halves the next penalty.

use std::time::Duration;

use crate::model::PassiveCheck;

/// The strikes of one backend, of one kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Penalty {
    strikes: u32,
    /// When it last came up. Strikes are forgiven from this time on.
    up_since: Duration,
}

impl Penalty {
    /// Adds a strike for failed requests. Returns how long the backend stays out.
    pub(super) fn strike_by_requests(&mut self, rule: &PassiveCheck, now: Duration) -> Duration {
        self.forgive(rule, now);
        let length = length(rule, self.strikes);
        self.add(rule);
        length
    }

    /// Adds a strike for failed active checks. Returns how long the backend stays down even if the
    /// checks pass again.
    pub(super) fn strike_by_checks(&mut self, rule: &PassiveCheck, now: Duration) -> Duration {
        self.forgive(rule, now);
        let length = self.strikes.checked_sub(1).map_or(Duration::ZERO, |n| length(rule, n));
        self.add(rule);
        length
    }

    /// Records that the backend came up.
    pub(super) fn came_up(&mut self, now: Duration) {
        self.up_since = now;
    }

    fn add(&mut self, rule: &PassiveCheck) {
        // Strikes beyond the maximum penalty would only delay forgiveness.
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

/// Bounds the loop in `forgive` for any configuration.
const MAX_STRIKES: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn rule() -> PassiveCheck {
        PassiveCheck { max_fails: 1, max_5xx: None, window: S, penalty: 10 * S, max_penalty: 60 * S }
    }

    #[test]
    fn penalty_doubles_up_to_the_maximum() {
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
    fn uptime_of_twice_the_last_penalty_halves_the_next() {
        let mut penalty = Penalty::default();
        for _ in 0..3 {
            penalty.strike_by_requests(&rule(), Duration::ZERO);
        }
        penalty.came_up(100 * S);
        // The last penalty was 40 s: one strike is forgiven after 80 s.
        assert_eq!(penalty.clone().strike_by_requests(&rule(), 179 * S), 60 * S);
        assert_eq!(penalty.clone().strike_by_requests(&rule(), 180 * S), 40 * S);
        // 80 s + 40 s + 20 s forgive everything.
        assert_eq!(penalty.clone().strike_by_requests(&rule(), 239 * S), 20 * S);
        assert_eq!(penalty.strike_by_requests(&rule(), 240 * S), 10 * S);
    }

    #[test]
    fn strikes_beyond_the_maximum_do_not_delay_forgiveness() {
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
    fn extreme_configurations_do_not_overflow_or_loop() {
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
