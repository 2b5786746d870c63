//! Sessions whose sealed cookie looks idle, although an exchange of theirs took long.
//!
//! The cookie is sealed when a response begins, so it cannot say how long that response, or the tunnel
//! behind it, goes on. A client that comes back after a day-long WebSocket has a cookie that expired
//! hours ago. This memory says when such an exchange was last seen in progress. It lives as long as the
//! process and is bounded; only exchanges that take a noticeable part of `max_idle` enter it.

use std::time::Duration;

use ahash::{HashMap, HashMapExt, RandomState};
use parking_lot::Mutex;

use super::cookie::{CookieBinding, Opened, Owner};
use super::pick::Binding;
use super::recall::{CookieLayer, Layer, Layers, Recalled, key_of, slot_of};
use super::{Cluster, KeyHash, Seed, Timestamp};

/// When sessions with long exchanges were last in use.
#[derive(Debug)]
pub struct RecentUse {
    hasher: RandomState,
    notes: Mutex<Notes>,
}

/// Two generations: when the younger is full, it replaces the elder.
#[derive(Debug)]
struct Notes {
    young: HashMap<u64, Timestamp>,
    old: HashMap<u64, Timestamp>,
}

impl Default for RecentUse {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            notes: Mutex::new(Notes { young: HashMap::new(), old: HashMap::new() }),
        }
    }
}

impl RecentUse {
    /// Notes that a session of this upstream has an exchange in progress at `now`, or had until then.
    pub fn note(&self, upstream: &str, key: KeyHash, now: Timestamp) {
        let name = self.hasher.hash_one((upstream, key));
        let mut notes = self.notes.lock();
        if notes.young.len() >= GENERATION && !notes.young.contains_key(&name) {
            notes.old = std::mem::take(&mut notes.young);
        }
        notes.young.insert(name, now);
    }

    /// Makes an expired cookie count again if its session has not been idle for longer than `max_idle`
    /// after all. A cookie older than `max_age` stays expired.
    pub fn revive(
        &self,
        recalled: Recalled,
        layers: &Layers<'_>,
        cluster: &Cluster,
        now: Timestamp,
    ) -> Recalled {
        let (Binding::Expired, Some(CookieLayer { config, .. })) = (recalled.binding, layers.cookie) else {
            return recalled;
        };
        let CookieBinding::Expired(opened) = recalled.cookie else { return recalled };
        let key = key_in_use(layers.seed, recalled.owner, &opened);
        let counts = recalled.owner.is_named_by(&opened) && !opened.too_old(now, config.max_age);
        if !counts || !self.was_used(layers.upstream, key, now, config.max_idle) {
            return Recalled { cookie: CookieBinding::Expired(opened), ..recalled };
        }
        Recalled {
            key: recalled.key.or(Some(key)),
            binding: slot_of(cluster, &opened).map_or(Binding::Unknown, Binding::To),
            layer: Some(Layer::Cookie),
            // A table that lists the session would know it.
            table_behind: layers.table.is_some_and(|layer| !layer.helper),
            cookie: CookieBinding::Bound(opened),
            ..recalled
        }
    }

    fn was_used(&self, upstream: &str, key: KeyHash, now: Timestamp, max_idle: Duration) -> bool {
        let name = self.hasher.hash_one((upstream, key));
        let notes = self.notes.lock();
        let last = notes.young.get(&name).or_else(|| notes.old.get(&name));
        last.is_some_and(|last| Duration::from_secs(now.since(*last).into()) <= max_idle)
    }
}

/// Returns the key under which the session of a sealed cookie is noted: the session's own. A cookie
/// that is the session has one that its reissues keep, while an address has many sessions.
pub fn key_in_use(seed: Seed, owner: Owner, opened: &Opened) -> KeyHash {
    match owner {
        Owner::Session(key) => key,
        Owner::Client | Owner::Nobody => key_of(seed, opened),
    }
}

/// The most sessions of one generation; both take some 2 MB.
const GENERATION: usize = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn idle_begins_at_the_end_of_the_last_exchange() {
        let recent = RecentUse::default();
        assert!(!recent.was_used("web", KeyHash(1), NOW, HOUR));
        recent.note("web", KeyHash(1), NOW);
        assert!(recent.was_used("web", KeyHash(1), Timestamp(NOW.0 + 3600), HOUR));
        assert!(!recent.was_used("web", KeyHash(1), Timestamp(NOW.0 + 3601), HOUR));
        assert!(!recent.was_used("shop", KeyHash(1), NOW, HOUR), "another upstream");
        assert!(!recent.was_used("web", KeyHash(2), NOW, HOUR), "another session");
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_latest() {
        let recent = RecentUse::default();
        let sessions = 5 * GENERATION as u64;
        for key in 0..sessions {
            recent.note("web", KeyHash(key), NOW);
        }
        let notes = recent.notes.lock();
        assert!(notes.young.len() + notes.old.len() <= 2 * GENERATION);
        drop(notes);
        for key in sessions - GENERATION as u64..sessions {
            assert!(recent.was_used("web", KeyHash(key), NOW, HOUR));
        }
    }
}
