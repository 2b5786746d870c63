//! The slots of a worker's TLS handshakes.
//!
//! A handshake takes a slot once its `ClientHello` is complete, since only then it costs memory and
//! computing time. When all slots are taken, a new handshake displaces one of the client address
//! that has the most. Handshakes compute one at a time, clients with few slots first. The worker
//! serves everything else in between, so that a burst of handshakes delays other clients by one of
//! them, not by all.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ahash::AHashMap;
use tokio::time::Instant;

/// Bytes before the content of a TLS record.
pub(crate) const RECORD_HEADER: usize = 5;
/// Bytes of a new connection to look at: a record of the largest size (RFC 8446 §5.1).
pub(crate) const PEEKED: usize = RECORD_HEADER + (1 << 14);
/// A handshake that has taken longer may be displaced by one of a client with as many slots.
/// Legitimate handshakes finish faster, even when many clients connect at once.
const MIN_HANDSHAKE_TIME: Duration = Duration::from_secs(1);

/// The slots of a worker.
#[derive(Debug, Default)]
pub(crate) struct HandshakeSlots {
    /// In order of arrival.
    slots: RefCell<Vec<Rc<Slot>>>,
    /// Slots by client. Clients without slots take no memory.
    clients: RefCell<AHashMap<u64, usize>>,
    /// Whether a handshake has its turn.
    taken: Cell<bool>,
}

#[derive(Debug)]
struct Slot {
    client: u64,
    since: Instant,
    stage: Cell<Stage>,
    waker: RefCell<Option<Waker>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for its turn to compute.
    Waiting,
    Computing,
    /// Waits for the client.
    Computed,
    Displaced,
}

/// A handshake's slot, until dropped.
#[derive(Debug)]
pub(crate) struct HandshakePermit<'a> {
    slots: &'a HandshakeSlots,
    slot: Rc<Slot>,
}

impl HandshakeSlots {
    /// Takes one of `limit` slots. `None` if all are taken and none can be displaced.
    pub(crate) fn take(&self, client: u64, now: Instant, limit: usize) -> Option<HandshakePermit<'_>> {
        if self.slots.borrow().len() >= limit {
            let victim = self.victim(client, now)?;
            self.displace(&victim);
        }
        let slot = Slot { client, since: now, stage: Cell::new(Stage::Waiting), waker: RefCell::default() };
        let slot = Rc::new(slot);
        self.slots.borrow_mut().push(Rc::clone(&slot));
        *self.clients.borrow_mut().entry(client).or_default() += 1;
        Some(HandshakePermit { slots: self, slot })
    }

    /// Returns the handshake that makes room for one of `client`.
    fn victim(&self, client: u64, now: Instant) -> Option<Rc<Slot>> {
        let (slots, clients) = (self.slots.borrow(), self.clients.borrow());
        let own = clients.get(&client).copied().unwrap_or(0);
        let stale = |slot: &Slot| now.saturating_duration_since(slot.since) > MIN_HANDSHAKE_TIME;
        let (largest, most) = clients.iter().max_by_key(|(_, count)| **count)?;
        if *most > own + 1 {
            // One that waits for its client has cost the most and may never end. Among others, the
            // oldest are about to finish.
            let stalled = |slot: &&Rc<Slot>| {
                slot.client == *largest && slot.stage.get() == Stage::Computed && stale(slot)
            };
            let newest = || slots.iter().rfind(|slot| slot.client == *largest);
            return slots.iter().find(stalled).or_else(newest).cloned();
        }
        let count = |slot: &Slot| clients.get(&slot.client).copied().unwrap_or(0);
        slots.iter().find(|slot| stale(slot) && (slot.client == client || count(slot) > own)).cloned()
    }

    fn displace(&self, slot: &Rc<Slot>) {
        self.remove(slot);
        let stage = slot.stage.replace(Stage::Displaced);
        if let Some(waker) = slot.waker.take() {
            waker.wake();
        }
        if stage == Stage::Computing {
            self.pass_turn();
        }
    }

    fn remove(&self, slot: &Rc<Slot>) {
        let mut slots = self.slots.borrow_mut();
        let Some(at) = slots.iter().position(|other| Rc::ptr_eq(other, slot)) else { return };
        slots.remove(at);
        let mut clients = self.clients.borrow_mut();
        if let Some(count) = clients.get_mut(&slot.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&slot.client);
            }
        }
    }

    /// Gives the turn to the client with the fewest slots. Among its handshakes, the first goes
    /// first.
    fn pass_turn(&self) {
        let (slots, clients) = (self.slots.borrow(), self.clients.borrow());
        let waiting = slots.iter().filter(|slot| slot.stage.get() == Stage::Waiting);
        let next = waiting.min_by_key(|slot| clients.get(&slot.client).copied().unwrap_or(0));
        self.taken.set(next.is_some());
        if let Some(next) = next {
            next.stage.set(Stage::Computing);
            if let Some(waker) = next.waker.take() {
                waker.wake();
            }
        }
    }
}

impl HandshakePermit<'_> {
    /// Waits for the turn to compute. Ready with false if the handshake was displaced.
    pub(crate) fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<bool> {
        match self.slot.stage.get() {
            Stage::Displaced => return Poll::Ready(false),
            Stage::Computing | Stage::Computed => return Poll::Ready(true),
            Stage::Waiting => {}
        }
        if !self.slots.taken.replace(true) {
            self.slot.stage.set(Stage::Computing);
            return Poll::Ready(true);
        }
        self.slot.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Ends the turn.
    pub(crate) fn computed(&self) {
        if self.slot.stage.get() == Stage::Computing {
            self.slot.stage.set(Stage::Computed);
            self.slots.pass_turn();
        }
    }

    /// Returns true if the handshake was displaced. If not, the task is woken when it is.
    pub(crate) fn displaced(&self, cx: &mut Context<'_>) -> bool {
        let displaced = self.slot.stage.get() == Stage::Displaced;
        if !displaced {
            self.slot.waker.replace(Some(cx.waker().clone()));
        }
        displaced
    }
}

impl Drop for HandshakePermit<'_> {
    fn drop(&mut self) {
        self.slots.remove(&self.slot);
        self.computed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(permit: &HandshakePermit<'_>) -> Poll<bool> {
        permit.poll_turn(&mut Context::from_waker(Waker::noop()))
    }

    fn displaced(permit: &HandshakePermit<'_>) -> bool {
        permit.displaced(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn client_with_the_most_slots_makes_room() {
        let (slots, now) = (HandshakeSlots::default(), Instant::now());
        let greedy: Vec<_> = (0..3).map(|_| slots.take(1, now, 4).unwrap()).collect();
        let _other = slots.take(2, now, 4).unwrap();
        assert!(slots.take(1, now, 4).is_none(), "displaced another client for the greediest one");
        let _third = slots.take(3, now, 4).expect("an honest client gets a slot");
        assert_eq!(greedy.iter().map(displaced).collect::<Vec<_>>(), [false, false, true]);
        let _fourth = slots.take(4, now, 4).expect("an honest client gets a slot");
        assert_eq!(greedy.iter().map(displaced).collect::<Vec<_>>(), [false, true, true]);
        assert!(slots.take(5, now, 4).is_none(), "a handshake that has just begun was displaced");
        assert!(slots.take(5, now + 2 * MIN_HANDSHAKE_TIME, 4).is_some());
        assert!(displaced(&greedy[0]));
    }

    #[test]
    fn stalled_handshakes_of_the_greediest_client_go_first() {
        let (slots, now) = (HandshakeSlots::default(), Instant::now());
        let stalled = slots.take(1, now, 3).unwrap();
        assert_eq!(turn(&stalled), Poll::Ready(true));
        stalled.computed();
        let later = now + 2 * MIN_HANDSHAKE_TIME;
        let (one, two) = (slots.take(1, later, 3).unwrap(), slots.take(1, later, 3).unwrap());
        let _other = slots.take(2, later, 3).unwrap();
        assert_eq!([&stalled, &one, &two].map(displaced), [true, false, false]);
    }

    #[test]
    fn handshakes_compute_one_at_a_time_and_small_clients_first() {
        let (slots, now) = (HandshakeSlots::default(), Instant::now());
        let greedy: Vec<_> = (0..3).map(|_| slots.take(1, now, 9).unwrap()).collect();
        let honest = slots.take(2, now, 9).unwrap();
        assert_eq!(turn(&greedy[0]), Poll::Ready(true));
        assert!(turn(&greedy[1]).is_pending() && turn(&greedy[2]).is_pending() && turn(&honest).is_pending());
        greedy[0].computed();
        assert!(turn(&greedy[1]).is_pending());
        assert_eq!(turn(&honest), Poll::Ready(true));
        // The turn is not lost with a handshake that ends during it.
        drop(honest);
        assert_eq!(turn(&greedy[1]), Poll::Ready(true));
        drop(greedy);
        assert!(!slots.taken.get() && slots.clients.borrow().is_empty());
    }
}
