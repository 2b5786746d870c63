//! The line of requests that wait for a place at a backend with `max_connections`.
//!
//! An upstream has one line, shared by all workers. A freed place is handed to a waiting request, so
//! that no newcomer takes it first: sessions that exist go before new ones. Among those, the client
//! that holds the fewest places goes first, then the request that has waited longest. A client that
//! fills a backend thus gets no further place while others wait. If the line is full, the client
//! with the most waiting requests loses its newest one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::live::BackendLive;

/// The line of one upstream, and the clients that hold places at its limited backends.
#[derive(Debug, Default)]
pub struct Line {
    state: Mutex<State>,
    /// Requests that left the line, by [`Left`].
    left: [AtomicU64; Left::ALL.len()],
}

/// How a request left the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// It got a place.
    Served,
    /// The line was full.
    Full,
    /// It waited for `queue.timeout`.
    TimedOut,
    /// Its client disconnected, or its backend became unavailable.
    Gone,
}

impl Left {
    /// All values, each at the index of its discriminant.
    pub const ALL: [Self; 4] = [Self::Served, Self::Full, Self::TimedOut, Self::Gone];

    /// Returns the name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Full => "full",
            Self::TimedOut => "timeout",
            Self::Gone => "gone",
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// The waiting requests by arrival.
    waiting: BTreeMap<u64, Waiter>,
    next: u64,
    /// Clients that hold or wait for places. Others take no memory.
    clients: AHashMap<u64, Share>,
}

/// A client's share.
#[derive(Debug, Default)]
struct Share {
    held: u32,
    waiting: u32,
}

/// A waiting request.
#[derive(Debug)]
struct Waiter {
    client: u64,
    exists: bool,
    /// The backends that it accepts.
    wanted: Box<[Arc<BackendLive>]>,
    grant: oneshot::Sender<Place>,
}

/// What a request waits for.
#[derive(Debug)]
pub struct Wanted {
    /// The client's address as a number.
    pub client: u64,
    /// Whether the session exists. New sessions wait longer.
    pub exists: bool,
    /// The backends that it accepts. All of them have a limit.
    pub backends: Box<[Arc<BackendLive>]>,
}

/// The result of [`Line::enter`].
#[derive(Debug)]
pub enum Entered {
    /// There is a place already.
    Place(Place),
    /// The request waits.
    Waits(Ticket),
    /// The line is full.
    Full,
}

/// One of the places of a backend, held until dropped.
#[derive(Debug)]
pub struct Place {
    line: Arc<Line>,
    backend: Arc<BackendLive>,
    client: u64,
    /// Whether dropping it gives the place back.
    held: bool,
}

/// A request's position in the line, until dropped.
#[derive(Debug)]
pub struct Ticket {
    line: Arc<Line>,
    id: u64,
    grant: oneshot::Receiver<Place>,
}

impl Line {
    /// Takes a place at a backend. `None` if all are taken.
    pub fn take(self: &Arc<Self>, backend: &Arc<BackendLive>, client: u64) -> Option<Place> {
        let mut state = self.state.lock();
        self.serve_waiting(&mut state, backend);
        self.place(&mut state, backend, client)
    }

    /// Takes a place at a backend even if all are taken: for work that the backend does already.
    pub fn occupy(self: &Arc<Self>, backend: &Arc<BackendLive>, client: u64) -> Place {
        backend.occupy();
        self.state.lock().clients.entry(client).or_default().held += 1;
        Place { line: Arc::clone(self), backend: Arc::clone(backend), client, held: true }
    }

    /// Enters the line, which holds at most `max` requests.
    pub fn enter(self: &Arc<Self>, wanted: Wanted, max: usize) -> Entered {
        let Wanted { client, exists, backends } = wanted;
        let mut state = self.state.lock();
        for backend in &backends {
            self.serve_waiting(&mut state, backend);
            if let Some(place) = self.place(&mut state, backend, client) {
                return Entered::Place(place);
            }
        }
        if state.waiting.len() >= max {
            self.count(Left::Full);
            match state.greediest(client, exists) {
                Some(victim) => drop(state.remove(victim)),
                None => return Entered::Full,
            }
        }
        let id = state.next;
        state.next += 1;
        let (sender, grant) = oneshot::channel();
        state.waiting.insert(id, Waiter { client, exists, wanted: backends, grant: sender });
        state.clients.entry(client).or_default().waiting += 1;
        Entered::Waits(Ticket { line: Arc::clone(self), id, grant })
    }

    /// Returns the number of waiting requests.
    pub fn len(&self) -> usize {
        self.state.lock().waiting.len()
    }

    /// Returns true if no request waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns how many requests have left the line this way.
    pub fn left(&self, how: Left) -> u64 {
        self.left[how as usize].load(Ordering::Relaxed)
    }

    fn count(&self, how: Left) {
        self.left[how as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a place for a client, if there is one.
    fn place(self: &Arc<Self>, state: &mut State, backend: &Arc<BackendLive>, client: u64) -> Option<Place> {
        if !backend.try_use() {
            return None;
        }
        state.clients.entry(client).or_default().held += 1;
        Some(Place { line: Arc::clone(self), backend: Arc::clone(backend), client, held: true })
    }

    /// Hands free places of a backend to the requests that wait for it.
    fn serve_waiting(self: &Arc<Self>, state: &mut State, backend: &Arc<BackendLive>) {
        while !state.waiting.is_empty() && !backend.is_full() {
            let Some(next) = state.next_for(backend) else { return };
            let Some(waiter) = state.remove(next) else { return };
            let Some(place) = self.place(state, backend, waiter.client) else { return };
            match waiter.grant.send(place) {
                Ok(()) => self.count(Left::Served),
                Err(mut place) => {
                    // Dropping it would lock the state again.
                    place.held = false;
                    state.give_back(&place);
                }
            }
        }
    }
}

impl State {
    /// Returns the request that gets the next place at a backend.
    fn next_for(&self, backend: &Arc<BackendLive>) -> Option<u64> {
        let wants = |waiter: &Waiter| waiter.wanted.iter().any(|wanted| Arc::ptr_eq(wanted, backend));
        let held = |client| self.clients.get(&client).map_or(0, |share| share.held);
        let waiting = self.waiting.iter().filter(|(_, waiter)| wants(waiter));
        waiting.min_by_key(|(id, waiter)| (!waiter.exists, held(waiter.client), **id)).map(|(id, _)| *id)
    }

    /// Returns the request that makes room in a full line. `None` if it is the newcomer.
    fn greediest(&self, newcomer: u64, exists: bool) -> Option<u64> {
        let waiting = |client| {
            let waiting = self.clients.get(&client).map_or(0, |share| share.waiting);
            waiting + u32::from(client == newcomer)
        };
        let rank = |(id, waiter): (&u64, &Waiter)| (waiting(waiter.client), !waiter.exists, *id);
        let most = self.waiting.iter().map(rank).max()?;
        (most > (waiting(newcomer), !exists, u64::MAX)).then_some(most.2)
    }

    fn remove(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiting.remove(&id)?;
        self.change(waiter.client, |share| share.waiting -= 1);
        Some(waiter)
    }

    fn give_back(&mut self, place: &Place) {
        place.backend.unused();
        self.change(place.client, |share| share.held -= 1);
    }

    fn change(&mut self, client: u64, change: impl FnOnce(&mut Share)) {
        if let Some(share) = self.clients.get_mut(&client) {
            change(share);
            if share.held == 0 && share.waiting == 0 {
                self.clients.remove(&client);
            }
        }
    }
}

impl Place {
    /// Returns true if it is a place at this backend.
    pub fn is_at(&self, backend: &Arc<BackendLive>) -> bool {
        Arc::ptr_eq(&self.backend, backend)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.held {
            let line = Arc::clone(&self.line);
            let mut state = line.state.lock();
            state.give_back(self);
            line.serve_waiting(&mut state, &self.backend);
        }
    }
}

impl Ticket {
    /// Waits for a place. `None` if the request had to make room for another client's.
    pub async fn place(&mut self) -> Option<Place> {
        (&mut self.grant).await.ok()
    }

    /// Leaves the line because the time is up.
    pub fn time_out(self) {
        self.leave(Left::TimedOut);
    }

    fn leave(&self, how: Left) {
        // A place granted in this moment is given back when the receiver is dropped.
        if self.line.state.lock().remove(self.id).is_some() {
            self.line.count(how);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave(Left::Gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(limit: u32) -> Arc<BackendLive> {
        let backend = BackendLive::new(1);
        backend.set_limit(Some(limit));
        Arc::new(backend)
    }

    fn wanted(client: u64, exists: bool, backend: &Arc<BackendLive>) -> Wanted {
        Wanted { client, exists, backends: Box::new([Arc::clone(backend)]) }
    }

    /// Enters a full line.
    fn wait(line: &Arc<Line>, client: u64, exists: bool, backend: &Arc<BackendLive>) -> Ticket {
        match line.enter(wanted(client, exists, backend), 100) {
            Entered::Waits(ticket) => ticket,
            other => panic!("did not wait: {other:?}"),
        }
    }

    #[test]
    fn freed_place_goes_to_the_longest_wait_and_not_to_a_newcomer() {
        let (line, backend) = (Arc::new(Line::default()), backend(1));
        let first = line.take(&backend, 1).expect("a place");
        let (mut one, mut two) = (wait(&line, 2, true, &backend), wait(&line, 3, true, &backend));
        drop(first);
        assert!(line.take(&backend, 4).is_none(), "a newcomer took the place");
        let place = one.grant.try_recv().expect("the first in line gets the place");
        assert!(two.grant.try_recv().is_err());
        drop(place);
        assert!(two.grant.try_recv().is_ok());
        assert_eq!((line.len(), line.left(Left::Served)), (0, 2));
    }

    #[test]
    fn existing_sessions_go_before_new_ones() {
        let (line, backend) = (Arc::new(Line::default()), backend(1));
        let first = line.take(&backend, 1);
        let (mut new, mut existing) = (wait(&line, 2, false, &backend), wait(&line, 3, true, &backend));
        drop(first);
        assert!(existing.grant.try_recv().is_ok() && new.grant.try_recv().is_ok());
    }

    #[test]
    fn client_that_holds_the_fewest_places_goes_first() {
        let (line, backend) = (Arc::new(Line::default()), backend(3));
        let mut held: Vec<_> = (0..3).map(|_| line.take(&backend, 1)).collect();
        let mut greedy: Vec<_> = (0..3).map(|_| wait(&line, 1, true, &backend)).collect();
        let mut honest = wait(&line, 2, true, &backend);
        held.pop();
        let place = honest.grant.try_recv().expect("the honest client goes first");
        let mut again = wait(&line, 2, true, &backend);
        drop(place);
        assert!(again.grant.try_recv().is_ok(), "the greedy client took the honest one's place");
        assert!(greedy[0].grant.try_recv().is_ok(), "places must not stay unused");
    }

    #[test]
    fn full_line_turns_away_the_greediest_client() {
        let (line, backend) = (Arc::new(Line::default()), backend(1));
        let _held = line.take(&backend, 1);
        let enter = |client, exists| line.enter(wanted(client, exists, &backend), 3);
        let (Entered::Waits(mut one), Entered::Waits(mut two)) = (enter(1, true), enter(1, true)) else {
            panic!("the line is not full");
        };
        let Entered::Waits(_other) = enter(2, false) else { panic!("the line is not full") };
        assert!(matches!(enter(1, true), Entered::Full));
        let Entered::Waits(_third) = enter(3, false) else { panic!("an honest client was turned away") };
        assert!(matches!(two.grant.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(one.grant.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        assert!(matches!(enter(4, false), Entered::Full), "among equals, the newcomer waits in vain");
        let Entered::Waits(_existing) = enter(4, true) else { panic!("a new session kept its position") };
        assert_eq!((line.len(), line.left(Left::Full)), (3, 4));
    }

    #[test]
    fn request_for_any_backend_takes_the_first_free_place() {
        let (line, a, b) = (Arc::new(Line::default()), backend(1), backend(1));
        let (at_a, at_b) = (line.take(&a, 1), line.take(&b, 1));
        let both = Wanted { client: 2, exists: false, backends: Box::new([Arc::clone(&a), Arc::clone(&b)]) };
        let Entered::Waits(mut ticket) = line.enter(both, 10) else { panic!("both are full") };
        drop(at_b);
        let place = ticket.grant.try_recv().expect("a place");
        assert!(place.is_at(&b) && !place.is_at(&a));
        drop(at_a);
        assert!(line.take(&a, 3).is_some());
    }

    #[test]
    fn leaving_and_unread_grants_lose_no_place() {
        let (line, backend) = (Arc::new(Line::default()), backend(1));
        let held = line.take(&backend, 1);
        let (left, granted) = (wait(&line, 2, true, &backend), wait(&line, 3, true, &backend));
        drop(left);
        drop(held);
        drop(granted);
        assert!(line.take(&backend, 4).is_some(), "a granted place that nobody took is lost");
        assert!(line.state.lock().clients.is_empty(), "clients without places take memory");
    }
}
