//! Deadlines of many connections for the price of one timer.
//!
//! A timer per request costs more than the request's parsing. A connection
//! writes its deadline into the worker's list instead (one store), and the
//! worker's ticker looks through the list ten times a second and wakes whoever
//! is late. Timeouts are thus up to [`TICK`] late and never early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// Time between two looks.
pub(super) const TICK: Duration = Duration::from_millis(100);

const NEVER: u64 = u64::MAX;

/// All deadlines of a worker.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// Coarse milliseconds since the worker began.
    now: Cell<u64>,
    /// By seat; [`NEVER`] where none is set or the seat is free.
    at: RefCell<Vec<u64>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<u32>>,
}

impl Deadlines {
    /// Takes a seat for one connection.
    pub(super) fn register(self: &Rc<Self>) -> Deadline {
        let seat = self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.at.borrow_mut().push(NEVER);
            self.wakers.borrow_mut().push(None);
            u32::try_from(self.at.borrow().len() - 1).unwrap_or(u32::MAX)
        });
        Deadline { list: Rc::clone(self), seat }
    }

    /// `now` is the time since the worker began; wakes everybody who is late.
    pub(super) fn tick(&self, now: Duration) {
        let now = millis(now);
        self.now.set(now);
        let wakers = self.wakers.borrow();
        for (at, waker) in self.at.borrow().iter().zip(wakers.iter()) {
            if *at <= now
                && let Some(waker) = waker
            {
                waker.wake_by_ref();
            }
        }
    }

    /// Wakes everybody, to look at something else that has changed.
    pub(super) fn wake_all(&self) {
        for waker in self.wakers.borrow().iter().flatten() {
            waker.wake_by_ref();
        }
    }
}

/// One connection's deadline.
#[derive(Debug)]
pub(super) struct Deadline {
    list: Rc<Deadlines>,
    seat: u32,
}

impl Deadline {
    /// From now on, `after` this time is too late.
    pub(super) fn set(&self, after: Duration) {
        // The coarse clock may be one tick behind.
        let at = self.list.now.get().saturating_add(millis(after)).saturating_add(millis(TICK));
        self.list.at.borrow_mut()[self.seat as usize] = at;
    }

    /// From now on, nothing is too late.
    pub(super) fn clear(&self) {
        self.list.at.borrow_mut()[self.seat as usize] = NEVER;
    }

    /// Is it too late? If not, the task is woken when it is.
    pub(super) fn expired(&self, cx: &mut Context<'_>) -> bool {
        if self.list.at.borrow()[self.seat as usize] <= self.list.now.get() {
            return true;
        }
        let mut wakers = self.list.wakers.borrow_mut();
        let waker = &mut wakers[self.seat as usize];
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clear();
        self.list.wakers.borrow_mut()[self.seat as usize] = None;
        self.list.free.borrow_mut().push(self.seat);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(NEVER - 1).min(NEVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expired(deadline: &Deadline) -> bool {
        deadline.expired(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_deadline_is_never_early_and_at_most_two_ticks_late() {
        let list = Rc::new(Deadlines::default());
        let deadline = list.register();
        list.tick(Duration::from_secs(1));
        deadline.set(Duration::from_millis(500));
        list.tick(Duration::from_millis(1_500));
        assert!(!expired(&deadline), "the clock may have been a tick behind");
        list.tick(Duration::from_millis(1_600));
        assert!(expired(&deadline));
        deadline.clear();
        assert!(!expired(&deadline));
    }

    #[test]
    fn a_seat_is_used_again_without_its_old_deadline() {
        let list = Rc::new(Deadlines::default());
        let first = list.register();
        first.set(Duration::ZERO);
        drop(first);
        let second = list.register();
        list.tick(Duration::from_secs(10));
        assert!(!expired(&second));
        assert_eq!(list.at.borrow().len(), 1);
    }
}
