//! The contents of a sealed cookie.

use std::time::Duration;

use crate::affinity::{BackendId, Timestamp};

/// The contents of an opened cookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The backend the session is bound to.
    pub backend: BackendId,
    /// When the session was first bound; kept across re-issue and failover.
    pub issued: Timestamp,
    /// When the cookie was last issued.
    pub last_seen: Timestamp,
}

impl Opened {
    /// Returns true if its session is older than `max_age` or has been idle for longer than
    /// `max_idle`.
    pub fn expired(&self, now: Timestamp, max_age: Duration, max_idle: Duration) -> bool {
        older(now, self.issued, max_age) || older(now, self.last_seen, max_idle)
    }

    /// Returns true if the response must set a new cookie. It need not on every response: only if
    /// the session is now at another backend, or if a quarter of `max_idle` has passed since the
    /// cookie was issued. A session is therefore forgotten after ¾ to 1 × `max_idle` without a
    /// request.
    pub fn needs_reissue(&self, backend: &BackendId, now: Timestamp, max_idle: Duration) -> bool {
        self.backend != *backend || older(now, self.last_seen, max_idle / 4)
    }
}

fn older(now: Timestamp, then: Timestamp, limit: Duration) -> bool {
    Duration::from_secs(now.since(then).into()) > limit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(issued: u32, last_seen: u32) -> Opened {
        Opened {
            backend: "node1".parse().unwrap(),
            issued: Timestamp(issued),
            last_seen: Timestamp(last_seen),
        }
    }

    #[test]
    fn expires_by_age_and_by_idleness() {
        let expired = |opened: Opened, now| {
            opened.expired(Timestamp(now), Duration::from_secs(1000), Duration::from_secs(100))
        };
        assert!(!expired(opened(500, 500), 600));
        assert!(expired(opened(500, 500), 601), "idle");
        assert!(!expired(opened(500, 1450), 1500));
        assert!(expired(opened(500, 1450), 1501), "too old although in use");
        assert!(!expired(opened(500, 500), 400), "another proxy's clock is ahead");
    }

    #[test]
    fn is_reissued_rarely() {
        let needs = |backend: &str, now| {
            opened(0, 1000).needs_reissue(&backend.parse().unwrap(), Timestamp(now), Duration::from_secs(100))
        };
        assert!(!needs("node1", 1000));
        assert!(!needs("node1", 1025));
        assert!(needs("node1", 1026));
        assert!(needs("node2", 1000), "the session has moved");
    }
}
