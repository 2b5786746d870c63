//! The retry budget: retries stay a small share of requests, so that a
//! failing upstream is not buried under them.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Retry;

/// One worker's budget for one upstream: a bucket of hundredths of a retry.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    hundredths: Cell<u32>,
    percent: u32,
    /// Hundredths that arrive each second whatever happens.
    per_second: u32,
    filled: Cell<Instant>,
}

/// Seconds of the minimum rate that may be saved up.
const SAVED_SECONDS: u32 = 10;
/// Requests whose share may be saved up: what was in flight to a backend that
/// dies comes back all at once.
const SAVED_REQUESTS: u32 = 1000;

impl RetryBudget {
    /// `workers` share the minimum rate.
    pub(crate) fn new(retry: &Retry, workers: usize, now: Instant) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        let per_second = retry.min_per_second.saturating_mul(100).div_ceil(workers);
        Self {
            hundredths: Cell::new(per_second),
            percent: retry.budget_percent,
            per_second,
            filled: Cell::new(now),
        }
    }

    fn cap(&self) -> u32 {
        let minimum = self.per_second.saturating_mul(SAVED_SECONDS);
        minimum.max(self.percent.saturating_mul(SAVED_REQUESTS))
    }

    /// A request arrived: it brings its share.
    pub(crate) fn deposit(&self) {
        self.hundredths.set(self.hundredths.get().saturating_add(self.percent).min(self.cap()));
    }

    /// Takes one retry, if there is one.
    pub(crate) fn withdraw(&self, now: Instant) -> bool {
        let seconds = now.duration_since(self.filled.get()).as_secs();
        if seconds > 0 {
            self.filled.set(self.filled.get() + Duration::from_secs(seconds));
            let arrived = u32::try_from(seconds).unwrap_or(u32::MAX).saturating_mul(self.per_second);
            self.hundredths.set(self.hundredths.get().saturating_add(arrived).min(self.cap()));
        }
        let left = self.hundredths.get().checked_sub(100);
        if let Some(left) = left {
            self.hundredths.set(left);
        }
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(percent: u32, min_per_second: u32) -> (RetryBudget, Instant) {
        let now = Instant::now();
        let retry = Retry {
            attempts: 3,
            budget_percent: percent,
            min_per_second,
            retry_after: Duration::from_secs(1),
        };
        (RetryBudget::new(&retry, 1, now), now)
    }

    #[test]
    fn retries_stay_within_their_share_of_requests() {
        let (budget, now) = budget(20, 0);
        assert!(!budget.withdraw(now));
        for _ in 0..10 {
            budget.deposit();
        }
        assert!(budget.withdraw(now) && budget.withdraw(now));
        assert!(!budget.withdraw(now), "ten requests bring two retries");
    }

    #[test]
    fn a_minimum_rate_is_there_without_requests() {
        let (budget, now) = budget(0, 2);
        assert!(budget.withdraw(now) && budget.withdraw(now) && !budget.withdraw(now));
        assert!(budget.withdraw(now + Duration::from_secs(1)));
    }

    #[test]
    fn parts_of_a_second_are_not_lost_between_retries() {
        let (budget, now) = budget(0, 2);
        assert!(budget.withdraw(now) && budget.withdraw(now) && !budget.withdraw(now));
        let after = |millis| now + Duration::from_millis(millis);
        // In three seconds six retries arrive, however often it is asked.
        let granted = [1_900, 1_901, 1_902, 3_000, 3_001, 3_002, 3_003];
        assert_eq!(granted.iter().filter(|at| budget.withdraw(after(**at))).count(), 6);
    }
}
