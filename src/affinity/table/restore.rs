//! All bindings of a table, out of it and into another.

use std::cmp::Reverse;

use super::{Class, Saved, Table};
use crate::affinity::Timestamp;

impl Table {
    /// Calls `visit` with every unexpired binding, shard by shard, the longest idle of a shard
    /// first. No lock is held during the call. A binding that changes meanwhile is seen before or
    /// after the change.
    pub fn for_each(&self, now: Timestamp, mut visit: impl FnMut(Saved)) {
        let mut copy = Vec::new();
        for shard in &self.shards {
            copy.clear();
            copy.extend(shard.lock().oldest_first());
            let live = |saved: &&Saved| now.since(saved.last_seen) <= self.lifetime(saved.tag);
            copy.iter().filter(live).copied().for_each(&mut visit);
        }
    }

    /// Adds bindings as older than all existing ones, so that no live session is evicted. Sessions that
    /// are already bound are refused, and so are unminted ones and then the oldest beyond the room left. The
    /// order of use is kept (to the second). Returns how many were added.
    pub(super) fn restore(&self, mut bindings: Vec<Saved>) -> usize {
        let room = self.max_entries().saturating_sub(self.len());
        if bindings.len() > room {
            let worth = |saved: &Saved| Reverse((saved.tag.class() == Some(Class::Minted), saved.last_seen));
            bindings.select_nth_unstable_by_key(room, worth);
            bindings.truncate(room);
        }
        // Shard by shard, to fill each one while it is in the CPU cache.
        bindings
            .sort_unstable_by_key(|saved| (self.shard_of(self.hash(saved.name)), Reverse(saved.last_seen)));
        bindings.into_iter().filter(|saved| self.restore_one(*saved)).count()
    }

    fn restore_one(&self, saved: Saved) -> bool {
        let hash = self.hash(saved.name);
        let mut shard = self.shard(hash).lock();
        let room = !shard.is_full() && shard.find(hash, saved.name).is_none() && self.reserve();
        if room {
            shard.insert_oldest(&self.hasher, hash, saved);
            self.count(saved.slot, saved.tag);
        }
        room
    }
}
