//! The table: bindings stored in the proxy.
//!
//! The table has shards with their own locks, chosen by a keyed hash of the name, so that neither a
//! fleet's traffic nor a client that chooses its session ids overloads one shard. The number of
//! entries is bounded over all shards; `room` decides who goes when the table is full. An entry idle
//! for more than the TTL is absent for every reader at once; later operations on its shard or
//! [`Table::sweep`] free its memory.
//!
//! Invariant: `total` and the other counts change under the lock of the shard whose entry they
//! count. They are exact whenever no operation is in progress, and never below zero.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};

use super::name::{NameSecret, Namer, Scope};
use super::{SessionName, Slot, Timestamp};

mod claim;
mod counts;
pub mod file;
mod index;
mod place;
mod restore;
mod room;
mod saved;
mod shard;
mod successions;
mod tag;
#[cfg(test)]
mod tests;

pub use claim::{Claim, Claimed};
use counts::Counts;
pub use saved::Saved;
use shard::{Entry, Shard};
use successions::Successions;
pub use tag::{Class, Tag};

/// Bindings by session: sharded, bounded, with idle expiry.
#[derive(Debug)]
pub struct Table {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Drawn when first used, unless a file brings one.
    namer: OnceLock<Namer>,
    total: AtomicUsize,
    /// Entries by slot.
    counts: Counts,
    /// Unminted entries by owner.
    owners: Counts,
    successions: Successions,
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
            namer: OnceLock::new(),
            total: AtomicUsize::new(0),
            counts: Counts::new(),
            owners: Counts::new(),
            successions: Successions::default(),
            max_entries: AtomicUsize::new(max_entries.max(1)),
            ttl: AtomicU32::new(ttl),
            sweep_from: AtomicUsize::new(0),
        }
    }

    /// Changes the limits of a table in use (on reload). Entries above a lower bound are evicted
    /// before this returns, unminted ones and the longest-idle of each shard first.
    pub fn set_limits(&self, max_entries: usize, ttl: u32) {
        self.ttl.store(ttl, Ordering::Relaxed);
        self.max_entries.store(max_entries.max(1), Ordering::Relaxed);
        // Evict in rounds, so that all shards contribute and no lock is held for long. A round that
        // finds nothing means that other threads were faster.
        while self.excess() > 0 && self.evict_round() > 0 {}
    }

    /// Returns what names its sessions.
    pub fn namer(&self) -> &Namer {
        self.namer.get_or_init(|| Namer::new(NameSecret::random()))
    }

    /// Makes it name its sessions as the table that a file was saved from. Returns false if it has
    /// named sessions otherwise already.
    fn adopt(&self, secret: NameSecret) -> bool {
        self.namer.get_or_init(|| Namer::new(secret)).secret() == secret
    }

    /// Returns the maximum number of entries.
    pub fn max_entries(&self) -> usize {
        self.max_entries.load(Ordering::Relaxed)
    }

    /// Returns the seconds without use after which an entry is absent.
    pub fn ttl(&self) -> u32 {
        self.ttl.load(Ordering::Relaxed)
    }

    /// Returns the backend that a session is bound to, because a request of it has arrived. Marks it
    /// used at `now`.
    pub fn lookup(&self, name: SessionName, now: Timestamp) -> Option<Slot> {
        self.recall(name, now, true).map(|(slot, _)| slot)
    }

    /// Returns the backend that a session is bound to and when it was last used, because a request of
    /// it has arrived. Marks it used at `now` if `mark` is set.
    pub fn recall(&self, name: SessionName, now: Timestamp, mark: bool) -> Option<(Slot, Timestamp)> {
        let hash = self.hash(name);
        let mut shard = self.shard(hash).lock();
        let at = shard.find(hash, name)?;
        let entry = shard.entry(at);
        let (slot, last_seen, tag) = (entry.slot(), entry.last_seen(), entry.tag());
        if self.expired(entry, now) {
            self.drop_entry(&mut shard, at);
            return None;
        }
        if mark {
            touch(&mut shard, at, now);
        }
        shard.end_claim(name);
        if tag.is_unused() {
            shard.set_tag(at, tag.used());
            drop(shard);
            self.successions.take(name).into_iter().for_each(|obsolete| self.retire(obsolete, now));
        }
        Some((slot, last_seen))
    }

    /// Marks a session as used at `now`, because one of its exchanges is in progress or has ended. Does
    /// nothing if it is gone.
    pub fn touch(&self, name: SessionName, now: Timestamp) {
        let hash = self.hash(name);
        let mut shard = self.shard(hash).lock();
        if let Some(at) = shard.find(hash, name) {
            touch(&mut shard, at, now);
        }
    }

    /// Returns the backend that a session is bound to, without marking it used.
    pub fn peek(&self, name: SessionName, now: Timestamp) -> Option<Slot> {
        self.find(name, now).map(|saved| saved.slot)
    }

    /// Binds a session whose id a backend has set in this scope. If the request had another id
    /// (`before`) from the same scope, the new id replaces that one as soon as the client sends it.
    pub fn learn(
        &self,
        name: SessionName,
        slot: Slot,
        scope: Scope,
        before: Option<SessionName>,
        now: Timestamp,
    ) {
        let before = before.filter(|before| {
            let known = self.find(*before, now);
            *before != name && known.is_some_and(|old| old.slot == slot && old.tag.scope() == Some(scope))
        });
        let tag = Tag::minted(scope);
        if let Some(before) = before {
            self.successions.note(before, name);
        }
        let tag = if before.is_some() { tag.unused() } else { tag };
        self.rebind(Saved { name, slot, last_seen: now, tag });
    }

    /// Notes that a backend has set the id that the request had already. Where its session is bound
    /// does not change.
    pub fn confirm(&self, name: SessionName, scope: Scope) {
        let hash = self.hash(name);
        let mut shard = self.shard(hash).lock();
        if let Some(at) = shard.find(hash, name) {
            self.retag(&mut shard, at, Tag::minted(scope));
        }
    }

    /// Removes the session at `slot` whose id a response deletes in this scope, if that is where the id
    /// was set. If it is unknown where it was set, it counts as set for the whole host. Returns whether
    /// the session has ended; one that is not in the table may have been known elsewhere.
    pub fn delete(&self, name: SessionName, slot: Slot, scope: Scope) -> bool {
        let root = self.namer().root_scope();
        let hash = self.hash(name);
        let mut shard = self.shard(hash).lock();
        let Some(at) = shard.find(hash, name) else { return scope == root };
        let entry = shard.entry(at);
        let ends = entry.slot() == slot && entry.tag().scope().unwrap_or(root) == scope;
        if ends {
            self.drop_entry(&mut shard, at);
        }
        ends
    }

    /// Removes a session.
    pub fn remove(&self, name: SessionName) {
        let hash = self.hash(name);
        let mut shard = self.shard(hash).lock();
        if let Some(at) = shard.find(hash, name) {
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
        self.counts.get(slot.0)
    }

    /// Returns the bytes of memory held. It locks every shard, so it is for operators, not for
    /// requests.
    pub fn memory(&self) -> usize {
        let shards = self.shards.iter().map(|shard| shard.lock().memory());
        size_of_val(&*self.shards) + shards.sum::<usize>() + self.counts.memory() + self.owners.memory()
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

    /// Returns an unexpired binding.
    fn find(&self, name: SessionName, now: Timestamp) -> Option<Saved> {
        let hash = self.hash(name);
        let shard = self.shard(hash).lock();
        let entry = shard.entry(shard.find(hash, name)?);
        let (slot, last_seen, tag) = (entry.slot(), entry.last_seen(), entry.tag());
        (!self.expired(entry, now)).then_some(Saved { name, slot, last_seen, tag })
    }

    /// Makes a session expire soon, because another id has replaced its own.
    fn retire(&self, name: SessionName, now: Timestamp) {
        let hash = self.hash(name);
        let mut shard = self.shard(hash).lock();
        if let Some(at) = shard.find(hash, name) {
            let tag = shard.entry(at).tag();
            if tag.class() == Some(Class::Minted) {
                shard.set_last_seen(at, now);
                self.retag(&mut shard, at, Tag::RETIRED);
            }
        }
    }

    /// Changes the tag of an entry and keeps the counts right.
    fn retag(&self, shard: &mut MutexGuard<'_, Shard>, at: u32, tag: Tag) {
        if let Some(owner) = shard.entry(at).tag().owner() {
            self.owners.sub(owner.0);
        }
        shard.set_tag(at, tag);
        if let Some(owner) = tag.owner() {
            self.owners.add(owner.0);
        }
    }

    fn count(&self, slot: Slot, tag: Tag) {
        self.counts.add(slot.0);
        if let Some(owner) = tag.owner() {
            self.owners.add(owner.0);
        }
    }

    /// Returns the seconds without use after which an entry is absent.
    fn lifetime(&self, tag: Tag) -> u32 {
        let ttl = self.ttl.load(Ordering::Relaxed);
        if tag.class() == Some(Class::Retired) { ttl.min(RETIRED) } else { ttl }
    }

    fn expired(&self, entry: &Entry, now: Timestamp) -> bool {
        now.since(entry.last_seen()) > self.lifetime(entry.tag())
    }

    /// Drops the longest-idle entry of a class if it has expired.
    fn drop_if_expired(&self, shard: &mut MutexGuard<'_, Shard>, now: Timestamp) -> bool {
        let expired = |class: &Class| shard.oldest(*class).filter(|at| self.expired(shard.entry(*at), now));
        let found = Class::ALL.iter().find_map(expired);
        if let Some(at) = found {
            self.drop_entry(shard, at);
        }
        found.is_some()
    }

    fn drop_entry(&self, shard: &mut MutexGuard<'_, Shard>, at: u32) {
        self.evict(shard, at);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Drops an entry; the caller takes over its place in the total.
    fn evict(&self, shard: &mut MutexGuard<'_, Shard>, at: u32) {
        let (slot, tag) = shard.remove(&self.hasher, at);
        self.counts.sub(slot.0);
        if let Some(owner) = tag.owner() {
            self.owners.sub(owner.0);
        }
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

    fn hash(&self, name: SessionName) -> u64 {
        self.hasher.hash_one(name.0)
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

/// Marks an entry as used. A retired one is not kept by that.
fn touch(shard: &mut MutexGuard<'_, Shard>, at: u32, now: Timestamp) {
    if shard.entry(at).tag().class() != Some(Class::Retired) {
        shard.touch(at, now);
    }
}

/// Small shards keep the time under a lock short (growing one copies 16 KB of index). They are
/// still large enough for the longest-idle entry of a shard to be nearly the longest-idle of all.
const ENTRIES_PER_SHARD: usize = 4096;
const MIN_SHARDS: usize = 16;
const MAX_SHARDS: usize = 4096;
/// Seconds for which a retired id is still found: by requests that were sent before the client got the
/// new one.
const RETIRED: u32 = 5;
/// Entries dropped under one lock.
const BATCH: usize = 64;
/// Entries dropped in one sweep.
const MAX_SWEEP: usize = 16_384;
