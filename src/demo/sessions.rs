//! Sessions in memory: the state that other instances do not have.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

/// Maximum number of sessions.
const CAPACITY: usize = 10_000;
/// Idle time after which a session expires.
const MAX_IDLE: Duration = Duration::from_secs(30 * 60);
/// Number of hexadecimal digits of an id (128 bits).
const ID_LEN: usize = 32;

/// The sessions of one instance.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    by_id: AHashMap<String, Session>,
    /// Ids and when they had last been used at the time of queueing.
    queue: VecDeque<(String, Instant)>,
}

#[derive(Debug)]
struct Session {
    visits: u64,
    last: Instant,
    /// The instance that copied it here, until its visitor comes.
    copied_from: Option<String>,
}

/// A counted visit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) session: String,
    pub(super) count: u64,
    pub(super) arrival: Arrival,
}

/// How the visitor arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arrival {
    /// With a known session.
    Known,
    /// With a session that this instance had copied here.
    TakenOver(String),
    /// Without a session.
    Fresh,
    /// With an unknown session: expired, or from another instance.
    Lost,
}

impl Sessions {
    /// Counts a visit. Starts a new session if `claimed` is not a known one.
    pub(super) fn visit(&mut self, claimed: Option<&str>, now: Instant) -> Result<Visit, Unspecified> {
        if let Some((id, session)) = claimed.and_then(|id| Some((id, self.by_id.get_mut(id)?)))
            && now.saturating_duration_since(session.last) <= MAX_IDLE
        {
            session.visits += 1;
            session.last = now;
            let arrival = session.copied_from.take().map_or(Arrival::Known, Arrival::TakenOver);
            return Ok(Visit { session: id.to_owned(), count: session.visits, arrival });
        }
        if let Some(id) = claimed {
            self.by_id.remove(id);
        }
        let session = new_id()?;
        self.make_room(now);
        self.by_id.insert(session.clone(), Session { visits: 1, last: now, copied_from: None });
        self.queue.push_back((session.clone(), now));
        let arrival = if claimed.is_some() { Arrival::Lost } else { Arrival::Fresh };
        Ok(Visit { session, count: 1, arrival })
    }

    /// Stores a copy of another instance's session; 0 visits end it. Returns false if the id is none.
    pub(super) fn copy(&mut self, id: &str, visits: u64, from: &str, now: Instant) -> bool {
        if id.len() != ID_LEN || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return false;
        }
        if visits == 0 {
            self.end(id);
            return true;
        }
        if !self.by_id.contains_key(id) {
            self.make_room(now);
            self.queue.push_back((id.to_owned(), now));
        }
        self.by_id.insert(id.to_owned(), Session { visits, last: now, copied_from: Some(from.to_owned()) });
        true
    }

    /// Ends a session.
    pub(super) fn end(&mut self, id: &str) {
        self.by_id.remove(id);
    }

    /// Returns the number of sessions: (of visitors, copies).
    pub(super) fn len(&self) -> (usize, usize) {
        let copies = self.by_id.values().filter(|session| session.copied_from.is_some()).count();
        (self.by_id.len() - copies, copies)
    }

    /// Removes expired sessions and, when full, the one that has been idle longest. A session that was
    /// used since it was queued is queued again.
    fn make_room(&mut self, now: Instant) {
        while let Some((id, queued)) = self.queue.pop_front() {
            let Some(session) = self.by_id.get(&id) else { continue };
            let last = session.last;
            if last > queued {
                self.queue.push_back((id, last));
            } else if now.saturating_duration_since(last) > MAX_IDLE || self.by_id.len() >= CAPACITY {
                self.by_id.remove(&id);
            } else {
                self.queue.push_front((id, queued));
                break;
            }
        }
        // Ended sessions leave stale queue entries.
        if self.queue.len() >= 2 * CAPACITY {
            self.queue.retain(|(id, _)| self.by_id.contains_key(id));
        }
    }
}

fn new_id() -> Result<String, Unspecified> {
    let mut bytes = [0; ID_LEN / 2];
    rand::fill(&mut bytes)?;
    let mut id = String::with_capacity(ID_LEN);
    for byte in bytes {
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_counts_its_visits() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        let first = sessions.visit(None, now).expect("random");
        assert_eq!((first.count, first.arrival, first.session.len()), (1, Arrival::Fresh, ID_LEN));
        let second = sessions.visit(Some(&first.session), now).expect("random");
        assert_eq!(second, Visit { session: first.session, count: 2, arrival: Arrival::Known });
    }

    #[test]
    fn unknown_ids_are_never_adopted() {
        let mut sessions = Sessions::default();
        let visit = sessions.visit(Some("fixed-by-somebody"), Instant::now()).expect("random");
        assert_eq!(visit.arrival, Arrival::Lost);
        assert_ne!(visit.session, "fixed-by-somebody");
    }

    #[test]
    fn idle_session_expires() {
        let mut sessions = Sessions::default();
        let begun = Instant::now();
        let id = sessions.visit(None, begun).expect("random").session;
        let later = begun + MAX_IDLE;
        assert_eq!(sessions.visit(Some(&id), later).expect("random").count, 2);
        let too_late = later + MAX_IDLE + Duration::from_millis(1);
        assert_eq!(sessions.visit(Some(&id), too_late).expect("random").arrival, Arrival::Lost);
        assert_eq!(sessions.len().0, 1);
    }

    #[test]
    fn sessions_are_bounded_and_idle_ones_are_evicted_first() {
        let mut sessions = Sessions::default();
        let begun = Instant::now();
        let oldest = sessions.visit(None, begun).expect("random").session;
        let mut second = String::new();
        for n in 1..CAPACITY as u64 {
            let id = sessions.visit(None, begun + Duration::from_millis(n)).expect("random").session;
            if n == 1 {
                second = id;
            }
        }
        let late = begun + Duration::from_secs(60);
        // Use the oldest session again, but not the second oldest.
        assert_eq!(sessions.visit(Some(&oldest), late).expect("random").count, 2);
        let mut new = Vec::new();
        for _ in 0..500 {
            new.push(sessions.visit(None, late).expect("random").session);
            assert_eq!(sessions.len().0, CAPACITY);
        }
        for id in new.iter().chain([&oldest]) {
            assert!(sessions.by_id.contains_key(id));
        }
        assert!(!sessions.by_id.contains_key(&second));
        sessions.visit(None, late + MAX_IDLE).expect("random");
        assert_eq!(sessions.len().0, 502, "expired sessions must be removed");
    }

    #[test]
    fn queue_entries_of_ended_sessions_are_bounded() {
        let mut sessions = Sessions::default();
        let now = Instant::now();
        sessions.visit(None, now).expect("random");
        for _ in 0..3 * CAPACITY {
            let id = sessions.visit(None, now).expect("random").session;
            sessions.end(&id);
        }
        assert_eq!(sessions.len().0, 1);
        assert!(sessions.queue.len() <= 2 * CAPACITY, "{}", sessions.queue.len());
    }
}
