//! The contents of a sealed cookie.

use std::time::Duration;

use crate::affinity::{BackendId, KeyHash, Timestamp};

/// The contents of a sealed cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The backend the session is bound to.
    pub backend: BackendId,
    /// The key of the session that it speaks for. `None`: it speaks for its client, whatever the
    /// request's key.
    pub key: Option<KeyHash>,
    /// Whether it was issued before the application had set a cookie. One that was issued with the
    /// application's cookie outranks it, whichever arrived last.
    pub early: bool,
    /// When the session was first bound; kept across re-issue and failover.
    pub issued: Timestamp,
    /// When the session was bound to this backend.
    pub bound: Timestamp,
    /// When the cookie was last issued.
    pub last_seen: Timestamp,
}

impl Opened {
    /// Returns true if its session has been idle for longer than `max_idle`, or is [too
    /// old](Self::too_old).
    pub fn expired(&self, now: Timestamp, max_age: Option<Duration>, max_idle: Duration) -> bool {
        self.too_old(now, max_age) || older(now, self.last_seen, max_idle)
    }

    /// Returns true if its session is older than `max_age`, however recently it was used.
    pub fn too_old(&self, now: Timestamp, max_age: Option<Duration>) -> bool {
        max_age.is_some_and(|max_age| older(now, self.issued, max_age))
    }

    /// Returns true if the response must set a new cookie for `key`. It need not on every response:
    /// only if the session is now at another backend, if the cookie says something else, or if a
    /// quarter of `max_idle` has passed since the cookie was issued. A session is therefore
    /// forgotten after ¾ to 1 × `max_idle` without a request.
    pub fn needs_reissue(&self, next: &Self, max_idle: Duration) -> bool {
        let same = self.backend == next.backend && self.key == next.key && self.early == next.early;
        !same || older(next.last_seen, self.last_seen, max_idle / 4)
    }
}

fn older(now: Timestamp, then: Timestamp, limit: Duration) -> bool {
    Duration::from_secs(now.since(then).into()) > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Option<KeyHash> = Some(KeyHash(1));

    fn opened(issued: u32, last_seen: u32) -> Opened {
        Opened {
            backend: "node1".parse().unwrap(),
            key: KEY,
            early: false,
            issued: Timestamp(issued),
            bound: Timestamp(issued),
            last_seen: Timestamp(last_seen),
        }
    }

    #[test]
    fn expires_by_age_and_by_idleness() {
        let expired = |opened: Opened, now| {
            opened.expired(Timestamp(now), Some(Duration::from_secs(1000)), Duration::from_secs(100))
        };
        assert!(!expired(opened(500, 500), 600));
        assert!(expired(opened(500, 500), 601), "idle");
        assert!(!expired(opened(500, 1450), 1500));
        assert!(expired(opened(500, 1450), 1501), "too old although in use");
        assert!(!expired(opened(500, 500), 400), "another proxy's clock is ahead");
    }

    #[test]
    fn session_in_use_never_expires_without_a_maximum_age() {
        let year = 365 * 86_400;
        assert!(!opened(0, year).expired(Timestamp(year + 100), None, Duration::from_secs(100)));
        assert!(opened(0, year).expired(Timestamp(year + 101), None, Duration::from_secs(100)), "idle");
    }

    #[test]
    fn is_reissued_rarely() {
        let needs = |key, backend: &str, now| {
            let next = Opened { backend: backend.parse().unwrap(), key, ..opened(0, now) };
            opened(0, 1000).needs_reissue(&next, Duration::from_secs(100))
        };
        assert!(!needs(KEY, "node1", 1000));
        assert!(!needs(KEY, "node1", 1025));
        assert!(needs(KEY, "node1", 1026));
        assert!(needs(KEY, "node2", 1000), "the session has moved");
        assert!(needs(None, "node1", 1000), "the cookie speaks for another key");
        let early = Opened { early: true, ..opened(0, 1000) };
        assert!(early.needs_reissue(&opened(0, 1000), Duration::from_secs(100)), "the session has begun");
    }
}
