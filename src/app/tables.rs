//! Tables that are kept in files: loaded at the start, saved at the end.

use std::path::Path;
use std::time::SystemTime;

use crate::affinity::table::{Table, file};
use crate::affinity::{Seed, Timestamp};
use crate::control::ControlHandle;
use crate::error_chain;
use crate::model::Remember;
use crate::model::snapshot::{Memory, Snapshot};

/// A table that is kept in a file.
struct KeptTable<'a> {
    upstream: &'a str,
    table: &'a Table,
    path: &'a Path,
    seed: Seed,
}

fn kept_tables(snapshot: &Snapshot) -> impl Iterator<Item = KeptTable<'_>> {
    snapshot.upstreams.iter().filter_map(|upstream| {
        let affinity = &upstream.config.affinity;
        let (Remember::Table(config), Memory::Table(table)) = (&affinity.remember, &upstream.memory) else {
            return None;
        };
        let path = config.file.as_deref()?;
        Some(KeptTable { upstream: &upstream.config.name, table, path, seed: affinity.seed })
    })
}

/// Loads the tables that are kept in files. A file that cannot be used is
/// reported and put aside, so that the next save does not replace it: its
/// sessions are placed anew.
pub(super) fn load(control: &ControlHandle) {
    for kept in kept_tables(&control.snapshot()) {
        let KeptTable { upstream, table, path, seed } = kept;
        if !path.exists() {
            say_if_it_cannot_be_saved(upstream, path);
            continue;
        }
        match file::load(table, path, seed, Timestamp::of(SystemTime::now()), |id| {
            control.slot_of(upstream, id)
        }) {
            Ok(loaded) => tracing::info!(
                upstream,
                path = %path.display(),
                restored = loaded.restored,
                expired = loaded.expired,
                "table loaded"
            ),
            Err(error) => {
                tracing::error!(
                    upstream,
                    path = %path.display(),
                    error = %error_chain(&error),
                    "the table could not be loaded; its sessions will be placed anew"
                );
                put_aside(upstream, path);
            }
        }
    }
}

/// Better said now than when the table is to be saved.
fn say_if_it_cannot_be_saved(upstream: &str, path: &Path) {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        tracing::error!(
            upstream,
            path = %path.display(),
            "the table will not be saved: its directory does not exist; create it, or change table.file"
        );
    }
}

/// Keeps a file that could not be loaded, under another name.
fn put_aside(upstream: &str, path: &Path) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".bad");
    match std::fs::rename(path, &aside) {
        Ok(()) => tracing::warn!(upstream, path = %Path::new(&aside).display(), "the file was put aside"),
        Err(error) => tracing::error!(upstream, %error, "the file could not be put aside"),
    }
}

pub(super) fn save(control: &ControlHandle) {
    for kept in kept_tables(&control.snapshot()) {
        let KeptTable { upstream, table, path, seed } = kept;
        match file::save(table, path, seed, Timestamp::of(SystemTime::now()), |slot| {
            control.id_of(upstream, slot)
        }) {
            Ok(saved) => tracing::info!(upstream, path = %path.display(), saved, "table saved"),
            Err(error) => tracing::error!(
                upstream,
                path = %path.display(),
                error = %error_chain(&error),
                "the table could not be saved"
            ),
        }
    }
}
