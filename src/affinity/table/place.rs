//! Writes bindings, and makes room for them.

use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::shard::Shard;
use super::{Class, Saved, Table, Tag, touch};
use crate::affinity::name::Owner;
use crate::affinity::{SessionName, Slot, Timestamp};

impl Table {
    /// Binds a session, or rebinds it. A new one counts as unminted, for `owner`.
    ///
    /// In a full table there may be no room for an unminted session. It is then not bound.
    pub fn bind(&self, name: SessionName, slot: Slot, owner: Owner, now: Timestamp) {
        self.rebind(Saved { name, slot, last_seen: now, tag: Tag::unminted(owner) });
    }

    /// Binds a session unless it is already bound, as [`Table::bind`]. Returns the slot it is bound to.
    /// Two concurrent first requests of one session therefore agree.
    pub fn bind_if_absent(&self, name: SessionName, slot: Slot, owner: Owner, now: Timestamp) -> Slot {
        let new = Saved { name, slot, last_seen: now, tag: Tag::unminted(owner) };
        self.place(new, OnBound::Keep, |_| {}).unwrap_or(slot)
    }

    pub(super) fn rebind(&self, new: Saved) {
        self.place(new, OnBound::Rebind, |_| {});
    }

    /// Places a binding. If the name was absent and is now bound, calls `fresh` under the same lock.
    /// Returns the slot it is bound to, or `None` if there is no room for it.
    pub(super) fn place(
        &self,
        new: Saved,
        on_bound: OnBound,
        fresh: impl FnOnce(&mut Shard),
    ) -> Option<Slot> {
        let hash = self.hash(new.name);
        let mut reserved = false;
        let mut searched = false;
        loop {
            let mut shard = self.shard(hash).lock();
            if let Some(at) = shard.find(hash, new.name) {
                if reserved {
                    self.total.fetch_sub(1, Ordering::Relaxed);
                }
                let absent = self.expired(shard.entry(at), new.last_seen);
                let bound = self.refresh(&mut shard, at, new, on_bound);
                shard.end_claim(new.name);
                if absent {
                    fresh(&mut shard);
                }
                return Some(bound);
            }
            // Drop two expired entries per insertion, so that a table of expired sessions shrinks.
            let now = new.last_seen;
            let _ = self.drop_if_expired(&mut shard, now) && self.drop_if_expired(&mut shard, now);
            if !shard.is_full() {
                reserved = reserved || self.reserve();
            }
            reserved = reserved || self.make_room(&mut shard, new, searched);
            if reserved {
                shard.insert_newest(&self.hasher, hash, new);
                self.count(new.slot, new.tag);
                fresh(&mut shard);
                return Some(new.slot);
            }
            // Another shard may have an entry that is worth less. Looking needs its lock, so release
            // ours and look for the name again.
            drop(shard);
            if searched {
                return None;
            }
            reserved = self.make_room_elsewhere(new);
            searched = true;
        }
    }

    /// Handles a request for an existing entry. An expired entry counts as absent.
    fn refresh(&self, shard: &mut MutexGuard<'_, Shard>, at: u32, new: Saved, on_bound: OnBound) -> Slot {
        let entry = shard.entry(at);
        let (before, expired) = (entry.slot(), self.expired(entry, new.last_seen));
        let keep = on_bound == OnBound::Keep && !expired;
        if expired || new.tag.class() == Some(Class::Minted) {
            self.retag(shard, at, new.tag);
        }
        touch(shard, at, new.last_seen);
        if keep || before == new.slot {
            return before;
        }
        shard.set_slot(at, new.slot);
        self.counts.add(new.slot.0);
        self.counts.sub(before.0);
        new.slot
    }
}

/// What `place` does with a name that is already bound.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnBound {
    Keep,
    Rebind,
}
