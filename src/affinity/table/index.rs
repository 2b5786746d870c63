//! Maps a key's hash to its entry: open addressing with linear probing.
//!
//! A cell holds the entry's place (24 bits) and 8 bits of the hash, so that a probe rarely touches
//! a wrong entry. The index grows by at most a quarter when it is four fifths full: 5 to 6.25 bytes
//! per entry. Removal shifts the following cells back, so there are no tombstones and only growth
//! rehashes.

/// Cells by hash. It knows only the place of an entry.
#[derive(Debug, Default)]
pub(super) struct Index {
    cells: Box<[u32]>,
    len: usize,
}

impl Index {
    /// Returns the place of the entry with this hash that `is_it` accepts.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.cells.is_empty() {
            return None;
        }
        let tag = tag_of(hash);
        let mut at = self.home(hash);
        loop {
            let cell = self.cells[at];
            if cell == EMPTY {
                return None;
            }
            let place = cell & PLACE;
            if cell & !PLACE == tag && is_it(place) {
                return Some(place);
            }
            at = self.after(at);
        }
    }

    /// Adds an entry. `hash_of` returns the hash of existing entries, for when the index grows.
    pub(super) fn insert(&mut self, hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) {
        debug_assert!(place < MAX_PLACES, "a place has 24 bits");
        if (self.len + 1) * 5 > self.cells.len() * 4 {
            let old = std::mem::take(&mut self.cells);
            self.cells = vec![EMPTY; larger(old.len())].into_boxed_slice();
            for cell in old.into_iter().filter(|cell| *cell != EMPTY) {
                self.put(hash_of(cell & PLACE), cell);
            }
        }
        self.put(hash, tag_of(hash) | place);
        self.len += 1;
    }

    /// Removes the entry at `place` with this `hash`; it must exist.
    pub(super) fn remove(&mut self, hash: u64, place: u32, hash_of: impl Fn(u32) -> u64) {
        let cell = tag_of(hash) | place;
        let mut hole = self.home(hash);
        while self.cells[hole] != cell {
            debug_assert_ne!(self.cells[hole], EMPTY, "the entry is indexed");
            if self.cells[hole] == EMPTY {
                return;
            }
            hole = self.after(hole);
        }
        let mut at = hole;
        loop {
            at = self.after(at);
            let cell = self.cells[at];
            if cell == EMPTY {
                break;
            }
            // A cell may move back into the hole unless the hole is before its home.
            let home = self.home(hash_of(cell & PLACE));
            if self.distance(home, at) >= self.distance(hole, at) {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = EMPTY;
        self.len -= 1;
    }

    /// Returns the bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.cells)
    }

    fn put(&mut self, hash: u64, cell: u32) {
        let mut at = self.home(hash);
        while self.cells[at] != EMPTY {
            at = self.after(at);
        }
        self.cells[at] = cell;
    }

    /// Returns where probing begins: the low half of the hash, scaled to the number of cells.
    fn home(&self, hash: u64) -> usize {
        (((hash & 0xffff_ffff) * self.cells.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.cells.len() { 0 } else { at + 1 }
    }

    /// Returns the steps from `from` to `to`, wrapping around the end.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.cells.len() - from }
    }
}

/// Returns the eight bits of the hash stored in a cell.
#[expect(clippy::cast_possible_truncation, reason = "masked to the top byte of 32 bits")]
fn tag_of(hash: u64) -> u32 {
    (hash >> 8) as u32 & !PLACE
}

/// Returns the next number of cells. There are four sizes per doubling, which match the size
/// classes of allocators, so that nothing is lost to rounding up.
fn larger(cells: usize) -> usize {
    match cells.checked_ilog2() {
        Some(bits) if cells >= MIN_CELLS => cells + (1 << bits) / 4,
        _ => MIN_CELLS,
    }
}

/// The maximum number of entries in one index; the last place is [`EMPTY`]'s.
pub(super) const MAX_PLACES: u32 = PLACE;

const PLACE: u32 = 0x00ff_ffff;
const EMPTY: u32 = u32::MAX;
const MIN_CELLS: usize = 16;
