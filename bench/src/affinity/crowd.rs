//! All users of a scenario over a fixed number of connections, and what happened to each
//! session.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use anyhow::{Result, bail};

use super::client::{Answer, Client, Session};
use crate::interrupt;
use crate::stateful_backend::Verdict;

/// Maximum number of requests to establish a session.
const ESTABLISHED_AT_LAST: u32 = 60;

const NOWHERE: u8 = u8::MAX;

/// Events of one session since it was established.
#[derive(Debug)]
struct Fate {
    /// The backend that answered last.
    backend: AtomicU8,
    events: AtomicU8,
}

/// A request went to another backend although the session's backend still had it.
const BROKEN: u8 = 1;
/// Another backend than before answered.
const MOVED: u8 = 2;
/// The session's state was lost, so that a move costs nothing.
const EXCUSED: u8 = 4;

/// Events of all sessions.
#[derive(Debug)]
pub struct Ledger {
    fates: Vec<Fate>,
}

impl Ledger {
    fn new(sessions: u32) -> Self {
        let fate = |_| Fate { backend: AtomicU8::new(NOWHERE), events: AtomicU8::new(0) };
        Self { fates: (0..sessions).map(fate).collect() }
    }

    /// Marks all sessions of `backend` as lost, or about to be.
    pub fn excuse_sessions_of(&self, backend: usize) {
        let theirs = |fate: &&Fate| usize::from(fate.backend.load(Ordering::Relaxed)) == backend;
        for fate in self.fates.iter().filter(theirs) {
            fate.events.fetch_or(EXCUSED, Ordering::Relaxed);
        }
    }

    fn record(&self, session: &Session, answer: Answer) {
        let Some(fate) = self.fates.get(session.number as usize) else { return };
        let before = fate.backend.swap(answer.backend, Ordering::Relaxed);
        let mut events = 0;
        if before != NOWHERE && before != answer.backend {
            events |= MOVED;
        }
        match answer.verdict {
            Verdict::Broken => events |= BROKEN,
            Verdict::Lost => events |= EXCUSED,
            Verdict::Known | Verdict::New => {}
        }
        fate.events.fetch_or(events, Ordering::Relaxed);
    }

    fn forget_events(&self) {
        for fate in &self.fates {
            fate.events.store(0, Ordering::Relaxed);
        }
    }

    fn count(&self, event: u8) -> usize {
        self.fates.iter().filter(|fate| fate.events.load(Ordering::Relaxed) & event != 0).count()
    }

    /// Returns the number of sessions that broke at least once.
    pub fn broken(&self) -> usize {
        self.count(BROKEN)
    }

    /// Returns the number of sessions that changed their backend at least once.
    pub fn moved(&self) -> usize {
        self.count(MOVED)
    }

    /// Returns the number of sessions that lost their state. Only these need to move.
    pub fn excused(&self) -> usize {
        self.count(EXCUSED)
    }
}

/// Counters for the requests of one phase.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests sent.
    pub requests: u64,
    /// Requests that no backend answered, by the error that the user saw.
    pub failures: BTreeMap<String, u64>,
    /// Answered requests by backend.
    pub by_backend: BTreeMap<u8, u64>,
}

impl Tally {
    /// Returns the number of requests that no backend answered.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    fn add(&mut self, result: &Result<Answer, String>) {
        self.requests += 1;
        match result {
            Ok(answer) => *self.by_backend.entry(answer.backend).or_default() += 1,
            Err(what) => *self.failures.entry(what.clone()).or_default() += 1,
        }
    }

    fn merge(mut self, other: Self) -> Self {
        self.requests += other.requests;
        for (what, count) in other.failures {
            *self.failures.entry(what).or_default() += count;
        }
        for (backend, count) in other.by_backend {
            *self.by_backend.entry(backend).or_default() += count;
        }
        self
    }
}

/// All users, divided among client threads.
#[derive(Debug)]
pub struct Crowd {
    workers: Vec<Worker>,
    newcomers: Vec<Worker>,
    ledger: Ledger,
}

#[derive(Debug)]
struct Worker {
    client: Client,
    sessions: Vec<Session>,
}

impl Crowd {
    /// Creates `sessions` users, plus 10 % newcomers who arrive later. They share `clients`
    /// connections to each proxy.
    pub fn new(sessions: u32, clients: usize, proxies: &[SocketAddr]) -> Self {
        let workers = |sessions: std::ops::Range<u32>| {
            let mut workers: Vec<Worker> =
                (0..clients).map(|_| Worker { client: Client::new(proxies), sessions: vec![] }).collect();
            for number in sessions {
                workers[number as usize % clients].sessions.push(Session::new(number));
            }
            workers
        };
        Self {
            workers: workers(0..sessions),
            newcomers: workers(sessions..sessions + sessions / 10),
            ledger: Ledger::new(sessions),
        }
    }

    /// Returns the events since the last [`Self::establish`].
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Sends requests for each user until a backend recognises the session. Events up to then
    /// are discarded.
    pub fn establish(&mut self) -> Result<()> {
        let ledger = &self.ledger;
        let tally = together(&mut self.workers, |worker| {
            let mut tally = Tally::default();
            for session in &mut worker.sessions {
                for _ in 0..ESTABLISHED_AT_LAST {
                    interrupt::check()?;
                    let result = worker.client.ask(session);
                    tally.add(&result);
                    if let Ok(answer) = result {
                        ledger.record(session, answer);
                        if answer.verdict == Verdict::Known {
                            break;
                        }
                    }
                }
            }
            Ok(tally)
        })?;
        if tally.failed() > 0 {
            bail!("requests failed before the scenario started: {:?}", tally.failures);
        }
        self.ledger.forget_events();
        Ok(())
    }

    /// Keeps all users sending requests while `happens` runs, and for `passes` more requests
    /// each afterwards.
    pub fn during(&mut self, passes: u32, happens: impl FnOnce(&Ledger) -> Result<()>) -> Result<Tally> {
        let ledger = &self.ledger;
        let over = AtomicBool::new(false);
        let workers = &mut self.workers;
        thread::scope(|scope| {
            let driving = scope.spawn(|| {
                together(workers, |worker| {
                    let mut tally = Tally::default();
                    let mut left = passes;
                    while left > 0 {
                        if over.load(Ordering::Relaxed) {
                            left -= 1;
                        }
                        for session in &mut worker.sessions {
                            interrupt::check()?;
                            let result = worker.client.ask(session);
                            tally.add(&result);
                            if let Ok(answer) = result {
                                ledger.record(session, answer);
                            }
                        }
                    }
                    Ok(tally)
                })
            });
            let happened = happens(ledger);
            over.store(true, Ordering::Relaxed);
            let tally = driving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            happened.and(tally)
        })
    }

    /// Sends one request for each newcomer and returns the counters.
    pub fn newcomers(&mut self) -> Result<Tally> {
        together(&mut self.newcomers, |worker| {
            let mut tally = Tally::default();
            for session in &mut worker.sessions {
                interrupt::check()?;
                tally.add(&worker.client.ask(session));
            }
            Ok(tally)
        })
    }
}

/// Runs `work` for each worker in a separate thread and adds up the counters.
fn together(workers: &mut [Worker], work: impl Fn(&mut Worker) -> Result<Tally> + Sync) -> Result<Tally> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(move || work(worker))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        let tallies: Vec<Result<Tally>> = threads.into_iter().map(join).collect();
        tallies.into_iter().try_fold(Tally::default(), |sum, tally| Ok(sum.merge(tally?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stateful_backend::Farm;

    fn answer(backend: u8, verdict: Verdict) -> Answer {
        Answer { backend, verdict }
    }

    #[test]
    fn session_that_breaks_repeatedly_counts_once() {
        let ledger = Ledger::new(3);
        let session = Session::new(1);
        ledger.record(&session, answer(0, Verdict::New));
        assert_eq!((ledger.broken(), ledger.moved(), ledger.excused()), (0, 0, 0));
        ledger.record(&session, answer(1, Verdict::Broken));
        ledger.record(&session, answer(0, Verdict::Broken));
        assert_eq!((ledger.broken(), ledger.moved(), ledger.excused()), (1, 1, 0));
        ledger.record(&Session::new(3), answer(0, Verdict::Broken));
        assert_eq!(ledger.broken(), 1, "newcomers should not be counted");
    }

    #[test]
    fn only_current_sessions_of_a_backend_are_excused() {
        let ledger = Ledger::new(2);
        ledger.record(&Session::new(0), answer(0, Verdict::New));
        ledger.record(&Session::new(1), answer(1, Verdict::New));
        ledger.record(&Session::new(1), answer(0, Verdict::Broken));
        ledger.excuse_sessions_of(1);
        assert_eq!(ledger.excused(), 0);
        ledger.excuse_sessions_of(0);
        assert_eq!(ledger.excused(), 2);
    }

    #[test]
    fn direct_backend_breaks_no_session_and_alternating_backends_break_all() {
        let mut farm = Farm::new(2).unwrap();
        farm.start(0).unwrap();
        farm.start(1).unwrap();
        // Directly to one backend: nothing can break.
        let mut crowd = Crowd::new(40, 4, &[farm.address(0)]);
        crowd.establish().unwrap();
        let tally = crowd.during(2, |_| Ok(())).unwrap();
        assert!(tally.requests >= 80);
        assert_eq!((tally.failed(), crowd.ledger().broken(), crowd.ledger().moved()), (0, 0, 0));
        assert_eq!(crowd.newcomers().unwrap().by_backend, BTreeMap::from([(0, 4)]));
        // Alternating between two backends: every session breaks.
        let mut crowd = Crowd::new(40, 4, &[farm.address(0), farm.address(1)]);
        crowd.during(3, |_| Ok(())).unwrap();
        assert_eq!((crowd.ledger().broken(), crowd.ledger().moved()), (40, 40));
    }

    #[test]
    fn sessions_of_a_killed_backend_are_lost_not_broken() {
        let mut farm = Farm::new(1).unwrap();
        farm.start(0).unwrap();
        let mut crowd = Crowd::new(40, 4, &[farm.address(0)]);
        crowd.establish().unwrap();
        let tally = crowd.during(2, |ledger| {
            farm.kill(0);
            ledger.excuse_sessions_of(0);
            farm.start(0)
        });
        assert!(tally.unwrap().requests >= 80);
        let ledger = crowd.ledger();
        assert_eq!((ledger.broken(), ledger.moved(), ledger.excused()), (0, 0, 40));
    }
}
