//! Who goes when the table is full.
//!
//! Ids that backends set come first: they are never evicted for ids that clients sent. A client may
//! make up any number of those, so the unminted entries are shared by client address. An address that
//! has more than its share of the table pays with its own entries for new ones. Otherwise the longest
//! idle entry of the shard goes.

use parking_lot::MutexGuard;

use super::shard::Shard;
use super::{BATCH, Class, Saved, Table};
use crate::affinity::name::Owner;

impl Table {
    /// Evicts an entry of `shard` for `new`; the caller takes over its place in the total. Minted
    /// entries go only for a minted one, and only if there is no other anywhere (`last_resort`).
    pub(super) fn make_room(&self, shard: &mut MutexGuard<'_, Shard>, new: Saved, last_resort: bool) -> bool {
        let minted = shard.oldest(Class::Minted).filter(|_| last_resort && new.tag.owner().is_none());
        let victim = shard.oldest(Class::Retired).or_else(|| self.unminted_victim(shard, new)).or(minted);
        if let Some(at) = victim {
            self.evict(shard, at);
        }
        victim.is_some()
    }

    /// Evicts an entry of another shard for `new`: one that is worth less or, for a minted entry whose
    /// own shard is empty, any.
    pub(super) fn make_room_elsewhere(&self, new: Saved) -> bool {
        if new.tag.owner().is_some_and(|owner| self.has_too_many(owner)) {
            return false;
        }
        let shards = self.shards.len();
        let start = self.shard_of(self.hash(new.name)) + 1;
        let others = |most: usize| (start..start + most.min(shards)).map(|at| &self.shards[at % shards]);
        if others(MAX_SEARCHED).any(|shard| self.make_room(&mut shard.lock(), new, false)) {
            return true;
        }
        let own_is_empty = self.shards[(start - 1) % shards].lock().len() == 0;
        own_is_empty && others(shards).any(|shard| self.make_room(&mut shard.lock(), new, true))
    }

    /// Returns the unminted entry that goes for `new`: of an address with more than its share, if some
    /// random probes find one, else the longest idle. An address that has more than its share itself
    /// gets only its own.
    fn unminted_victim(&self, shard: &Shard, new: Saved) -> Option<u32> {
        let oldest = shard.oldest(Class::Unminted)?;
        if self.owners.active() < 2 {
            return Some(oldest);
        }
        let greedy = new.tag.owner().filter(|owner| self.has_too_many(*owner));
        let fits = |at: &u32| match (shard.entry(*at).tag().owner(), greedy) {
            (Some(owner), Some(greedy)) => owner == greedy,
            (Some(owner), None) => self.has_too_many(owner),
            (None, _) => false,
        };
        let mut random = self.hash(new.name) ^ u64::from(new.last_seen.0);
        let probes = (0..PROBES).filter_map(|_| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            shard.random(u32::try_from(random >> 32).unwrap_or_default())
        });
        let found = probes.filter(fits).min_by_key(|at| shard.entry(*at).last_seen());
        found.or_else(|| Some(oldest).filter(|oldest| greedy.is_none() || fits(oldest)))
    }

    /// Returns whether an address has more unminted entries than its share of the whole table.
    fn has_too_many(&self, owner: Owner) -> bool {
        self.owners.get(owner.0).saturating_mul(self.owners.active()) > self.max_entries()
    }

    /// Evicts up to a batch from every shard, but not more than the excess.
    pub(super) fn evict_round(&self) -> usize {
        let share = self.excess().div_ceil(self.shards.len()).min(BATCH);
        let mut evicted = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            for _ in 0..share.min(self.excess()) {
                let oldest = |class: Class| shard.oldest(class);
                let Some(at) = ORDER.into_iter().find_map(oldest) else { break };
                self.drop_entry(&mut shard, at);
                evicted += 1;
            }
        }
        evicted
    }
}

/// The order in which classes are evicted when the table shrinks.
const ORDER: [Class; 3] = [Class::Retired, Class::Unminted, Class::Minted];
/// Random entries looked at for one of an address with more than its share. If such addresses hold half
/// of a shard, all probes miss in one of 256 cases.
const PROBES: usize = 8;
/// Other shards searched for an entry that is worth less. If it is not found there, such entries are not
/// what fills the table.
const MAX_SEARCHED: usize = 64;
