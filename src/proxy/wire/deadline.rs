//! One timer for the deadlines of all connections of a worker.
//!
//! Setting a timer per request costs more than parsing the request. Instead, a connection stores
//! its deadline in the worker's list (one store). Ten times a second the worker scans the list and
//! wakes the connections whose deadline has passed. Timeouts fire at most two ticks late, and
//! never early.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use ahash::AHashMap;

use super::budget::{Budget, Holder, greediest};

/// Time between two scans.
pub(crate) const TICK: Duration = Duration::from_millis(100);

const NEVER: u64 = u64::MAX;
/// Milliseconds before a silent connection may be closed to make room.
const MIN_SILENCE: u64 = 1_000;

/// What a connection waits for. Stored in the low bits of its deadline, at no extra cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Work that must not be cut short.
    Busy = 0,
    /// The next request.
    Idle = 1,
    /// The first bytes of a new connection. May be cut short like [`Class::Idle`], but not at once.
    Silent = 2,
    /// Nothing any more: cut short to free memory.
    Shed = 3,
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
    /// By index: the client, and when the latest wait began that is not [`Class::Busy`].
    owners: RefCell<Vec<(u64, u64)>>,
    /// What the connections hold.
    budget: Budget,
    /// The client with the most waiting connections.
    largest: Cell<Largest>,
    wakers: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<u32>>,
}

/// The client that makes room, as of one tick. To find it costs a pass over all connections, so it
/// makes room several times.
#[derive(Debug, Default, Clone, Copy)]
struct Largest {
    tick: u64,
    client: u64,
    /// How many of its connections may be closed before the next pass.
    left: usize,
}

impl Deadlines {
    /// Adds a connection or stream of a client, without a deadline yet.
    pub(crate) fn register(self: &Rc<Self>, client: u64) -> Deadline {
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            self.at.borrow_mut().push(NEVER);
            self.wakers.borrow_mut().push(None);
            self.owners.borrow_mut().push((0, 0));
            u32::try_from(self.at.borrow().len() - 1).unwrap_or(u32::MAX)
        });
        self.owners.borrow_mut()[index as usize] = (client, self.now.get());
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

    /// Makes room for a connection: expires the longest wait of the client with the most waiting
    /// connections. Returns false if none may be cut short. Scans all deadlines.
    pub(crate) fn expire_longest_wait(&self) -> bool {
        let now = self.now.get();
        let mut largest = self.largest.get();
        if largest.tick != now || largest.left == 0 {
            largest = self.find_largest();
        }
        let index = self.waits().filter(|(_, client, _)| *client == largest.client).min_by_key(|wait| wait.2);
        let index = index.map(|(index, ..)| index);
        largest.left = if index.is_some() { largest.left.saturating_sub(1) } else { 0 };
        self.largest.set(largest);
        let Some(index) = index else { return false };
        self.at.borrow_mut()[index] = Class::Idle as u64;
        if let Some(waker) = &self.wakers.borrow()[index] {
            waker.wake_by_ref();
        }
        true
    }

    fn find_largest(&self) -> Largest {
        let mut clients = AHashMap::<u64, (usize, Reverse<u64>)>::new();
        for (_, client, since) in self.waits() {
            let (count, earliest) = clients.entry(client).or_insert((0, Reverse(u64::MAX)));
            *count += 1;
            *earliest = (*earliest).max(Reverse(since));
        }
        let largest = clients.iter().max_by_key(|(_, rank)| **rank);
        let (client, most) = largest.map_or((0, 0), |(client, (most, _))| (*client, *most));
        // The others may have nearly as many.
        Largest { tick: self.now.get(), client, left: (most / 8).max(1) }
    }

    /// Returns the waits that may be cut short: index, client and beginning.
    fn waits(&self) -> impl Iterator<Item = (usize, u64, u64)> {
        let now = self.now.get();
        let (at, owners) = (self.at.borrow(), self.owners.borrow());
        (0..at.len()).filter_map(move |index| {
            let (entry, (client, since)) = (at[index], owners[index]);
            let class = entry & CLASS_MASK;
            let pending = entry != NEVER && time_of(entry) > now;
            let ripe = class == Class::Idle as u64
                || (class == Class::Silent as u64 && now.saturating_sub(since) >= MIN_SILENCE);
            (pending && ripe).then_some((index, client, since))
        })
    }

    /// Limits the memory that all connections hold, in bytes.
    pub(crate) fn set_budget(&self, bytes: usize) {
        self.budget.set_limit(bytes);
    }

    /// Returns the memory that all connections hold, in bytes.
    pub(crate) fn charged(&self) -> usize {
        self.budget.used()
    }

    /// Frees memory: cuts short waits of the clients that hold the most, `bytes` in all.
    fn shed(&self, bytes: usize) {
        let now = self.now.get();
        let picked = {
            let (at, owners) = (self.at.borrow(), self.owners.borrow());
            let holders = (0..at.len()).filter_map(|index| {
                let bytes = self.budget.held_by(index);
                let pending = at[index] != NEVER && time_of(at[index]) > now;
                (bytes > 0 && pending).then_some(Holder { index, client: owners[index].0, bytes })
            });
            greediest(holders, bytes)
        };
        let wakers = self.wakers.borrow();
        for index in picked {
            self.at.borrow_mut()[index] = Class::Shed as u64;
            self.budget.charge(index, 0);
            if let Some(waker) = &wakers[index] {
                waker.wake_by_ref();
            }
        }
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
        if class != Class::Busy {
            self.list.owners.borrow_mut()[self.index as usize].1 = self.list.now.get();
        }
    }

    /// States the memory that the connection holds while it waits, in bytes. If all hold too much,
    /// cuts short waits of the greediest clients, which may include this one.
    pub(crate) fn charge(&self, bytes: usize) {
        if self.list.budget.charge(self.index as usize, bytes) {
            self.list.shed(self.list.budget.excess());
        }
    }

    /// Returns true if the wait was cut short to free memory.
    pub(crate) fn is_shed(&self) -> bool {
        self.list.at.borrow()[self.index as usize] == Class::Shed as u64
    }

    /// Counts the connection as one of this client.
    pub(crate) fn belongs_to(&self, client: u64) {
        self.list.owners.borrow_mut()[self.index as usize].0 = client;
    }

    /// Keeps the deadline, but no longer lets it be cut short.
    pub(crate) fn keep(&self) {
        let mut list = self.list.at.borrow_mut();
        let entry = &mut list[self.index as usize];
        if *entry != NEVER {
            *entry &= !CLASS_MASK;
        }
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
        self.list.budget.charge(self.index as usize, 0);
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
        let deadline = list.register(0);
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
    fn longest_wait_of_the_largest_client_is_cut_short() {
        let list = Rc::new(Deadlines::default());
        list.tick(Duration::from_secs(1));
        let wait = |client, seconds| {
            let deadline = list.register(client);
            deadline.set_as(Class::Idle, Duration::from_secs(seconds));
            deadline
        };
        let honest = wait(1, 50);
        list.tick(Duration::from_secs(2));
        let greedy = [wait(2, 60), wait(2, 70)];
        list.tick(Duration::from_secs(3));
        let (late, busy) = (wait(2, 40), list.register(2));
        busy.set(Duration::from_secs(60));
        let done = || [&honest, &greedy[0], &greedy[1], &late, &busy].map(expired);
        assert!(list.expire_longest_wait());
        assert_eq!(done(), [false, true, false, false, false], "the order is by waiting time");
        assert!(list.expire_longest_wait());
        assert_eq!(done(), [false, true, true, false, false]);
        assert!(list.expire_longest_wait());
        assert_eq!(done(), [true, true, true, false, false], "among equals, the longest wait");
        assert!(list.expire_longest_wait());
        assert!(!list.expire_longest_wait(), "a busy connection was cut short");
        assert_eq!(done(), [true, true, true, true, false]);
    }

    #[test]
    fn greediest_client_frees_memory_when_the_budget_is_exceeded() {
        let list = Rc::new(Deadlines::default());
        list.set_budget(1000);
        let wait = |client, bytes| {
            let deadline = list.register(client);
            deadline.set(Duration::from_secs(60));
            deadline.charge(bytes);
            deadline
        };
        let (honest, greedy) = (wait(1, 300), [wait(2, 200), wait(2, 300)]);
        assert_eq!(list.charged(), 800);
        let newcomer = wait(3, 250);
        assert!(greedy[1].is_shed() && expired(&greedy[1]));
        assert!(![&honest, &greedy[0], &newcomer].into_iter().any(expired));
        assert_eq!(list.charged(), 750);
        drop((honest, greedy, newcomer));
        assert_eq!(list.charged(), 0);
    }

    #[test]
    fn new_connection_has_a_second_before_it_makes_room() {
        let list = Rc::new(Deadlines::default());
        list.tick(Duration::from_secs(5));
        let silent = list.register(1);
        silent.set_as(Class::Silent, Duration::from_secs(10));
        list.tick(Duration::from_millis(5_900));
        assert!(!list.expire_longest_wait());
        list.tick(Duration::from_secs(6));
        silent.keep();
        assert!(!list.expire_longest_wait() && !expired(&silent));
        silent.set_as(Class::Silent, Duration::from_secs(10));
        list.tick(Duration::from_secs(7));
        assert!(list.expire_longest_wait() && expired(&silent));
    }

    #[test]
    fn reused_index_does_not_inherit_a_deadline() {
        let list = Rc::new(Deadlines::default());
        let first = list.register(0);
        first.set(Duration::ZERO);
        drop(first);
        let second = list.register(0);
        list.tick(Duration::from_secs(10));
        assert!(!expired(&second));
        assert_eq!(list.at.borrow().len(), 1);
    }
}
