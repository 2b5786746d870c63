//! One shard: entries in pages, an index over them, and the order of use of each class.

use ahash::{HashSet, RandomState};

use super::index::{Index, MAX_PLACES};
use super::saved::Saved;
use super::tag::{Class, Tag};
use crate::affinity::{SessionName, Slot, Timestamp};

/// A map that knows its least recently used key of each class. All operations are O(1) except growth, which
/// copies the index (never the entries).
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "growing must not copy entries or double their memory")]
pub(super) struct Shard {
    pages: Vec<Box<Page>>,
    index: Index,
    len: u32,
    /// Places below this have been used.
    used: u32,
    /// The first free place below `used`; free places are linked by `older`.
    free: u32,
    /// The ends of the order of use, by [`Class`].
    ends: [Ends; 3],
    /// Names whose binding was found by no request but the one that made it and is in flight.
    claims: HashSet<SessionName>,
}

/// The newest and the oldest entry of a class.
#[derive(Debug, Clone, Copy)]
struct Ends {
    newest: u32,
    oldest: u32,
}

impl Ends {
    const NONE: Self = Self { newest: NONE, oldest: NONE };
}

/// One binding, linked into the order of use of its class. Its 192 bits are packed by hand: plain
/// fields would take 32 bytes because of alignment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    name: [u32; 2],
    last_seen: Timestamp,
    /// The place of the next newer entry (24 bits) and the slot's high byte.
    newer_and_slot: u32,
    /// The place of the next older entry (24 bits) and the slot's low byte.
    older_and_slot: u32,
    tag: Tag,
}

impl Entry {
    const VACANT: Self = Self {
        name: [0; 2],
        last_seen: Timestamp(0),
        newer_and_slot: NONE,
        older_and_slot: NONE,
        tag: Tag::VACANT,
    };

    #[inline]
    pub(super) fn name(&self) -> SessionName {
        SessionName(u64::from(self.name[0]) | u64::from(self.name[1]) << 32)
    }

    pub(super) fn last_seen(&self) -> Timestamp {
        self.last_seen
    }

    pub(super) fn tag(&self) -> Tag {
        self.tag
    }

    pub(super) fn slot(&self) -> Slot {
        let [_, _, _, high] = self.newer_and_slot.to_le_bytes();
        let [_, _, _, low] = self.older_and_slot.to_le_bytes();
        Slot(u16::from_be_bytes([high, low]))
    }

    fn newer(&self) -> u32 {
        self.newer_and_slot & NONE
    }

    fn older(&self) -> u32 {
        self.older_and_slot & NONE
    }

    #[expect(clippy::cast_possible_truncation, reason = "split into two halves")]
    fn set_name(&mut self, name: SessionName) {
        self.name = [name.0 as u32, (name.0 >> 32) as u32];
    }

    fn set_slot(&mut self, slot: Slot) {
        let [high, low] = slot.0.to_be_bytes().map(u32::from);
        self.newer_and_slot = self.newer() | high << 24;
        self.older_and_slot = self.older() | low << 24;
    }

    fn set_newer(&mut self, place: u32) {
        self.newer_and_slot = self.newer_and_slot & !NONE | place;
    }

    fn set_older(&mut self, place: u32) {
        self.older_and_slot = self.older_and_slot & !NONE | place;
    }
}

// The documented "at most 32 bytes per entry" is the sum of 24 here, at most 6.25 in the index, and
// half an unused page per shard.
const _: () = assert!(size_of::<Entry>() == 24);

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            pages: Vec::new(),
            index: Index::default(),
            len: 0,
            used: 0,
            free: NONE,
            ends: [Ends::NONE; 3],
            claims: HashSet::default(),
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    /// Returns the bytes of memory held, excluding the shard itself.
    pub(super) fn memory(&self) -> usize {
        self.pages.len() * size_of::<Page>()
            + self.pages.capacity() * size_of::<Box<Page>>()
            + self.index.memory()
    }

    /// Returns true if the index has no free place left.
    pub(super) fn is_full(&self) -> bool {
        self.len == MAX_PLACES
    }

    /// Returns the place of `name`, which has this `hash`.
    #[inline]
    pub(super) fn find(&self, hash: u64, name: SessionName) -> Option<u32> {
        self.index.find(hash, |at| self.entry(at).name() == name)
    }

    /// Returns the entry at a place from `find` or `oldest`.
    #[inline]
    pub(super) fn entry(&self, at: u32) -> &Entry {
        &self.pages[page(at)][within(at)]
    }

    /// Returns the place of the least recently used entry of a class.
    pub(super) fn oldest(&self, class: Class) -> Option<u32> {
        let oldest = self.ends[class as usize].oldest;
        (oldest != NONE).then_some(oldest)
    }

    /// Returns a place that may have an entry, chosen by a random number.
    pub(super) fn random(&self, random: u32) -> Option<u32> {
        let at = (u64::from(random) * u64::from(self.used)) >> 32;
        u32::try_from(at).ok().filter(|at| *at < self.used && self.entry(*at).tag.class().is_some())
    }

    /// Returns all entries, the longest idle first.
    pub(super) fn oldest_first(&self) -> impl Iterator<Item = Saved> {
        let mut next = Class::ALL.map(|class| self.oldest(class));
        std::iter::from_fn(move || {
            let seen = |place: &Option<u32>| place.map(|at| self.entry(at).last_seen);
            let (list, _) = next
                .iter()
                .enumerate()
                .filter(|(_, place)| place.is_some())
                .min_by_key(|(_, place)| seen(place))?;
            let entry = self.entry(next[list]?);
            next[list] = (entry.newer() != NONE).then_some(entry.newer());
            let (name, slot, tag) = (entry.name(), entry.slot(), entry.tag);
            Some(Saved { name, slot, last_seen: entry.last_seen, tag })
        })
    }

    /// Marks an entry as used at `now`.
    #[inline]
    pub(super) fn touch(&mut self, at: u32, now: Timestamp) {
        let entry = self.entry_mut(at);
        // The order of use within one second is not kept. This saves most requests of a busy
        // session four cache misses.
        if entry.last_seen == now {
            return;
        }
        entry.last_seen = now;
        if entry.newer() != NONE {
            self.unlink(at);
            self.link_newest(at);
        }
    }

    /// Changes the tag of an entry, which becomes the most recently used of its class if that is
    /// another one.
    pub(super) fn set_tag(&mut self, at: u32, tag: Tag) {
        if self.entry(at).tag.class() == tag.class() {
            self.entry_mut(at).tag = tag;
        } else {
            self.unlink(at);
            self.entry_mut(at).tag = tag;
            self.link_newest(at);
        }
    }

    /// Changes when an entry was last used, without changing its place in the order.
    pub(super) fn set_last_seen(&mut self, at: u32, last_seen: Timestamp) {
        self.entry_mut(at).last_seen = last_seen;
    }

    pub(super) fn set_slot(&mut self, at: u32, slot: Slot) {
        self.entry_mut(at).set_slot(slot);
    }

    /// Adds an entry as the most recently used of its class. The name must be absent.
    pub(super) fn insert_newest(&mut self, hasher: &RandomState, hash: u64, new: Saved) {
        let at = self.insert(hasher, hash, new);
        self.link_newest(at);
    }

    /// Adds an entry as the longest idle of its class. The name must be absent.
    pub(super) fn insert_oldest(&mut self, hasher: &RandomState, hash: u64, new: Saved) {
        let at = self.insert(hasher, hash, new);
        let ends = self.ends_of(at);
        let newer = std::mem::replace(&mut ends.oldest, at);
        if newer == NONE {
            ends.newest = at;
        }
        let entry = self.entry_mut(at);
        entry.set_newer(newer);
        entry.set_older(NONE);
        match newer {
            NONE => {}
            newer => self.entry_mut(newer).set_older(at),
        }
    }

    /// Records that only the request that bound `name` knows the binding.
    pub(super) fn begin_claim(&mut self, name: SessionName) {
        self.claims.insert(name);
    }

    /// Records that others rely on the binding of `name`, or that its request was answered. Returns
    /// whether it was claimed until now.
    #[inline]
    pub(super) fn end_claim(&mut self, name: SessionName) -> bool {
        !self.claims.is_empty() && self.claims.remove(&name)
    }

    /// Removes the entry at `at` and returns what it was.
    pub(super) fn remove(&mut self, hasher: &RandomState, at: u32) -> (Slot, Tag) {
        let Entry { tag, .. } = *self.entry(at);
        let (name, slot) = (self.entry(at).name(), self.entry(at).slot());
        self.end_claim(name);
        let Self { index, pages, .. } = self;
        index.remove(hasher.hash_one(name.0), at, |at| hash_at(pages, hasher, at));
        self.unlink(at);
        let free = std::mem::replace(&mut self.free, at);
        let entry = self.entry_mut(at);
        entry.set_older(free);
        entry.tag = Tag::VACANT;
        self.len -= 1;
        (slot, tag)
    }

    /// Frees memory after most entries have been removed.
    pub(super) fn shrink_if_sparse(&mut self, hasher: &RandomState) {
        let sparse = self.used as usize > PAGE && self.len < self.used / 4;
        if sparse || (self.len == 0 && self.used > 0) {
            let mut fresh = Self { claims: std::mem::take(&mut self.claims), ..Self::new() };
            for saved in self.oldest_first() {
                fresh.insert_newest(hasher, hasher.hash_one(saved.name.0), saved);
            }
            *self = fresh;
        }
    }

    fn insert(&mut self, hasher: &RandomState, hash: u64, new: Saved) -> u32 {
        let at = self.take_place();
        let entry = self.entry_mut(at);
        entry.set_name(new.name);
        entry.set_slot(new.slot);
        entry.tag = new.tag;
        entry.last_seen = new.last_seen;
        let Self { index, pages, .. } = self;
        index.insert(hash, at, |at| hash_at(pages, hasher, at));
        self.len += 1;
        at
    }

    fn take_place(&mut self) -> u32 {
        if self.free != NONE {
            let at = self.free;
            self.free = self.entry(at).older();
            return at;
        }
        let at = self.used;
        if page(at) == self.pages.len() {
            // One at a time: doubling would leave half of it empty.
            self.pages.reserve_exact(1);
            self.pages.push(Box::new([Entry::VACANT; PAGE]));
        }
        self.used += 1;
        at
    }

    fn link_newest(&mut self, at: u32) {
        let ends = self.ends_of(at);
        let older = std::mem::replace(&mut ends.newest, at);
        if older == NONE {
            ends.oldest = at;
        }
        let entry = self.entry_mut(at);
        entry.set_newer(NONE);
        entry.set_older(older);
        if older != NONE {
            self.entry_mut(older).set_newer(at);
        }
    }

    fn unlink(&mut self, at: u32) {
        let (newer, older) = (self.entry(at).newer(), self.entry(at).older());
        match newer {
            NONE => self.ends_of(at).newest = older,
            newer => self.entry_mut(newer).set_older(older),
        }
        match older {
            NONE => self.ends_of(at).oldest = newer,
            older => self.entry_mut(older).set_newer(newer),
        }
    }

    /// Returns the ends of the order that the entry at `at` is in.
    fn ends_of(&mut self, at: u32) -> &mut Ends {
        let class = self.entry(at).tag.class().unwrap_or(Class::Unminted);
        &mut self.ends[class as usize]
    }

    fn entry_mut(&mut self, at: u32) -> &mut Entry {
        &mut self.pages[page(at)][within(at)]
    }
}

/// 2040 bytes: small enough to leave little unused, large enough to be few, and nearly a power of
/// two. mimalloc wastes 18 % on pages of 1536 or 3072 bytes, and 1 % on these.
const PAGE: usize = 85;
type Page = [Entry; PAGE];

/// No place. Also the mask of a place's 24 bits.
const NONE: u32 = MAX_PLACES;

fn page(at: u32) -> usize {
    at as usize / PAGE
}

fn within(at: u32) -> usize {
    at as usize % PAGE
}

fn hash_at(pages: &[Box<Page>], hasher: &RandomState, at: u32) -> u64 {
    hasher.hash_one(pages[page(at)][within(at)].name().0)
}
