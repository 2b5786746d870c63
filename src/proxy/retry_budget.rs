//! The retry budget: limits retries to a small share of requests, so that they do not overload
//! an upstream that is failing.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Retry;

/// One worker's retry budget for one upstream: a token bucket.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// Tokens in the bucket, in hundredths of a retry.
    hundredths: Cell<u32>,
    percent: u32,
    /// Minimum refill per second, in hundredths of a retry.
    per_second: u32,
    filled: Cell<Instant>,
}

/// Seconds of the minimum rate that can be saved up.
const SAVED_SECONDS: u32 = 10;
/// Requests whose share can be saved up. When a backend dies, all requests in flight to it are
/// retried at once.
const SAVED_REQUESTS: u32 = 1000;

impl RetryBudget {
    /// Creates a budget. The minimum rate is divided among `workers`.
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

    /// Adds the share of one request.
    pub(crate) fn deposit(&self) {
        self.hundredths.set(self.hundredths.get().saturating_add(self.percent).min(self.cap()));
    }

    /// Takes one retry. Returns false if the budget is used up.
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
        assert!(!budget.withdraw(now), "10 requests at 20 % allowed more than 2 retries");
    }

    #[test]
    fn minimum_rate_needs_no_requests() {
        let (budget, now) = budget(0, 2);
        assert!(budget.withdraw(now) && budget.withdraw(now) && !budget.withdraw(now));
        assert!(budget.withdraw(now + Duration::from_secs(1)));
    }

    #[test]
    fn fractions_of_a_second_count_towards_the_refill() {
        let (budget, now) = budget(0, 2);
        assert!(budget.withdraw(now) && budget.withdraw(now) && !budget.withdraw(now));
        let after = |millis| now + Duration::from_millis(millis);
        // Three seconds refill six retries, regardless of the number of attempts.
        let granted = [1_900, 1_901, 1_902, 3_000, 3_001, 3_002, 3_003];
        assert_eq!(granted.iter().filter(|at| budget.withdraw(after(**at))).count(), 6);
    }
}
