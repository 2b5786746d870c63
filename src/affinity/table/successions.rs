//! Ids that replaced another: which ones are obsolete once the client has sent the new one.
//!
//! An application may set a new id with every response. The old one must stay until the client has
//! the new one, since the response may never reach it. So a succession is noted when the response is
//! read, and takes effect with the first request that carries the new id.

use std::collections::VecDeque;

use ahash::HashMap;
use parking_lot::Mutex;

use crate::affinity::SessionName;

/// The successions that have not taken effect yet. If there are too many, the oldest are forgotten:
/// their old ids then stay until they have been idle for the TTL.
#[derive(Debug, Default)]
pub(super) struct Successions {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The old id of each new one.
    old_of: HashMap<SessionName, SessionName>,
    /// The new ids of each old one: parallel requests may each have got another.
    new_of: HashMap<SessionName, Vec<SessionName>>,
    /// The new ids in the order in which they were noted.
    order: VecDeque<SessionName>,
}

impl Successions {
    /// Notes that a response set `new` in the place of `old`.
    pub(super) fn note(&self, old: SessionName, new: SessionName) {
        let mut inner = self.inner.lock();
        if inner.order.len() >= MAX
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.forget(oldest);
        }
        let siblings = inner.new_of.entry(old).or_default();
        if siblings.len() < MAX_SIBLINGS && !siblings.contains(&new) {
            siblings.push(new);
            inner.forget_old_of(new, old);
            inner.old_of.insert(new, old);
            inner.order.push_back(new);
        }
    }

    /// Returns the ids that are obsolete now that the client has sent `new`: the one that it replaced,
    /// and the others that replaced that one.
    pub(super) fn take(&self, new: SessionName) -> Vec<SessionName> {
        let mut inner = self.inner.lock();
        let Some(old) = inner.old_of.remove(&new) else { return Vec::new() };
        let mut obsolete = inner.new_of.remove(&old).unwrap_or_default();
        obsolete.retain(|sibling| *sibling != new);
        for sibling in &obsolete {
            inner.old_of.remove(sibling);
        }
        obsolete.push(old);
        obsolete
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.inner.lock().old_of.len()
    }
}

impl Inner {
    fn forget(&mut self, new: SessionName) {
        if let Some(old) = self.old_of.remove(&new) {
            self.remove_sibling(old, new);
        }
    }

    /// An id that is set again may now replace another one.
    fn forget_old_of(&mut self, new: SessionName, now_of: SessionName) {
        if let Some(before) = self.old_of.get(&new).copied().filter(|before| *before != now_of) {
            self.remove_sibling(before, new);
        }
    }

    fn remove_sibling(&mut self, old: SessionName, new: SessionName) {
        if let Some(siblings) = self.new_of.get_mut(&old) {
            siblings.retain(|sibling| *sibling != new);
            if siblings.is_empty() {
                self.new_of.remove(&old);
            }
        }
    }
}

/// The most successions, some 60 bytes each.
const MAX: usize = 65_536;
/// The most new ids of one old id. Further ones stay until they have been idle for the TTL.
const MAX_SIBLINGS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: u64) -> SessionName {
        SessionName(n)
    }

    #[test]
    fn first_use_of_the_new_id_makes_the_old_one_and_its_siblings_obsolete() {
        let successions = Successions::default();
        assert!(successions.take(name(2)).is_empty());
        successions.note(name(1), name(2));
        successions.note(name(1), name(3));
        successions.note(name(1), name(4));
        successions.note(name(9), name(5));
        assert_eq!(successions.take(name(3)), [name(2), name(4), name(1)]);
        assert!(successions.take(name(2)).is_empty() && successions.take(name(3)).is_empty());
        assert_eq!(successions.take(name(5)), [name(9)]);
        assert_eq!(successions.len(), 0);
    }

    #[test]
    fn id_set_again_replaces_the_later_one() {
        let successions = Successions::default();
        successions.note(name(1), name(3));
        successions.note(name(2), name(3));
        successions.note(name(2), name(3));
        assert_eq!(successions.take(name(3)), [name(2)]);
        assert!(successions.inner.lock().new_of.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let successions = Successions::default();
        for n in 0..MAX as u64 + 1000 {
            successions.note(name(n), name(n + 1_000_000));
        }
        assert_eq!(successions.len(), MAX);
        for n in 0..1000 {
            successions.note(name(0), name(n + 5_000_000));
        }
        assert_eq!(successions.inner.lock().new_of[&name(0)].len(), MAX_SIBLINGS);
        assert!(successions.inner.lock().order.len() <= MAX);
    }
}
