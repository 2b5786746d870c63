//! Loads tables from their files at startup and saves them at shutdown.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::affinity::Timestamp;
use crate::affinity::table::{Table, file};
use crate::control::ControlHandle;
use crate::error_chain;
use crate::model::Config;
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
/// so that the next save does not overwrite it. Its sessions are placed again.
pub(super) fn load(control: &ControlHandle) {
    for kept in kept_tables(&control.snapshot()) {
        let KeptTable { upstream, table, path } = kept;
        warn_if_unsavable(upstream, path);
        if !path.exists() {
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
                    "cannot load the table; its sessions will be placed again"
                );
                rename_invalid(upstream, path);
            }
        }
    }
}

/// Reports at startup, instead of at shutdown, that a table cannot be saved.
fn warn_if_unsavable(upstream: &str, path: &Path) {
    if let Err(error) = crate::may_create(path) {
        tracing::error!(
            upstream,
            path = %path.display(),
            "the table cannot be saved: {}; change its directory or table.file",
            directory_problem(&error)
        );
    }
}

fn directory_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "its directory does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "its directory is not writable".to_owned(),
        _ => error.to_string(),
    }
}

/// Returns a warning for each table that could not be saved.
pub(super) fn unsavable(config: &Config) -> Vec<String> {
    let tables = config.upstreams.iter().filter_map(|upstream| {
        let table = upstream.affinity.remember.table.as_ref()?;
        Some((&upstream.name, table.file.as_deref()?))
    });
    tables
        .filter_map(|(upstream, path)| {
            let problem = directory_problem(&crate::may_create(path).err()?);
            let path = path.display();
            Some(format!(
                "the table of upstream {upstream} cannot be saved to {path}: {problem}\n\
                 help: its sessions would not survive a restart; change the directory or `table.file`"
            ))
        })
        .collect()
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

/// Saves the tables that have a file. Returns false if one could not be saved.
pub(super) fn save(control: &ControlHandle) -> bool {
    let mut all = true;
    for kept in kept_tables(&control.snapshot()) {
        let KeptTable { upstream, table, path } = kept;
        match file::save(table, path, Timestamp::of(SystemTime::now()), |slot| control.id_of(upstream, slot))
        {
            Ok(saved) => tracing::info!(upstream, path = %path.display(), saved, "table saved"),
            Err(error) => {
                all = false;
                tracing::error!(
                    upstream,
                    path = %path.display(),
                    error = %error_chain(&error),
                    "cannot save the table"
                );
            }
        }
    }
    all
}
