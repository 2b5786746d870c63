//! The table: bindings stored in the proxy.
//!
//! The table has shards with their own locks, chosen by a keyed hash of the key, so that neither a
//! fleet's traffic nor a client that chooses its session ids overloads one shard. The number of
//! entries is bounded over all shards. In a full table, a new session evicts the longest-idle entry
//! *of its shard*. An entry idle for more than the TTL is absent for every reader at once; later
//! operations on its shard or [`Table::sweep`] free its memory.
//!
//! Invariant: `total` and the counts by slot change under the lock of the shard whose entry they
//! count. They are exact whenever no operation is in progress, and never below zero.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};

use super::{KeyHash, Slot, Timestamp};

mod claim;
mod counts;
pub mod file;
mod index;
mod saved;
mod shard;
#[cfg(test)]
mod tests;

pub use claim::{Claim, Claimed};
use counts::SlotCounts;
pub use saved::Saved;
use shard::Shard;

/// Bindings by key: sharded, bounded, with idle expiry.
#[derive(Debug)]
pub struct Table {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    total: AtomicUsize,
    counts: SlotCounts,
    max_entries: AtomicUsize,
    ttl: AtomicU32,
    /// The shard at which the next sweep starts.
    sweep_from: AtomicUsize,
}

impl Table {
    /// Creates a table of at most `max_entries` (0 counts as 1). An entry idle for more than `ttl`
    /// seconds is absent.
    ///
    /// The number of shards depends on `max_entries` and is fixed: about one per 4096 entries, from
    /// 1 (so that small tables evict exactly) to 4096.
    pub fn new(max_entries: usize, ttl: u32) -> Self {
        Self::with_hasher(max_entries, ttl, RandomState::new())
    }

    /// As [`Table::new`], with a given hasher. Benchmarks need a fixed one to do the same work each time;
    /// a server needs a random one, or clients can choose ids that collide.
    pub fn with_hasher(max_entries: usize, ttl: u32, hasher: RandomState) -> Self {
        let shards = match max_entries / ENTRIES_PER_SHARD {
            0 => 1,
            wanted => wanted.next_power_of_two().clamp(MIN_SHARDS, MAX_SHARDS),
        };
        Self {
            shards: (0..shards).map(|_| Mutex::new(Shard::new())).collect(),
            hasher,
            total: AtomicUsize::new(0),
            counts: SlotCounts::new(),
            max_entries: AtomicUsize::new(max_entries.max(1)),
            ttl: AtomicU32::new(ttl),
            sweep_from: AtomicUsize::new(0),
        }
    }

    /// Changes the limits of a table in use (on reload). Entries above a lower bound are evicted
    /// before this returns, the longest-idle of each shard first.
    pub fn set_limits(&self, max_entries: usize, ttl: u32) {
        self.ttl.store(ttl, Ordering::Relaxed);
        self.max_entries.store(max_entries.max(1), Ordering::Relaxed);
        // Evict in rounds, so that all shards contribute and no lock is held for long. A round that
        // finds nothing means that other threads were faster.
        while self.excess() > 0 && self.evict_round() > 0 {}
    }

    /// Returns the maximum number of entries.
    pub fn max_entries(&self) -> usize {
        self.max_entries.load(Ordering::Relaxed)
    }

    /// Returns the seconds without use after which an entry is absent.
    pub fn ttl(&self) -> u32 {
        self.ttl.load(Ordering::Relaxed)
    }

    /// Returns the backend that `key` is bound to and marks it used at `now`.
    pub fn lookup(&self, key: KeyHash, now: Timestamp) -> Option<Slot> {
        self.recall(key, now, true).map(|(slot, _)| slot)
    }

    /// Returns the backend that `key` is bound to and when it was last used. Marks it used at `now`
    /// if `touch` is set.
    pub fn recall(&self, key: KeyHash, now: Timestamp, touch: bool) -> Option<(Slot, Timestamp)> {
        let hash = self.hash(key);
        let mut shard = self.shard(hash).lock();
        let at = shard.find(hash, key)?;
        let (slot, last_seen) = (shard.entry(at).slot(), shard.entry(at).last_seen());
        if self.expired(last_seen, now) {
            self.drop_entry(&mut shard, at);
            return None;
        }
        if touch {
            shard.touch(at, now);
            shard.end_claim(key);
        }
        Some((slot, last_seen))
    }

    /// Returns the backend that `key` is bound to, without marking it used. For operators, not for
    /// requests.
    pub fn peek(&self, key: KeyHash, now: Timestamp) -> Option<Slot> {
        let hash = self.hash(key);
        let shard = self.shard(hash).lock();
        let entry = shard.entry(shard.find(hash, key)?);
        (!self.expired(entry.last_seen(), now)).then_some(entry.slot())
    }

    /// Binds `key`, or rebinds it.
    pub fn bind(&self, key: KeyHash, slot: Slot, now: Timestamp) {
        self.place(key, slot, now, OnBound::Rebind);
    }

    /// Binds `key` unless it is already bound. Returns the slot it is bound to. Two concurrent
    /// first requests of one session therefore agree.
    pub fn bind_if_absent(&self, key: KeyHash, slot: Slot, now: Timestamp) -> Slot {
        self.place(key, slot, now, OnBound::Keep)
    }

    /// Removes `key`.
    pub fn remove(&self, key: KeyHash) {
        let hash = self.hash(key);
        let mut shard = self.shard(hash).lock();
        if let Some(at) = shard.find(hash, key) {
            self.drop_entry(&mut shard, at);
        }
    }

    /// Returns the number of entries, including expired ones that still hold memory.
    pub fn len(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Returns true if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of entries bound to `slot` (exact, O(1)), counted as in [`Table::len`].
    pub fn sessions(&self, slot: Slot) -> usize {
        self.counts.get(slot)
    }

    /// Returns the bytes of memory held. It locks every shard, so it is for operators, not for
    /// requests.
    pub fn memory(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock().memory());
        size_of_val(&*self.shards) + shards.sum::<usize>() + self.counts.memory()
    }

    /// Drops expired entries, at most 64 under one lock and 16,384 in all (a few milliseconds).
    /// Returns how many. It is called about once a second and continues where the last call
    /// stopped. Shards that have become mostly empty free their memory.
    pub fn sweep(&self, now: Timestamp) -> usize {
        let mut dropped = 0;
        let start = self.sweep_from.load(Ordering::Relaxed);
        for at in (start..self.shards.len()).chain(0..start) {
            if dropped + BATCH > MAX_SWEEP {
                self.sweep_from.store(at, Ordering::Relaxed);
                break;
            }
            let mut shard = self.shards[at].lock();
            let before = dropped;
            while dropped - before < BATCH && self.drop_if_expired(&mut shard, now) {
                dropped += 1;
            }
            shard.shrink_if_sparse(&self.hasher);
        }
        dropped
    }

    /// Calls `visit` with every unexpired binding, shard by shard, the longest idle of a shard
    /// first. No lock is held during the call. A binding that changes meanwhile is seen before or
    /// after the change.
    pub fn for_each(&self, now: Timestamp, mut visit: impl FnMut(Saved)) {
        let mut copy = Vec::new();
        for shard in &self.shards {
            copy.clear();
            copy.extend(shard.lock().oldest_first());
            copy.iter().filter(|saved| !self.expired(saved.last_seen, now)).copied().for_each(&mut visit);
        }
    }

    /// Adds bindings as older than all existing ones, so that no live session is evicted. Keys that
    /// are already bound are refused, and so are the oldest bindings beyond the room left. The
    /// order of use is kept (to the second). Returns how many were added.
    fn restore(&self, mut bindings: Vec<Saved>) -> usize {
        let room = self.max_entries().saturating_sub(self.len());
        if bindings.len() > room {
            bindings.select_nth_unstable_by_key(room, |saved| Reverse(saved.last_seen));
            bindings.truncate(room);
        }
        // Shard by shard, to fill each one while it is in the CPU cache.
        bindings
            .sort_unstable_by_key(|saved| (self.shard_of(self.hash(saved.key)), Reverse(saved.last_seen)));
        bindings.into_iter().filter(|saved| self.restore_one(*saved)).count()
    }

    fn restore_one(&self, saved: Saved) -> bool {
        let hash = self.hash(saved.key);
        let mut shard = self.shard(hash).lock();
        let room = !shard.is_full() && shard.find(hash, saved.key).is_none() && self.reserve();
        if room {
            shard.insert_oldest(&self.hasher, hash, saved);
            self.counts.add(saved.slot);
        }
        room
    }

    fn place(&self, key: KeyHash, slot: Slot, now: Timestamp, on_bound: OnBound) -> Slot {
        self.place_and(key, slot, now, on_bound, |_, _| {})
    }

    /// Places a binding and, under the same lock, tells whether the key was absent.
    fn place_and(
        &self,
        key: KeyHash,
        slot: Slot,
        now: Timestamp,
        on_bound: OnBound,
        tell: impl FnOnce(&mut Shard, bool),
    ) -> Slot {
        let hash = self.hash(key);
        let mut reserved = false;
        loop {
            let mut shard = self.shard(hash).lock();
            if let Some(at) = shard.find(hash, key) {
                if reserved {
                    self.total.fetch_sub(1, Ordering::Relaxed);
                }
                let absent = self.expired(shard.entry(at).last_seen(), now);
                let bound = self.refresh(&mut shard, at, slot, now, on_bound);
                shard.end_claim(key);
                tell(&mut shard, absent);
                return bound;
            }
            // Drop two expired entries per insertion, so that a table of expired sessions shrinks.
            let _ = self.drop_if_expired(&mut shard, now) && self.drop_if_expired(&mut shard, now);
            if !shard.is_full() {
                reserved = reserved || self.reserve();
            }
            if !reserved && shard.len() > 0 {
                self.evict_oldest(&mut shard);
                reserved = true;
            }
            if reserved {
                shard.insert_newest(&self.hasher, hash, Saved { key, slot, last_seen: now });
                self.counts.add(slot);
                tell(&mut shard, true);
                return slot;
            }
            // The table is full and this shard is empty: evict from another. That needs the other
            // shard's lock, so release ours and look for the key again.
            drop(shard);
            reserved = self.shards.iter().any(|other| self.evict_oldest(&mut other.lock()));
        }
    }

    /// Handles a request for an existing entry. An expired entry counts as absent.
    fn refresh(&self, shard: &mut Shard, at: u32, slot: Slot, now: Timestamp, on_bound: OnBound) -> Slot {
        let entry = shard.entry(at);
        let before = entry.slot();
        let keep = on_bound == OnBound::Keep && !self.expired(entry.last_seen(), now);
        shard.touch(at, now);
        if keep || before == slot {
            return before;
        }
        shard.set_slot(at, slot);
        self.counts.add(slot);
        self.counts.sub(before);
        slot
    }

    fn expired(&self, last_seen: Timestamp, now: Timestamp) -> bool {
        now.since(last_seen) > self.ttl.load(Ordering::Relaxed)
    }

    /// Drops the longest-idle entry if it has expired.
    fn drop_if_expired(&self, shard: &mut MutexGuard<'_, Shard>, now: Timestamp) -> bool {
        match shard.oldest() {
            Some(at) if self.expired(shard.entry(at).last_seen(), now) => {
                self.drop_entry(shard, at);
                true
            }
            _ => false,
        }
    }

    fn drop_entry(&self, shard: &mut MutexGuard<'_, Shard>, at: u32) {
        let slot = shard.remove(&self.hasher, at);
        self.counts.sub(slot);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Drops the longest-idle entry; the caller takes over its place in the total.
    fn evict_oldest(&self, shard: &mut MutexGuard<'_, Shard>) -> bool {
        let Some(at) = shard.oldest() else { return false };
        let slot = shard.remove(&self.hasher, at);
        self.counts.sub(slot);
        true
    }

    /// Reserves a place in the total if one is free.
    fn reserve(&self) -> bool {
        let max = self.max_entries.load(Ordering::Relaxed);
        let taken =
            self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then(|| n + 1));
        taken.is_ok()
    }

    fn excess(&self) -> usize {
        self.len().saturating_sub(self.max_entries())
    }

    /// Evicts up to a batch from every shard, but not more than the excess.
    fn evict_round(&self) -> usize {
        let share = self.excess().div_ceil(self.shards.len()).min(BATCH);
        let mut evicted = 0;
        for shard in &self.shards {
            let mut shard = shard.lock();
            for _ in 0..share.min(self.excess()) {
                let Some(at) = shard.oldest() else { break };
                self.drop_entry(&mut shard, at);
                evicted += 1;
            }
        }
        evicted
    }

    fn hash(&self, key: KeyHash) -> u64 {
        self.hasher.hash_one(key.0)
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[self.shard_of(hash)]
    }

    /// Returns the shard of a hash: its top bits. The shard uses the others.
    fn shard_of(&self, hash: u64) -> usize {
        let bits = self.shards.len().trailing_zeros();
        // Two shifts, since a single shift by 64 would overflow.
        (hash >> 32 >> (32 - bits)) as usize
    }
}

/// What `place` does with a key that is already bound.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnBound {
    Keep,
    Rebind,
}

/// Small shards keep the time under a lock short (growing one copies 16 KB of index). They are
/// still large enough for the longest-idle entry of a shard to be nearly the longest-idle of all.
const ENTRIES_PER_SHARD: usize = 4096;
const MIN_SHARDS: usize = 16;
const MAX_SHARDS: usize = 4096;
/// Entries dropped under one lock.
const BATCH: usize = 64;
/// Entries dropped in one sweep.
const MAX_SWEEP: usize = 16_384;
