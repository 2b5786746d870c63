//! Loads tables from their files at startup and saves them at shutdown.

use std::path::Path;
use std::time::SystemTime;

use crate::affinity::Timestamp;
use crate::affinity::table::{Table, file};
use crate::control::ControlHandle;
use crate::error_chain;
use crate::model::snapshot::Snapshot;

/// A table with a configured file.
struct KeptTable<'a> {
    upstream: &'a str,
    table: &'a Table,
    path: &'a Path,
}

fn kept_tables(snapshot: &Snapshot) -> impl Iterator<Item = KeptTable<'_>> {
    snapshot.upstreams.iter().filter_map(|upstream| {
        let affinity = &upstream.config.affinity;
        let table = upstream.table()?;
        let path = affinity.remember.table.as_ref()?.file.as_deref()?;
        Some(KeptTable { upstream: &upstream.config.name, table, path })
    })
}

/// Loads the tables that have a file. An invalid file is reported and renamed,
/// so that the next save does not overwrite it. Its sessions are placed anew.
pub(super) fn load(control: &ControlHandle) {
    for kept in kept_tables(&control.snapshot()) {
        let KeptTable { upstream, table, path } = kept;
        if !path.exists() {
            warn_if_unsavable(upstream, path);
            continue;
        }
        match file::load(table, path, Timestamp::of(SystemTime::now()), |id| control.slot_of(upstream, id)) {
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
                    "cannot load the table; its sessions will be placed anew"
                );
                rename_invalid(upstream, path);
            }
        }
    }
}

/// Reports a missing directory at startup instead of at shutdown.
fn warn_if_unsavable(upstream: &str, path: &Path) {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        tracing::error!(
            upstream,
            path = %path.display(),
            "the table cannot be saved: its directory does not exist; create it or change table.file"
        );
    }
}

/// Renames an invalid file to `FILE.bad`.
fn rename_invalid(upstream: &str, path: &Path) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".bad");
    match std::fs::rename(path, &aside) {
        Ok(()) => tracing::warn!(upstream, path = %Path::new(&aside).display(), "invalid table file renamed"),
        Err(error) => tracing::error!(upstream, %error, "cannot rename the invalid table file"),
    }
}

pub(super) fn save(control: &ControlHandle) {
    for kept in kept_tables(&control.snapshot()) {
        let KeptTable { upstream, table, path } = kept;
        match file::save(table, path, Timestamp::of(SystemTime::now()), |slot| control.id_of(upstream, slot))
        {
            Ok(saved) => tracing::info!(upstream, path = %path.display(), saved, "table saved"),
            Err(error) => tracing::error!(
                upstream,
                path = %path.display(),
                error = %error_chain(&error),
                "cannot save the table"
            ),
        }
    }
}
