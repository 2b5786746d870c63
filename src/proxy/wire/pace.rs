//! Whether a client moves a body fast enough, counted in the time in which it
//! is the client that is waited for.
//!
//! A client has some time to begin with. Being waited for spends it, moving
//! bytes earns it: a second for as many bytes as it must move in one. Who has
//! none left is too slow. A backend that is slow costs the client nothing, and
//! an exchange in which nobody is waited for is never looked at.

use std::time::Duration;

use crate::model::UpstreamTimeouts;

/// What can be saved for later, in windows: a client that was fast may pause,
/// but not for as long as it likes.
const SAVED: u64 = 4;

/// The pace of one direction of one exchange.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes a second.
    rate: u64,
    /// Milliseconds that may be left at most.
    most: u64,
    /// Milliseconds that are left.
    left: u64,
    /// Bytes moved when it was last looked at; `None`: never yet.
    moved: Option<u64>,
    /// Of those, bytes that have been paid for.
    paid: u64,
    /// Since when the client is waited for, in milliseconds of the worker's clock.
    since: Option<u64>,
}

/// What a look at the pace says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing has changed.
    Same,
    /// Something has: whatever moves next must come within this time.
    Wait(Duration),
    /// It is too slow.
    TooSlow,
}

impl Pace {
    /// As these say; the client may be idle for `window`.
    pub(crate) fn new(timeouts: &UpstreamTimeouts) -> Self {
        let window = millis(timeouts.body_rate_window);
        Self {
            rate: timeouts.min_body_rate.unwrap_or(0),
            most: window.saturating_mul(SAVED),
            left: window,
            moved: None,
            paid: 0,
            since: None,
        }
    }

    /// A look at `now` (milliseconds of the worker's clock): `moved` bytes have
    /// been moved in all, and whether it `waits` for the client from now on.
    /// `idle` is how long nothing at all may move.
    pub(crate) fn look(&mut self, now: u64, moved: u64, waits: bool, idle: Duration) -> Look {
        // What was there at once says nothing of the pace, and neither does the head.
        let first = self.moved.is_none();
        let before = self.moved.replace(moved).unwrap_or(moved);
        if first {
            self.paid = moved;
        }
        let (changed, waited) = (waits != self.since.is_some(), self.since);
        self.since = waits.then_some(now);
        if self.rate == 0 {
            return if first || changed || moved != before { Look::Wait(idle) } else { Look::Same };
        }
        let earned = moved.saturating_sub(self.paid).saturating_mul(1000) / self.rate;
        // What is not worth a millisecond yet is counted with the next.
        self.paid = self.paid.saturating_add(earned.saturating_mul(self.rate) / 1000).min(moved);
        let spent = waited.map_or(0, |since| now.saturating_sub(since));
        // Earned first: what has just come was on its way while it was waited for.
        self.left = self.left.saturating_add(earned).saturating_sub(spent);
        if self.left == 0 && waited.is_some() {
            return Look::TooSlow;
        }
        self.left = self.left.min(self.most);
        match (waits, first || changed || moved != before) {
            (_, false) => Look::Same,
            (true, true) => Look::Wait(idle.min(Duration::from_millis(self.left))),
            (false, true) => Look::Wait(idle),
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

    /// 100 bytes a second, 10 seconds to begin with.
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

    /// Looks every second at a client that is waited for and moves so much in each.
    fn ends_after(pace: &mut Pace, from: u64, moved: &mut u64, per_second: u64) -> Option<u64> {
        (1..=1000).find(|second| {
            *moved += per_second;
            pace.look(from + second * S, *moved, true, IDLE) == Look::TooSlow
        })
    }

    #[test]
    fn who_moves_nothing_has_the_window() {
        let mut pace = pace();
        assert_eq!(pace.look(0, 5000, true, IDLE), Look::Wait(Duration::from_secs(10)));
        assert_eq!(ends_after(&mut pace, 0, &mut 5000, 0), Some(10));
    }

    #[test]
    fn who_is_faster_may_go_on_and_who_is_slower_may_not() {
        for (per_second, ends) in [(1, Some(10)), (50, Some(20)), (90, Some(100)), (100, None), (500, None)] {
            let mut pace = pace();
            pace.look(0, 0, true, IDLE);
            let found = ends_after(&mut pace, 0, &mut 0, per_second);
            assert!(found == ends || found == ends.map(|at| at + 1), "{per_second}: {found:?}");
        }
    }

    #[test]
    fn speed_pays_for_a_pause_but_not_for_any() {
        let mut pace = pace();
        pace.look(0, 0, true, IDLE);
        assert_ne!(pace.look(S, 1 << 30, true, IDLE), Look::TooSlow);
        assert_eq!(ends_after(&mut pace, S, &mut (1 << 30), 0), Some(40));
    }

    #[test]
    fn waiting_for_the_other_side_costs_nothing() {
        let mut pace = pace();
        pace.look(0, 0, true, IDLE);
        assert_eq!(pace.look(9 * S, 0, false, IDLE), Look::Wait(IDLE));
        assert_eq!(pace.look(9_000 * S, 0, false, IDLE), Look::Same);
        assert_eq!(pace.look(9_001 * S, 0, true, IDLE), Look::Wait(Duration::from_secs(1)));
        assert_eq!(pace.look(9_002 * S, 0, true, IDLE), Look::TooSlow);
    }

    #[test]
    fn off_is_any_pace() {
        let mut pace = Pace { rate: 0, ..pace() };
        assert_eq!(pace.look(0, 0, true, IDLE), Look::Wait(IDLE));
        assert_eq!(ends_after(&mut pace, 0, &mut 0, 0), None);
        assert_eq!(pace.look(2000 * S, 1, true, IDLE), Look::Wait(IDLE));
    }
}
