//! What holds an upstream's bindings. A reload keeps it if its bindings are still valid.

use std::sync::Arc;
use std::time::Duration;

use super::transition::TransitionReason;
use crate::affinity::cookie::{CookieConfig, KeyRing};
use crate::affinity::table::Table;
use crate::model::snapshot::{Memory, Seals};
use crate::model::{Remember, Upstream};

/// Maximum number of entries of a table that only helps the cookie: sessions whose clients have not
/// brought their cookie back yet. An entry takes some 31 bytes.
const HELPER_ENTRIES: usize = 65_536;

/// Creates an empty memory.
pub(super) fn new(remember: &Remember) -> Memory {
    let mut memory = Memory::default();
    fill(&mut memory, remember);
    memory
}

/// Adapts `memory` to a reload from `old` to `new`. If this loses the bindings, returns why.
///
/// A table that `remember` no longer lists is used until its entries expire, and sealed cookies that
/// are no longer issued are still read: each layer hands its sessions to the other. Under another seed,
/// the table still finds its sessions by name. Sealed cookies open, but name keys that are not found
/// again: they are hints.
pub(super) fn reconfigure(memory: &mut Memory, old: &Upstream, new: &Upstream) -> Option<TransitionReason> {
    let (before, after) = (&old.affinity, &new.affinity);
    if after.remember.is_none() {
        let forgotten = !before.remember.is_none();
        *memory = Memory { crowd: Arc::clone(&memory.crowd), ..Memory::default() };
        return forgotten.then_some(TransitionReason::RememberChanged);
    }
    if let (Some(seals), Some(cookie)) = (&mut memory.seals, &after.remember.cookie) {
        // Keep an ephemeral key. Otherwise every reload would lose all sessions.
        if cookie.keys != seals.config.keys {
            seals.keys = Arc::new(key_ring(cookie));
        }
        if *cookie != *seals.config {
            let mut config = cookie.clone();
            // Clients still have the cookie under its old name.
            if config.name != seals.config.name {
                config.former_name = Some(seals.config.name.clone());
            } else if config.former_name.is_none() {
                config.former_name.clone_from(&seals.config.former_name);
            }
            seals.config = Arc::new(config);
        }
    }
    fill(memory, &after.remember);
    None
}

/// Creates what `remember` needs and the memory does not have yet.
fn fill(memory: &mut Memory, remember: &Remember) {
    match (&memory.table, &remember.table, &remember.cookie) {
        (Some(table), Some(config), _) => table.set_limits(config.max_entries, seconds(config.ttl)),
        (None, Some(config), _) => {
            memory.table = Some(Arc::new(Table::new(config.max_entries, seconds(config.ttl))));
        }
        (None, None, Some(cookie)) => {
            memory.table = Some(Arc::new(Table::new(HELPER_ENTRIES, seconds(cookie.max_idle))));
        }
        (Some(table), None, Some(cookie)) => {
            table.set_limits(table.max_entries(), table.ttl().max(seconds(cookie.max_idle)));
        }
        (_, None, None) => {}
    }
    if let (None, Some(cookie)) = (&memory.seals, &remember.cookie) {
        memory.seals = Some(Seals { keys: Arc::new(key_ring(cookie)), config: Arc::new(cookie.clone()) });
    }
}

/// Returns whether both hold the same table and the same cookies.
pub(super) fn is_same(a: &Memory, b: &Memory) -> bool {
    let tables = (a.table.as_ref().map(Arc::as_ptr), b.table.as_ref().map(Arc::as_ptr));
    let keys = |memory: &Memory| memory.seals.as_ref().map(|seals| Arc::as_ptr(&seals.keys));
    let settings = |memory: &Memory| memory.seals.as_ref().map(|seals| Arc::as_ptr(&seals.config));
    tables.0 == tables.1 && keys(a) == keys(b) && settings(a) == settings(b)
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// Returns the key ring. Without configured keys it has one random key.
fn key_ring(config: &CookieConfig) -> KeyRing {
    let keys: Vec<_> = config.keys.iter().map(|key| key.0).collect();
    KeyRing::new(&keys)
}
