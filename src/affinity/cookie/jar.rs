//! Reads the binding from a request's cookies.

use std::time::Duration;

use super::opened::Opened;
use super::owner::Owner;
use super::seal::KeyRing;
use crate::affinity::Timestamp;

/// The binding found in a request's cookies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CookieBinding {
    /// No cookie with our name: a new session.
    Absent,
    /// A valid cookie: the session is bound.
    Bound(Opened),
    /// A valid cookie of another session: it says where this client has been.
    Hint(Opened),
    /// An authentic cookie that has expired.
    Expired(Opened),
    /// Cookies with our name, none of them authentic.
    Forged,
}

/// The result of [`read_binding`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jar {
    /// The binding.
    pub binding: CookieBinding,
    /// Which cookies with our name are ours.
    pub own: OwnCookies,
}

/// Which of a request's cookies with our name were sealed here, by their order. The others belong
/// to another proxy or to the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnCookies(u8);

impl OwnCookies {
    /// The most cookies that are looked at.
    pub const MAX: usize = 8;
    /// All of them are ours.
    pub const ALL: Self = Self(u8::MAX);

    /// Only the `nth` of them (from 0, below [`OwnCookies::MAX`]) is ours.
    pub fn only(nth: usize) -> Self {
        let mut own = Self::default();
        own.add(nth);
        own
    }

    fn add(&mut self, nth: usize) {
        debug_assert!(nth < Self::MAX, "only the first cookies are looked at");
        self.0 |= 1 << nth;
    }

    /// Returns true if none of them is ours.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns true if the `nth` of them (from 0) is ours.
    pub fn contains(self, nth: usize) -> bool {
        nth < Self::MAX && self.0 & (1 << nth) != 0
    }
}

/// Reads the binding of the session of `owner` from all cookies with our name, in the order
/// received (see [`cookie_values`](crate::affinity::key::cookies::cookie_values)).
///
/// A browser may send several: set for different paths or domains, or inside and outside a
/// partition. A valid one that speaks for the owner wins, then one of another session, then one
/// that has expired. Of several such, one that names a key wins, then one that is not early, then
/// the one issued last, then the first. At most eight are tried, since each costs a decryption and a client may send hundreds.
pub fn read_binding<'a>(
    keys: &KeyRing,
    upstream: &str,
    values: impl Iterator<Item = &'a [u8]>,
    owner: Owner,
    now: Timestamp,
    max_age: Option<Duration>,
    max_idle: Duration,
) -> Jar {
    let mut jar = Jar { binding: CookieBinding::Absent, own: OwnCookies::default() };
    for (nth, value) in values.take(OwnCookies::MAX).enumerate() {
        if value.is_empty() {
            continue;
        }
        let found = match keys.open(upstream, value) {
            Ok(opened) => {
                jar.own.add(nth);
                if opened.expired(now, max_age, max_idle) {
                    CookieBinding::Expired(opened)
                } else if owner.is_named_by(&opened) {
                    CookieBinding::Bound(opened)
                } else {
                    CookieBinding::Hint(opened)
                }
            }
            Err(_) => CookieBinding::Forged,
        };
        if found.outranks(&jar.binding) {
            jar.binding = found;
        }
    }
    jar
}

impl CookieBinding {
    fn outranks(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Hint(one), Self::Hint(other)) | (Self::Bound(one), Self::Bound(other)) => {
                let rank = |of: &Opened| (of.key.is_some(), !of.early, of.last_seen);
                rank(one) > rank(other)
            }
            _ => self.rank() > other.rank(),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Absent => 0,
            Self::Forged => 1,
            Self::Expired(_) => 2,
            Self::Hint(_) => 3,
            Self::Bound(_) => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::KeyHash;

    const NOW: u32 = 1_000_000;
    const MINE: Owner = Owner::Session(KeyHash(1));

    fn jar(ring: &KeyRing, owner: Owner, values: &[&str]) -> Jar {
        let values = values.iter().map(|value| value.as_bytes());
        let hours = |n: u64| Duration::from_secs(n * 3600);
        read_binding(ring, "shop", values, owner, Timestamp(NOW), Some(hours(8)), hours(1))
    }

    fn binding(ring: &KeyRing, values: &[&str]) -> CookieBinding {
        jar(ring, MINE, values).binding
    }

    fn sealed_for(ring: &KeyRing, key: Option<u64>, backend: &str, age: u32, idle: u32) -> (String, Opened) {
        let opened = Opened {
            backend: backend.parse().unwrap(),
            key: key.map(KeyHash),
            early: false,
            issued: Timestamp(NOW - age),
            bound: Timestamp(NOW - age),
            last_seen: Timestamp(NOW - idle),
        };
        (ring.seal("shop", &opened), opened)
    }

    fn sealed(ring: &KeyRing, backend: &str, age: u32, idle: u32) -> (String, Opened) {
        sealed_for(ring, Some(1), backend, age, idle)
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
    fn cookie_of_another_session_is_only_a_hint() {
        let ring = KeyRing::ephemeral();
        let (older, _) = sealed_for(&ring, Some(2), "node1", 10, 9);
        let (other, opened) = sealed_for(&ring, Some(3), "node2", 10, 8);
        assert_eq!(binding(&ring, &[&older, &other]), CookieBinding::Hint(opened.clone()));
        assert_eq!(jar(&ring, Owner::Nobody, &[&other]).binding, CookieBinding::Hint(opened.clone()));
        assert_eq!(jar(&ring, Owner::Client, &[&other]).binding, CookieBinding::Bound(opened));
        let (mine, opened) = sealed(&ring, "node3", 10, 10);
        assert_eq!(binding(&ring, &[&older, &other, &mine]), CookieBinding::Bound(opened));
    }

    #[test]
    fn cookie_without_a_key_speaks_for_every_session_but_not_for_requests_without_one() {
        let ring = KeyRing::ephemeral();
        let (general, opened) = sealed_for(&ring, None, "node1", 0, 0);
        assert_eq!(binding(&ring, &[&general]), CookieBinding::Bound(opened.clone()));
        assert_eq!(jar(&ring, Owner::Nobody, &[&general]).binding, CookieBinding::Hint(opened));
    }

    #[test]
    fn cookie_that_names_the_session_wins_over_one_for_everybody() {
        let ring = KeyRing::ephemeral();
        let (general, _) = sealed_for(&ring, None, "node1", 100, 0);
        let (older, _) = sealed(&ring, "node2", 100, 20);
        let (newer, opened) = sealed(&ring, "node3", 100, 10);
        assert_eq!(binding(&ring, &[&general, &older, &newer]), CookieBinding::Bound(opened.clone()));
        assert_eq!(binding(&ring, &[&newer, &older, &general]), CookieBinding::Bound(opened));
    }

    #[test]
    fn cookie_that_came_with_the_applications_wins_over_an_early_one() {
        let ring = KeyRing::ephemeral();
        let (settled, opened) = sealed_for(&ring, None, "node1", 100, 10);
        let (_, other) = sealed_for(&ring, None, "node2", 100, 0);
        let early = ring.seal("shop", &Opened { early: true, ..other });
        for values in [[&settled, &early], [&early, &settled]] {
            let found = jar(&ring, Owner::Client, &values.map(String::as_str)).binding;
            assert_eq!(found, CookieBinding::Bound(opened.clone()));
        }
    }

    #[test]
    fn cookies_of_others_are_told_apart() {
        let ring = KeyRing::ephemeral();
        let (foreign, _) = sealed(&KeyRing::ephemeral(), "node9", 0, 0);
        let (one, _) = sealed(&ring, "node1", 0, 0);
        let (stale, _) = sealed(&ring, "node1", 7200, 7200);
        let own = jar(&ring, MINE, &["", &one, "junk", &foreign, &stale]).own;
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 99].map(|nth| own.contains(nth)),
            [false, true, false, false, true, false, false]
        );
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
        let mut values = vec!["junk"; OwnCookies::MAX];
        values.push(&good);
        assert_eq!(binding(&ring, &values), CookieBinding::Forged);
    }
}
