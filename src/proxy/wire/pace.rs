//! Minimum body rates. Only the time spent waiting for the client counts.
//!
//! A client starts with a time allowance. Waiting for the client uses it up; each transferred byte
//! adds to it, one second for `min_body_rate` bytes. The client is too slow once nothing is left.
//! A slow backend costs the client nothing, and nothing is measured while no side is waited for.

use std::time::Duration;

use crate::model::UpstreamTimeouts;

/// The largest allowance, in windows. A fast client may pause, but not forever.
const SAVED: u64 = 4;

/// The pace of a body in one direction.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Minimum rate in bytes per second. 0 disables the check.
    rate: u64,
    /// Largest allowance, in milliseconds.
    max_left: u64,
    /// Remaining allowance, in milliseconds.
    left: u64,
    /// Bytes transferred as of the last check. `None` before the first.
    moved: Option<u64>,
    /// How many of them have been added to the allowance.
    credited: u64,
    /// When waiting for the client began, in milliseconds of the worker's clock.
    waiting_since: Option<u64>,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PaceStatus {
    /// Nothing has changed since the last check.
    Unchanged,
    /// The next bytes must arrive within this time.
    Wait(Duration),
    /// The client is too slow.
    TooSlow,
}

impl Pace {
    /// Creates a pace with the configured rate. The initial allowance is `body_rate_window`.
    pub(crate) fn new(timeouts: &UpstreamTimeouts) -> Self {
        let window = millis(timeouts.body_rate_window);
        Self {
            rate: timeouts.min_body_rate.unwrap_or(0),
            max_left: window.saturating_mul(SAVED),
            left: window,
            moved: None,
            credited: 0,
            waiting_since: None,
        }
    }

    /// Checks the pace at `now`, in milliseconds of the worker's clock. `moved` is the total number
    /// of bytes transferred, `waits` is whether the transfer now waits for the client, `idle` is
    /// the longest time without any transfer.
    pub(crate) fn check(&mut self, now: u64, moved: u64, waits: bool, idle: Duration) -> PaceStatus {
        // The head, and bytes that were there from the start, say nothing about the pace.
        let first = self.moved.is_none();
        let before = self.moved.replace(moved).unwrap_or(moved);
        if first {
            self.credited = moved;
        }
        let (changed, waited) = (waits != self.waiting_since.is_some(), self.waiting_since);
        self.waiting_since = waits.then_some(now);
        if self.rate == 0 {
            return if first || changed || moved != before {
                PaceStatus::Wait(idle)
            } else {
                PaceStatus::Unchanged
            };
        }
        let earned = moved.saturating_sub(self.credited).saturating_mul(1000) / self.rate;
        // Bytes worth less than a millisecond are carried over to the next check.
        self.credited = self.credited.saturating_add(earned.saturating_mul(self.rate) / 1000).min(moved);
        let spent = waited.map_or(0, |since| now.saturating_sub(since));
        // Add before subtracting: the new bytes arrived during the wait.
        self.left = self.left.saturating_add(earned).saturating_sub(spent);
        if self.left == 0 && waited.is_some() {
            return PaceStatus::TooSlow;
        }
        self.left = self.left.min(self.max_left);
        match (waits, first || changed || moved != before) {
            (_, false) => PaceStatus::Unchanged,
            (true, true) => PaceStatus::Wait(idle.min(Duration::from_millis(self.left))),
            (false, true) => PaceStatus::Wait(idle),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1000;
    const IDLE: Duration = Duration::from_secs(60);

    /// 100 bytes per second, and 10 seconds to start with.
    fn pace() -> Pace {
        Pace::new(&UpstreamTimeouts {
            connect: IDLE,
            response_head: IDLE,
            body_idle: IDLE,
            min_body_rate: Some(100),
            body_rate_window: Duration::from_secs(10),
            tunnel_idle: IDLE,
        })
    }

    /// Checks once a second a client that transfers `per_second` bytes and is always waited for.
    /// Returns the second in which it is too slow.
    fn ends_after(pace: &mut Pace, from: u64, moved: &mut u64, per_second: u64) -> Option<u64> {
        (1..=1000).find(|second| {
            *moved += per_second;
            pace.check(from + second * S, *moved, true, IDLE) == PaceStatus::TooSlow
        })
    }

    #[test]
    fn stalled_client_has_one_window() {
        let mut pace = pace();
        assert_eq!(pace.check(0, 5000, true, IDLE), PaceStatus::Wait(Duration::from_secs(10)));
        assert_eq!(ends_after(&mut pace, 0, &mut 5000, 0), Some(10));
    }

    #[test]
    fn only_rates_below_the_minimum_are_too_slow() {
        for (per_second, ends) in [(1, Some(10)), (50, Some(20)), (90, Some(100)), (100, None), (500, None)] {
            let mut pace = pace();
            pace.check(0, 0, true, IDLE);
            let found = ends_after(&mut pace, 0, &mut 0, per_second);
            assert!(found == ends || found == ends.map(|at| at + 1), "{per_second}: {found:?}");
        }
    }

    #[test]
    fn fast_client_may_pause_for_four_windows() {
        let mut pace = pace();
        pace.check(0, 0, true, IDLE);
        assert_ne!(pace.check(S, 1 << 30, true, IDLE), PaceStatus::TooSlow);
        assert_eq!(ends_after(&mut pace, S, &mut (1 << 30), 0), Some(40));
    }

    #[test]
    fn waiting_for_the_backend_costs_nothing() {
        let mut pace = pace();
        pace.check(0, 0, true, IDLE);
        assert_eq!(pace.check(9 * S, 0, false, IDLE), PaceStatus::Wait(IDLE));
        assert_eq!(pace.check(9_000 * S, 0, false, IDLE), PaceStatus::Unchanged);
        assert_eq!(pace.check(9_001 * S, 0, true, IDLE), PaceStatus::Wait(Duration::from_secs(1)));
        assert_eq!(pace.check(9_002 * S, 0, true, IDLE), PaceStatus::TooSlow);
    }

    #[test]
    fn rate_of_zero_disables_the_check() {
        let mut pace = Pace { rate: 0, ..pace() };
        assert_eq!(pace.check(0, 0, true, IDLE), PaceStatus::Wait(IDLE));
        assert_eq!(ends_after(&mut pace, 0, &mut 0, 0), None);
        assert_eq!(pace.check(2000 * S, 1, true, IDLE), PaceStatus::Wait(IDLE));
    }
}
