//! Slow start. A backend that joins or recovers ramps up to its share of new sessions: a growing
//! prefix of its ring points is active.
//!
//! The prefix never shrinks during a ramp, so a key moves at most once. It grows in steps because
//! each step publishes a new snapshot.

use std::time::Duration;

/// A ramp that started at `since` and takes `over`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ramp {
    since: Duration,
    over: Duration,
}

impl Ramp {
    /// Starts a ramp at `now`. Returns `None` if `over` is zero.
    pub(super) fn start(now: Duration, over: Duration) -> Option<Self> {
        (!over.is_zero()).then_some(Self { since: now, over })
    }

    /// Returns how many of `points` are active at `now`: from a tenth to all, and at least one.
    pub(super) fn active(&self, points: u32, now: Duration) -> u32 {
        if self.is_over(now) {
            return points;
        }
        let steps = self.over.as_nanos().div_ceil(self.step().as_nanos());
        // A tenth + nine tenths × done / steps; steps ≤ 100 and points < 2³².
        let active = u128::from(points) * (steps + 9 * self.done(now)) / (10 * steps);
        u32::try_from(active).map_or(points, |active| active.clamp(1, points.max(1)))
    }

    /// Returns whether all points are active.
    pub(super) fn is_over(&self, now: Duration) -> bool {
        now >= self.since.saturating_add(self.over)
    }

    /// Returns when the next step after `now` is due.
    pub(super) fn next_step(&self, now: Duration) -> Duration {
        let next = u32::try_from(self.done(now) + 1).map_or(self.over, |n| self.step().saturating_mul(n));
        self.since.saturating_add(next.min(self.over))
    }

    /// Returns the number of completed steps.
    fn done(&self, now: Duration) -> u128 {
        now.saturating_sub(self.since).as_nanos() / self.step().as_nanos()
    }

    /// Returns the duration of a step. There are at most 100 steps, and at most four per second.
    fn step(&self) -> Duration {
        (self.over / 100).max(Duration::from_millis(250))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(over: Duration, points: u32) -> Vec<u32> {
        let start = Duration::from_secs(1000);
        let ramp = Ramp::start(start, over).unwrap();
        let mut now = start;
        let mut seen = vec![ramp.active(points, now)];
        while !ramp.is_over(now) {
            let next = ramp.next_step(now);
            assert!(next > now && next <= start + over, "{next:?} after {now:?}");
            now = next;
            seen.push(ramp.active(points, now));
        }
        seen
    }

    #[test]
    fn ramp_grows_from_a_tenth_to_all_in_a_bounded_number_of_steps() {
        for over in [1u64, 7, 250, 251, 999, 30_000, 86_400_000].map(Duration::from_millis) {
            for points in [1, 3, 1024, 256 * 1024] {
                let seen = steps(over, points);
                assert!(seen.len() <= 102, "{over:?}: {} steps", seen.len());
                assert!(seen.is_sorted());
                assert_eq!(seen[0], (points / 10).max(1));
                assert_eq!(seen.last(), Some(&points));
            }
        }
    }

    #[test]
    fn ramp_is_linear() {
        let ramp = Ramp::start(Duration::ZERO, Duration::from_secs(30)).unwrap();
        assert_eq!(ramp.active(1000, Duration::from_secs(15)), 550);
        assert_eq!(ramp.active(1000, Duration::from_secs(10)), 397); // 33 of 100 steps
    }

    #[test]
    fn zero_duration_means_no_ramp() {
        assert!(Ramp::start(Duration::ZERO, Duration::ZERO).is_none());
    }
}
