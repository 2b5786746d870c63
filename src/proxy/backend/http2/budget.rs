//! Budgets of cancellations. Backends close a connection on which too many streams are reset,
//! with the requests of everybody on it.

use std::time::Duration;

use ahash::AHashMap;
use tokio::time::Instant;

/// Resets to send on one connection. Netty takes 200 in 30s, nghttp2 takes 1,000 and 33 a second.
const PER_LINK: Rate = Rate { burst: 80, per_second: 4 };
/// What one client may cancel early and still share connections with others, in answered requests.
const PER_CLIENT: Rate = Rate { burst: 200, per_second: 20 };
/// A request that is cancelled early costs as much as this many answered requests give back. A
/// proxy with many users behind it cancels some, but answers many more.
const CANCELLED: u32 = 4;
/// The most clients to keep track of. Each has cancelled something lately.
const MAX_CLIENTS: usize = 4096;
/// The shortest time between two searches for clients to forget.
const MAKE_ROOM_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    per_second: u32,
}

/// A budget that refills over time.
#[derive(Debug)]
pub(super) struct Budget {
    rate: Rate,
    left: u32,
    refilled: Instant,
    /// Whether it was spent and is not half full again.
    spent: bool,
}

impl Budget {
    /// Creates the budget of resets of a connection.
    pub(super) fn of_link(now: Instant) -> Self {
        Self::new(PER_LINK, now)
    }

    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.burst, refilled: now, spent: false }
    }

    /// Spends this much. Returns false if nothing was left.
    pub(super) fn spend(&mut self, cost: u32, now: Instant) -> bool {
        self.refill(now);
        let some = self.left > 0;
        self.left = self.left.saturating_sub(cost);
        self.spent |= self.left == 0;
        some
    }

    /// Returns whether the budget was spent and is not half full again.
    pub(super) fn is_spent(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.spent
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled).as_millis();
        let earned = elapsed.saturating_mul(self.rate.per_second.into()) / 1000;
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= self.rate.burst {
            self.refilled = now;
        } else {
            // Time worth less than 1 is carried over.
            self.refilled += Duration::from_secs(earned.into()) / self.rate.per_second;
        }
        self.earn(earned);
    }

    fn earn(&mut self, earned: u32) {
        self.left = self.left.saturating_add(earned).min(self.rate.burst);
        self.spent &= self.left < self.rate.burst / 2;
    }

    fn is_full(&self) -> bool {
        self.left == self.rate.burst
    }
}

/// The clients that have lately cancelled requests early.
#[derive(Debug, Default)]
pub(super) struct Cancellers {
    clients: AHashMap<u64, Budget>,
    /// When quiet clients were last forgotten, because there were too many.
    made_room: Option<Instant>,
}

impl Cancellers {
    /// Counts a request of a client that was cancelled early.
    pub(super) fn cancelled(&mut self, client: u64, now: Instant) {
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            if self.made_room.is_some_and(|at| now.saturating_duration_since(at) < MAKE_ROOM_EVERY) {
                return;
            }
            self.made_room = Some(now);
            self.forget(now);
            if self.clients.len() >= MAX_CLIENTS {
                return;
            }
        }
        self.clients.entry(client).or_insert_with(|| Budget::new(PER_CLIENT, now)).spend(CANCELLED, now);
    }

    /// Counts a request of a client that was answered.
    pub(super) fn answered(&mut self, client: u64) {
        if !self.clients.is_empty()
            && let Some(budget) = self.clients.get_mut(&client)
        {
            budget.earn(1);
        }
    }

    /// Returns whether a client has cancelled so much that it gets connections of its own.
    pub(super) fn is_noisy(&mut self, client: u64, now: Instant) -> bool {
        !self.clients.is_empty() && self.clients.get_mut(&client).is_some_and(|budget| budget.is_spent(now))
    }

    /// Forgets the clients whose budget is full again.
    pub(super) fn forget(&mut self, now: Instant) {
        self.clients.retain(|_, budget| {
            budget.refill(now);
            !budget.is_full()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_of_a_connection_stay_below_what_backends_take() {
        let start = Instant::now();
        let mut budget = Budget::of_link(start);
        let spent = |budget: &mut Budget, now| (0..10_000).take_while(|_| budget.spend(1, now)).count();
        let mut resets = Vec::new();
        for second in 0..120 {
            resets.push(spent(&mut budget, start + Duration::from_secs(second)));
        }
        for window in resets.windows(30) {
            assert!(window.iter().sum::<usize>() <= 200, "more than 200 in 30s: {window:?}");
        }
        assert_eq!(resets[119], 4, "does not refill");
    }

    #[test]
    fn client_is_noisy_until_its_budget_is_half_full_again() {
        let (start, mut cancellers) = (Instant::now(), Cancellers::default());
        let after = |millis| start + Duration::from_millis(millis);
        for _ in 0..49 {
            cancellers.cancelled(1, start);
        }
        assert!(!cancellers.is_noisy(1, start), "noisy after 49");
        cancellers.cancelled(1, start);
        assert!(cancellers.is_noisy(1, start) && !cancellers.is_noisy(2, start));
        assert!(cancellers.is_noisy(1, after(4900)));
        assert!(!cancellers.is_noisy(1, after(5000)), "noisy for ever");
    }

    #[test]
    fn client_that_cancels_one_request_in_ten_is_never_noisy() {
        let (start, mut cancellers) = (Instant::now(), Cancellers::default());
        for _ in 0..10_000 {
            cancellers.cancelled(1, start);
            (0..9).for_each(|_| cancellers.answered(1));
            assert!(!cancellers.is_noisy(1, start));
        }
        let half = |cancellers: &mut Cancellers| {
            cancellers.cancelled(1, start);
            cancellers.answered(1);
            !cancellers.is_noisy(1, start)
        };
        assert_eq!((0..10_000).take_while(|_| half(&mut cancellers)).count(), 66, "one in two is cancelled");
    }

    #[test]
    fn part_of_a_token_is_not_lost_between_looks() {
        let (start, mut cancellers) = (Instant::now(), Cancellers::default());
        for _ in 0..50 {
            cancellers.cancelled(1, start);
        }
        for millis in (0..5000).step_by(30) {
            assert!(cancellers.is_noisy(1, start + Duration::from_millis(millis)));
        }
        assert!(!cancellers.is_noisy(1, start + Duration::from_secs(5)));
    }

    #[test]
    fn clients_that_were_quiet_take_no_memory_and_a_crowd_little() {
        let (start, mut cancellers) = (Instant::now(), Cancellers::default());
        for client in 0..100_000 {
            cancellers.cancelled(client, start);
        }
        assert_eq!(cancellers.clients.len(), MAX_CLIENTS);
        let later = start + Duration::from_secs(1);
        cancellers.cancelled(u64::MAX, later);
        assert_eq!(cancellers.clients.len(), 1);
    }
}
