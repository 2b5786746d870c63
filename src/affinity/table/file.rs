//! The table on disk: saved at shutdown, loaded at the next start.
//!
//! Version 2, little-endian:
//!
//! | bytes | content |
//! |---|---|
//! | 8 | `HOMINGTB` |
//! | 4 | version, 2 |
//! | 16 | the secret of the names |
//! | 4 | time of saving, seconds since the epoch |
//! | 4 + … | number of backend ids, then each: length (1), bytes |
//! | … | blocks: number of bindings (4), then each: name (8), index of the backend id (2), last seen (4), tag (4); a block of 0 ends the list |
//! | 8 | total number of bindings |
//! | 8 | XXH3-64 of everything before |
//!
//! Backends are stored by id, because slots are valid for one process only. Names are hashes under the
//! secret, which the loading table adopts: the file does not depend on the ring's seed. Version 1 named
//! sessions by their place on the ring, from which their names cannot be computed, so it is refused. A
//! file is loaded completely or not at all: nothing is bound before the checksum has been verified.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use xxhash_rust::xxh3::Xxh3Default;

use super::Table;
use super::saved::Saved;
use super::tag::Tag;
use crate::affinity::name::NameSecret;
use crate::affinity::{BackendId, SessionName, Slot, Timestamp};

#[cfg(test)]
mod tests;

/// The result of loading a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// When the file was saved.
    pub saved_at: Timestamp,
    /// The bindings restored to the table.
    pub restored: usize,
    /// The bindings that have expired since.
    pub expired: usize,
    /// The bindings to backends that are no longer configured.
    pub unknown: usize,
    /// The bindings whose key was already bound, or for which there was no room.
    pub refused: usize,
}

/// Why a file could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file system error.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// Its path.
        path: PathBuf,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The file is not a valid table.
    #[error("invalid table file")]
    Content(#[from] ContentError),
}

/// Why a file is not a valid table.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// It does not start like a table file.
    #[error("not a table file")]
    Foreign,
    /// The format before names had a secret.
    #[error("table file of an earlier Homing (version 1, expected 2), whose sessions cannot be carried over")]
    Outdated,
    /// An unsupported version of the format.
    #[error("unsupported table file version {0}, expected 2")]
    Version(u32),
    /// It ends too early.
    #[error("truncated table file")]
    Truncated,
    /// It is not what was written.
    #[error("corrupt table file: {0}")]
    Corrupt(&'static str),
    /// The table has named sessions with a secret of its own already.
    #[error("the table is already in use")]
    InUse,
    /// It cannot be read.
    #[error("cannot read the table file")]
    Read(#[source] io::Error),
}

/// Atomically replaces `path` with a file of the bindings that have not expired at `now`, mode
/// 0600. Returns how many.
///
/// `id_of` returns the backend of a slot; bindings of slots without one are left out.
pub fn save(
    table: &Table,
    path: &Path,
    now: Timestamp,
    id_of: impl FnMut(Slot) -> Option<BackendId>,
) -> Result<u64, FileError> {
    let io = |action| move |source| FileError::Io { action, path: path.to_owned(), source };
    // A unique name: two processes may save at the same time during an upgrade.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.{}.tmp", std::process::id(), SAVES.fetch_add(1, Ordering::Relaxed)));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io("create a temporary file next to"))?;
        let mut out = BufWriter::with_capacity(BUFFER, file);
        let written = write(table, &mut out, now, id_of).map_err(io("write"))?;
        let file = out.into_inner().map_err(|error| io("write")(error.into_error()))?;
        file.sync_all().map_err(io("write"))?;
        fs::rename(&temporary, path).map_err(io("replace"))?;
        Ok(written)
    })();
    if written.is_err() {
        // The file may not exist; return the first error.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The rename is durable only after the directory is synced.
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io("sync the directory of"))?;
    written
}

/// Adds the bindings in the file at `path` to `table`; see [`read`].
pub fn load(
    table: &Table,
    path: &Path,
    now: Timestamp,
    slot_of: impl FnMut(&BackendId) -> Option<Slot>,
) -> Result<Loaded, FileError> {
    let file =
        File::open(path).map_err(|source| FileError::Io { action: "open", path: path.to_owned(), source })?;
    Ok(read(table, BufReader::with_capacity(BUFFER, file), now, slot_of)?)
}

/// Writes the bindings that have not expired; see [`save`]. Needs memory for one shard at a time.
pub fn write(
    table: &Table,
    out: impl Write,
    now: Timestamp,
    mut id_of: impl FnMut(Slot) -> Option<BackendId>,
) -> io::Result<u64> {
    let mut out = Writer { out, sum: Xxh3Default::new() };
    out.put(MAGIC)?;
    out.put(&VERSION.to_le_bytes())?;
    out.put(&table.namer().secret().0)?;
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
        // A slot first used after the ids were written has no index.
        let Some(index) = index_of.get(&saved.slot) else { return };
        if result.is_err() {
            return;
        }
        block.extend_from_slice(&saved.name.0.to_le_bytes());
        block.extend_from_slice(&index.to_le_bytes());
        block.extend_from_slice(&saved.last_seen.0.to_le_bytes());
        block.extend_from_slice(&saved.tag.bits().to_le_bytes());
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

/// Adds the bindings written by [`write()`] to `table`: all of them or, on an error, none. Existing
/// bindings are kept. If there is not room for all, the most recently used are taken. The order of
/// use is kept.
///
/// `slot_of` returns the slot of a backend; bindings to backends without one are left out. Needs 20
/// bytes per binding while it runs.
pub fn read(
    table: &Table,
    input: impl Read,
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
    match version {
        VERSION => {}
        1 => return Err(ContentError::Outdated),
        _ => return Err(ContentError::Version(version)),
    }
    let secret = NameSecret(input.take()?);
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
        slots.push(slot_of(&id.ok_or(ContentError::Corrupt("invalid backend id"))?));
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
            return Err(ContentError::Corrupt("oversized block"));
        }
        block.resize(count * RECORD, 0);
        input.fill(&mut block)?;
        total += count as u64;
        for record in block.chunks_exact(RECORD) {
            let (name, rest) = record.split_at(8);
            let (index, rest) = rest.split_at(2);
            let (last_seen, tag) = rest.split_at(4);
            let slot = slots.get(usize::from(u16::from_le_bytes(exact(index)?)));
            let slot = slot.ok_or(ContentError::Corrupt("unknown backend index"))?;
            let name = SessionName(u64::from_le_bytes(exact(name)?));
            let tag = Tag::of_bits(u32::from_le_bytes(exact(tag)?));
            let tag = tag.ok_or(ContentError::Corrupt("unknown kind of binding"))?;
            let last_seen = Timestamp(u32::from_le_bytes(exact(last_seen)?));
            if now.since(last_seen) > table.ttl() {
                loaded.expired += 1;
            } else if let Some(slot) = *slot {
                bindings.push(Saved { name, slot, last_seen, tag });
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
        return Err(ContentError::Corrupt("trailing data"));
    }
    if !table.adopt(secret) {
        return Err(ContentError::InUse);
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
    bytes.try_into().map_err(|_| ContentError::Corrupt("truncated binding"))
}

/// Counts the saves of this process, for unique temporary names.
static SAVES: AtomicU32 = AtomicU32::new(0);

const MAGIC: &[u8; 8] = b"HOMINGTB";
const VERSION: u32 = 2;
/// Bytes per binding.
const RECORD: usize = 18;
/// The maximum number of bindings in a block.
const BLOCK: usize = 4096;
const BUFFER: usize = 1 << 18;
