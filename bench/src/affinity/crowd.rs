//! All the users of a scenario, over a bounded number of connections, and what
//! became of each.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread;

use anyhow::{Result, bail};

use super::client::{Answer, Client, Session};
use crate::interrupt;
use crate::stateful_backend::Verdict;

/// Requests after which a session that is never recognised is left as it is.
const ESTABLISHED_AT_LAST: u32 = 60;

const NOWHERE: u8 = u8::MAX;

/// What became of one session since it was established.
#[derive(Debug)]
struct Fate {
    /// Where it was answered last.
    backend: AtomicU8,
    events: AtomicU8,
}

/// It was asked for elsewhere although its backend had it.
const BROKEN: u8 = 1;
/// It was answered by another backend than before.
const MOVED: u8 = 2;
/// Its state was gone, so that a move costs nothing.
const EXCUSED: u8 = 4;

/// What became of all sessions.
#[derive(Debug)]
pub struct Ledger {
    fates: Vec<Fate>,
}

impl Ledger {
    fn new(sessions: u32) -> Self {
        let fate = |_| Fate { backend: AtomicU8::new(NOWHERE), events: AtomicU8::new(0) };
        Self { fates: (0..sessions).map(fate).collect() }
    }

    /// Notes that what `backend` holds is gone, or is to go.
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

    /// Sessions broken at least once.
    pub fn broken(&self) -> usize {
        self.count(BROKEN)
    }

    /// Sessions that changed their backend at least once.
    pub fn moved(&self) -> usize {
        self.count(MOVED)
    }

    /// Sessions whose state was gone at some time: at most these need move.
    pub fn excused(&self) -> usize {
        self.count(EXCUSED)
    }
}

/// Requests of one phase.
#[derive(Debug, Default)]
pub struct Tally {
    /// Made.
    pub requests: u64,
    /// Not answered by a backend, by what the user saw.
    pub failures: BTreeMap<String, u64>,
    /// Where they were answered, by backend.
    pub by_backend: BTreeMap<u8, u64>,
}

impl Tally {
    /// Requests not answered by a backend.
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

/// Users at work.
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
    /// `sessions` users, and a tenth more who come later, who share `clients`
    /// connections to each of `proxies`.
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

    /// What became of the sessions since the last [`Self::establish`].
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Each user makes requests until the session is recognised: what goes
    /// wrong on the way is forgotten.
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
            bail!("requests fail before anything has happened: {:?}", tally.failures);
        }
        self.ledger.forget_events();
        Ok(())
    }

    /// All users go on while `happens` runs, and for `passes` requests each
    /// after it.
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

    /// New users come, one request each: where do they go?
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

/// Each worker in a thread of its own.
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
    fn a_session_counts_once_however_often_it_breaks() {
        let ledger = Ledger::new(3);
        let session = Session::new(1);
        ledger.record(&session, answer(0, Verdict::New));
        assert_eq!((ledger.broken(), ledger.moved(), ledger.excused()), (0, 0, 0));
        ledger.record(&session, answer(1, Verdict::Broken));
        ledger.record(&session, answer(0, Verdict::Broken));
        assert_eq!((ledger.broken(), ledger.moved(), ledger.excused()), (1, 1, 0));
        ledger.record(&Session::new(3), answer(0, Verdict::Broken));
        assert_eq!(ledger.broken(), 1, "a newcomer is not in the books");
    }

    #[test]
    fn only_what_a_backend_holds_now_is_excused() {
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
    fn a_proxy_that_keeps_sessions_breaks_none_and_one_that_alternates_breaks_all() {
        let mut farm = Farm::new(2).unwrap();
        farm.start(0).unwrap();
        farm.start(1).unwrap();
        // Straight to a backend: nothing can break.
        let mut crowd = Crowd::new(40, 4, &[farm.address(0)]);
        crowd.establish().unwrap();
        let tally = crowd.during(2, |_| Ok(())).unwrap();
        assert!(tally.requests >= 80);
        assert_eq!((tally.failed(), crowd.ledger().broken(), crowd.ledger().moved()), (0, 0, 0));
        assert_eq!(crowd.newcomers().unwrap().by_backend, BTreeMap::from([(0, 4)]));
        // To the two in turn: every session breaks.
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
