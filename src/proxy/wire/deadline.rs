//! One timer for the deadlines of all connections of a worker.
//!
//! Setting a timer per request costs more than parsing the request. Instead, a connection stores
//! its deadline in the worker's list (one store). Ten times a second the worker scans the list and
//! wakes the connections whose deadline has passed. Timeouts fire at most two ticks late, and
//! never early.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

/// Time between two scans.
pub(crate) const TICK: Duration = Duration::from_millis(100);

const NEVER: u64 = u64::MAX;

/// What a connection waits for. Stored in the low bits of its deadline, at no extra cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Work that must not be cut short.
    Busy = 0,
    /// The next request.
    Idle = 1,
    /// The rest of a TLS handshake.
    Handshake = 2,
}

const CLASS_BITS: u32 = 2;
const CLASS_MASK: u64 = (1 << CLASS_BITS) - 1;

/// Returns the time in an entry, in milliseconds.
fn time_of(entry: u64) -> u64 {
    entry >> CLASS_BITS
}

/// The deadlines of a worker's connections.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// Milliseconds since the worker started, as of the last tick.
    now: Cell<u64>,
    /// Deadlines in milliseconds with their [`Class`], by index. [`NEVER`] if no deadline is set
    /// or the index is free.
    at: RefCell<Vec<u64>>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<u32>>,
}

impl Deadlines {
    /// Adds a connection, without a deadline yet.
    pub(crate) fn register(self: &Rc<Self>) -> Deadline {
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.at.borrow_mut().push(NEVER);
            self.wakers.borrow_mut().push(None);
            u32::try_from(self.at.borrow().len() - 1).unwrap_or(u32::MAX)
        });
        Deadline { list: Rc::clone(self), index }
    }

    /// Wakes the connections whose deadline has passed. `now` is the time since the worker started.
    pub(crate) fn tick(&self, now: Duration) {
        let now = millis(now);
        self.now.set(now);
        let wakers = self.wakers.borrow();
        for (at, waker) in self.at.borrow().iter().zip(wakers.iter()) {
            if time_of(*at) <= now
                && let Some(waker) = waker
            {
                waker.wake_by_ref();
            }
        }
    }

    /// Expires the earliest pending deadline of a class, if it is due `within` that time. Returns
    /// false if there is none. Scans all deadlines.
    pub(crate) fn expire_earliest(&self, class: Class, within: Duration) -> bool {
        let now = self.now.get();
        let until = now.saturating_add(millis(within));
        let mut list = self.at.borrow_mut();
        let waiting = list.iter().enumerate().filter(|(_, entry)| {
            **entry & CLASS_MASK == class as u64 && time_of(**entry) > now && time_of(**entry) <= until
        });
        let Some((index, _)) = waiting.min_by_key(|(_, entry)| **entry) else { return false };
        list[index] = class as u64;
        if let Some(waker) = &self.wakers.borrow()[index] {
            waker.wake_by_ref();
        }
        true
    }

    /// Wakes all connections, so that they notice a change of state.
    pub(crate) fn wake_all(&self) {
        for waker in self.wakers.borrow().iter().flatten() {
            waker.wake_by_ref();
        }
    }
}

/// A connection's deadline.
#[derive(Debug)]
pub(crate) struct Deadline {
    list: Rc<Deadlines>,
    index: u32,
}

impl Deadline {
    /// Sets the deadline to `after` this time from now.
    pub(crate) fn set(&self, after: Duration) {
        self.set_as(Class::Busy, after);
    }

    /// Like [`Self::set`], for a wait that may be cut short to make room for other connections.
    pub(crate) fn set_as(&self, class: Class, after: Duration) {
        // The clock may be one tick behind.
        let at = self.list.now.get().saturating_add(millis(after)).saturating_add(millis(TICK));
        let entry = at.min(u64::MAX >> (CLASS_BITS + 1)) << CLASS_BITS | class as u64;
        self.list.at.borrow_mut()[self.index as usize] = entry;
    }

    /// Returns the milliseconds since the worker started, as of the last tick.
    pub(crate) fn now(&self) -> u64 {
        self.list.now.get()
    }

    /// Removes the deadline.
    pub(crate) fn clear(&self) {
        self.list.at.borrow_mut()[self.index as usize] = NEVER;
    }

    /// Returns true if the deadline has passed. If not, the task is woken when it has.
    pub(crate) fn expired(&self, cx: &mut Context<'_>) -> bool {
        if time_of(self.list.at.borrow()[self.index as usize]) <= self.list.now.get() {
            return true;
        }
        let mut wakers = self.list.wakers.borrow_mut();
        let waker = &mut wakers[self.index as usize];
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clear();
        self.list.wakers.borrow_mut()[self.index as usize] = None;
        self.list.free.borrow_mut().push(self.index);
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
    fn deadlines_are_never_early_and_at_most_two_ticks_late() {
        let list = Rc::new(Deadlines::default());
        let deadline = list.register();
        list.tick(Duration::from_secs(1));
        deadline.set(Duration::from_millis(500));
        list.tick(Duration::from_millis(1_500));
        assert!(!expired(&deadline), "early if the clock was a tick behind");
        list.tick(Duration::from_millis(1_600));
        assert!(expired(&deadline));
        deadline.clear();
        assert!(!expired(&deadline));
    }

    #[test]
    fn earliest_deadline_of_a_class_is_expired_first() {
        let list = Rc::new(Deadlines::default());
        list.tick(Duration::from_secs(1));
        let deadlines: Vec<_> = (0..4).map(|_| list.register()).collect();
        deadlines[0].set(Duration::from_secs(1));
        deadlines[1].set_as(Class::Idle, Duration::from_secs(3));
        deadlines[2].set_as(Class::Idle, Duration::from_secs(2));
        deadlines[3].clear();
        assert!(!list.expire_earliest(Class::Handshake, Duration::MAX));
        assert!(
            !list.expire_earliest(Class::Idle, Duration::from_secs(1)),
            "expired a deadline that is further away"
        );
        assert!(list.expire_earliest(Class::Idle, Duration::MAX));
        assert_eq!(deadlines.iter().map(expired).collect::<Vec<_>>(), [false, false, true, false]);
        assert!(list.expire_earliest(Class::Idle, Duration::MAX));
        assert!(expired(&deadlines[1]));
        assert!(!list.expire_earliest(Class::Idle, Duration::MAX), "expired twice");
    }

    #[test]
    fn reused_index_does_not_inherit_a_deadline() {
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
