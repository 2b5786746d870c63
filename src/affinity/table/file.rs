//! The table on disk: saved at shutdown, loaded at the next start.
//!
//! Version 1, little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `HOMINGTB` |
//! | 4 | version, 1 |
//! | 8 | digest of the ring's seed |
//! | 4 | time of saving, seconds since the epoch |
//! | 4 + … | number of backend ids, then each: length (1), bytes |
//! | … | blocks: number of bindings (4), then each: key (8), index of the backend id (2), last seen (4); a block of 0 ends them |
//! | 8 | number of bindings in all |
//! | 8 | XXH3-64 of everything before |
//!
//! Backends are named by id, because slots are numbers of one process only.
//! Keys are hashes under the ring's seed, so a file is worth nothing under
//! another seed; its digest (SHA-256, cut) tells without telling the seed.
//! A file is loaded whole or not at all: nothing is bound before the checksum
//! has been seen to be right.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use xxhash_rust::xxh3::Xxh3Default;

use super::Table;
use super::saved::Saved;
use crate::affinity::{BackendId, KeyHash, Seed, Slot, Timestamp};

#[cfg(test)]
mod tests;

/// What was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// When the file was saved.
    pub saved_at: Timestamp,
    /// Bindings that are in the table now.
    pub restored: usize,
    /// Bindings that had expired since.
    pub expired: usize,
    /// Bindings to backends that nobody knows any more.
    pub unknown: usize,
    /// Bindings that were bound already, or for which there was no room.
    pub refused: usize,
}

/// Why a file could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system said no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// What is there is not a table.
    #[error("the content of the table file cannot be used")]
    Content(#[from] ContentError),
}

/// Why bytes are not a table.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It does not begin as a table file does.
    #[error("not a table file")]
    Foreign,
    /// Written by another version of the format.
    #[error("table file version {0}; this Homing reads version 1")]
    Version(u32),
    /// It ends too early.
    #[error("the table file is cut off")]
    Truncated,
    /// It is not what was written.
    #[error("the table file is damaged: {0}")]
    Corrupt(&'static str),
    /// Its keys were hashed under another seed.
    #[error("the table file belongs to another ring seed")]
    OtherSeed,
    /// It cannot be read.
    #[error("the table file cannot be read")]
    Read(#[source] io::Error),
}

/// Saves the bindings that have not expired at `now` to `path`, in place of
/// what is there, at once or not at all; mode 0600. Returns how many.
///
/// `id_of` names a slot's backend; bindings of a slot without one are left out.
pub fn save(
    table: &Table,
    path: &Path,
    seed: Seed,
    now: Timestamp,
    id_of: impl FnMut(Slot) -> Option<BackendId>,
) -> Result<u64, FileError> {
    let io = |action| move |source| FileError::Io { action, path: path.to_owned(), source };
    // A name of our own: two processes (an upgrade) may save at the same time.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.{}.tmp", std::process::id(), SAVES.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io("create a file next to"))?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        let written = write(table, &mut out, seed, now, id_of).map_err(io("write"))?;
        let file = out.into_inner().map_err(|error| io("write")(error.into_error()))?;
        file.sync_all().map_err(io("write"))?;
        fs::rename(&temporary, path).map_err(io("replace"))?;
        Ok(written)
    })();
    if written.is_err() {
        // It may not be there at all; the first error is the one that counts.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The new name lasts only once its directory does.
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("sync the directory of"))?;
    written
}

/// Adds to `table` what `path` holds; see [`read`].
pub fn load(
    table: &Table,
    path: &Path,
    seed: Seed,
    now: Timestamp,
    slot_of: impl FnMut(&BackendId) -> Option<Slot>,
) -> Result<Loaded, FileError> {
    let file =
        File::open(path).map_err(|source| FileError::Io { action: "open", path: path.to_owned(), source })?;
    Ok(read(table, BufReader::with_capacity(BUFFER, file), seed, now, slot_of)?)
}

/// Writes the bindings that have not expired; see [`save`]. Needs memory for
/// one shard at a time.
pub fn write(
    table: &Table,
    out: impl Write,
    seed: Seed,
    now: Timestamp,
    mut id_of: impl FnMut(Slot) -> Option<BackendId>,
) -> io::Result<u64> {
    let mut out = Writer { out, sum: Xxh3Default::new() };
    out.put(MAGIC)?;
    out.put(&VERSION.to_le_bytes())?;
    out.put(&seed_digest(seed))?;
    out.put(&now.0.to_le_bytes())?;

    let ids: Vec<(Slot, BackendId)> = (0..=u16::MAX)
        .map(Slot)
        .filter(|slot| table.sessions(*slot) > 0)
        .filter_map(|slot| Some((slot, id_of(slot)?)))
        .collect();
    let mut index_of = HashMap::with_capacity_and_hasher(ids.len(), ahash::RandomState::new());
    out.put(&u32::try_from(ids.len()).map_err(io::Error::other)?.to_le_bytes())?;
    for (index, (slot, id)) in (0u16..=u16::MAX).zip(&ids) {
        index_of.insert(*slot, index);
        out.put(&[u8::try_from(id.as_str().len()).map_err(io::Error::other)?])?;
        out.put(id.as_str().as_bytes())?;
    }

    let mut total = 0;
    let mut result = Ok(());
    let mut block = Vec::with_capacity(BLOCK * RECORD);
    table.for_each(now, |saved| {
        // A slot that came into use since the ids were written has no index.
        let Some(index) = index_of.get(&saved.slot) else { return };
        if result.is_err() {
            return;
        }
        block.extend_from_slice(&saved.key.0.to_le_bytes());
        block.extend_from_slice(&index.to_le_bytes());
        block.extend_from_slice(&saved.last_seen.0.to_le_bytes());
        total += 1;
        if block.len() == BLOCK * RECORD {
            result = out.put_block(&block);
            block.clear();
        }
    });
    result?;
    if !block.is_empty() {
        out.put_block(&block)?;
    }
    out.put(&0u32.to_le_bytes())?;
    out.put(&u64::to_le_bytes(total))?;
    let sum = out.sum.digest();
    out.out.write_all(&sum.to_le_bytes())?;
    out.out.flush()?;
    Ok(total)
}

/// Adds to `table` what was written by [`write()`], all of it or, on an error,
/// nothing. What is bound already stays as it is; of more bindings than there
/// is room for, the youngest are taken. The order of use is kept.
///
/// `slot_of` gives a backend's slot; bindings to a backend without one are
/// left out. Needs 16 bytes for each binding while it runs.
pub fn read(
    table: &Table,
    input: impl Read,
    seed: Seed,
    now: Timestamp,
    mut slot_of: impl FnMut(&BackendId) -> Option<Slot>,
) -> Result<Loaded, ContentError> {
    let mut input = Reader { input, sum: Xxh3Default::new() };
    let magic = input.take::<8>().map_err(|error| match error {
        ContentError::Truncated => ContentError::Foreign,
        other => other,
    })?;
    if magic != *MAGIC {
        return Err(ContentError::Foreign);
    }
    let version = input.u32()?;
    if version != VERSION {
        return Err(ContentError::Version(version));
    }
    let seed_matches = input.take::<8>()? == seed_digest(seed);
    let saved_at = Timestamp(input.u32()?);

    let count = input.u32()?;
    if count > u32::from(u16::MAX) + 1 {
        return Err(ContentError::Corrupt("too many backends"));
    }
    let mut slots = Vec::new();
    for _ in 0..count {
        let mut id = [0; u8::MAX as usize];
        let [len] = input.take::<1>()?;
        let id = &mut id[..usize::from(len)];
        input.fill(id)?;
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse::<BackendId>().ok());
        slots.push(slot_of(&id.ok_or(ContentError::Corrupt("not a backend id"))?));
    }

    let mut loaded = Loaded { saved_at, restored: 0, expired: 0, unknown: 0, refused: 0 };
    let mut bindings = Vec::new();
    let mut total = 0u64;
    let mut block = Vec::new();
    loop {
        let count = input.u32()? as usize;
        if count == 0 {
            break;
        }
        if count > BLOCK {
            return Err(ContentError::Corrupt("a block is too long"));
        }
        block.resize(count * RECORD, 0);
        input.fill(&mut block)?;
        total += count as u64;
        for record in block.chunks_exact(RECORD) {
            let (key, rest) = record.split_at(8);
            let (index, last_seen) = rest.split_at(2);
            let slot = slots.get(usize::from(u16::from_le_bytes(exact(index)?)));
            let slot = slot.ok_or(ContentError::Corrupt("no such backend"))?;
            let key = KeyHash(u64::from_le_bytes(exact(key)?));
            let last_seen = Timestamp(u32::from_le_bytes(exact(last_seen)?));
            if now.since(last_seen) > table.ttl() {
                loaded.expired += 1;
            } else if let Some(slot) = *slot {
                bindings.push(Saved { key, slot, last_seen });
            } else {
                loaded.unknown += 1;
            }
        }
    }
    if u64::from_le_bytes(input.take::<8>()?) != total {
        return Err(ContentError::Corrupt("wrong number of bindings"));
    }
    let sum = input.sum.digest();
    if u64::from_le_bytes(input.take::<8>()?) != sum {
        return Err(ContentError::Corrupt("wrong checksum"));
    }
    if !matches!(input.take::<1>(), Err(ContentError::Truncated)) {
        return Err(ContentError::Corrupt("something follows its end"));
    }
    if !seed_matches {
        return Err(ContentError::OtherSeed);
    }

    let usable = bindings.len();
    loaded.restored = table.restore(bindings);
    loaded.refused = usable - loaded.restored;
    Ok(loaded)
}

struct Writer<W> {
    out: W,
    sum: Xxh3Default,
}

impl<W: Write> Writer<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }

    fn put_block(&mut self, block: &[u8]) -> io::Result<()> {
        self.put(&u32::try_from(block.len() / RECORD).map_err(io::Error::other)?.to_le_bytes())?;
        self.put(block)
    }
}

struct Reader<R> {
    input: R,
    sum: Xxh3Default,
}

impl<R: Read> Reader<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), ContentError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ContentError::Truncated,
            _ => ContentError::Read(error),
        })?;
        self.sum.update(bytes);
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ContentError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, ContentError> {
        Ok(u32::from_le_bytes(self.take()?))
    }
}

fn exact<const N: usize>(bytes: &[u8]) -> Result<[u8; N], ContentError> {
    bytes.try_into().map_err(|_| ContentError::Corrupt("a binding is cut off"))
}

/// Tells seeds apart without telling the seed: a fast hash could be undone.
fn seed_digest(seed: Seed) -> [u8; 8] {
    let mut text = *b"homing table seed\0........";
    text[18..].copy_from_slice(&seed.0.to_le_bytes());
    let mut cut = [0; 8];
    cut.copy_from_slice(&digest(&SHA256, &text).as_ref()[..8]);
    cut
}

/// Saves of this process, to tell their temporary files apart.
static SAVES: AtomicU32 = AtomicU32::new(0);

const MAGIC: &[u8; 8] = b"HOMINGTB";
const VERSION: u32 = 1;
/// Bytes of a binding.
const RECORD: usize = 14;
/// Bindings in a block at most.
const BLOCK: usize = 4096;
const BUFFER: usize = 1 << 18;
