//! Reads the binding from a request's cookies.

use std::time::Duration;

use super::opened::Opened;
use super::seal::KeyRing;
use crate::affinity::Timestamp;

/// The binding found in a request's cookies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CookieBinding {
    /// No cookie with our name: a new session.
    Absent,
    /// A valid cookie: the session is bound.
    Bound(Opened),
    /// An authentic cookie that has expired.
    Expired(Opened),
    /// Cookies with our name, none of them authentic.
    Forged,
}

/// Reads the binding from all cookies with our name, in the order received (see
/// [`cookie_values`](crate::affinity::key::cookies::cookie_values)).
///
/// A browser may send several: set for different paths or domains, or inside and outside a
/// partition. The first authentic cookie that has not expired wins, else the first authentic one.
/// Empty values are ignored. At most eight are tried, since each costs a decryption and a client
/// may send hundreds.
pub fn read_binding<'a>(
    keys: &KeyRing,
    upstream: &str,
    values: impl Iterator<Item = &'a [u8]>,
    now: Timestamp,
    max_age: Duration,
    max_idle: Duration,
) -> CookieBinding {
    let mut binding = CookieBinding::Absent;
    for value in values.filter(|value| !value.is_empty()).take(MAX_TRIED) {
        match keys.open(upstream, value) {
            Ok(opened) if !opened.expired(now, max_age, max_idle) => return CookieBinding::Bound(opened),
            Ok(opened) if !matches!(binding, CookieBinding::Expired(_)) => {
                binding = CookieBinding::Expired(opened);
            }
            Err(_) if binding == CookieBinding::Absent => binding = CookieBinding::Forged,
            Ok(_) | Err(_) => {}
        }
    }
    binding
}

const MAX_TRIED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u32 = 1_000_000;

    fn binding(ring: &KeyRing, values: &[&str]) -> CookieBinding {
        let values = values.iter().map(|value| value.as_bytes());
        let hours = |n: u64| Duration::from_secs(n * 3600);
        read_binding(ring, "shop", values, Timestamp(NOW), hours(8), hours(1))
    }

    fn sealed(ring: &KeyRing, backend: &str, age: u32, idle: u32) -> (String, Opened) {
        let opened = Opened {
            backend: backend.parse().unwrap(),
            issued: Timestamp(NOW - age),
            last_seen: Timestamp(NOW - idle),
        };
        (ring.seal("shop", &opened.backend, opened.issued, opened.last_seen), opened)
    }

    #[test]
    fn no_cookie_or_an_empty_one_is_a_new_session() {
        let ring = KeyRing::ephemeral();
        assert_eq!(binding(&ring, &[]), CookieBinding::Absent);
        assert_eq!(binding(&ring, &["", ""]), CookieBinding::Absent);
    }

    #[test]
    fn first_authentic_cookie_wins() {
        let ring = KeyRing::ephemeral();
        let (foreign, _) = sealed(&KeyRing::ephemeral(), "node9", 0, 0);
        let (one, opened) = sealed(&ring, "node1", 0, 0);
        let (two, _) = sealed(&ring, "node2", 0, 0);
        assert_eq!(binding(&ring, &["", "junk", &foreign, &one, &two]), CookieBinding::Bound(opened));
    }

    #[test]
    fn unexpired_cookie_wins_over_an_expired_one() {
        let ring = KeyRing::ephemeral();
        let (stale, opened_stale) = sealed(&ring, "node1", 7200, 3601);
        let (stale_too, _) = sealed(&ring, "node2", 7200, 3602);
        let (fresh, opened) = sealed(&ring, "node2", 7200, 3600);
        assert_eq!(binding(&ring, &[&stale, &fresh]), CookieBinding::Bound(opened));
        assert_eq!(binding(&ring, &["x", &stale, &stale_too, "y"]), CookieBinding::Expired(opened_stale));
    }

    #[test]
    fn session_in_use_expires_by_age() {
        let ring = KeyRing::ephemeral();
        let (old, opened) = sealed(&ring, "node1", 8 * 3600 + 1, 0);
        assert_eq!(binding(&ring, &[&old]), CookieBinding::Expired(opened));
    }

    #[test]
    fn cookies_that_are_not_authentic_are_forged() {
        let ring = KeyRing::ephemeral();
        assert_eq!(binding(&ring, &["node1"]), CookieBinding::Forged);
        let (foreign, _) = sealed(&KeyRing::ephemeral(), "node9", 0, 0);
        assert_eq!(binding(&ring, &["", &foreign]), CookieBinding::Forged);
    }

    #[test]
    fn work_is_bounded() {
        let ring = KeyRing::ephemeral();
        let (good, _) = sealed(&ring, "node1", 0, 0);
        let mut values = vec!["junk"; MAX_TRIED];
        values.push(&good);
        assert_eq!(binding(&ring, &values), CookieBinding::Forged);
    }
}
