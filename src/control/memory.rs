//! The store of an upstream's bindings. A reload keeps it if its bindings are still valid.

use std::sync::Arc;

use super::transition::TransitionReason;
use crate::affinity::cookie::{CookieConfig, KeyRing};
use crate::affinity::table::Table;
use crate::model::snapshot::Memory;
use crate::model::{Remember, TableConfig, Upstream};

/// Creates an empty store.
pub(super) fn new(remember: &Remember) -> Memory {
    match remember {
        Remember::None => Memory::None,
        Remember::Table(table) => Memory::Table(Arc::new(Table::new(table.max_entries, ttl_seconds(table)))),
        Remember::Cookie(cookie) => Memory::Cookie(Arc::new(key_ring(cookie))),
    }
}

/// Adapts `memory` to a reload from `old` to `new`. If this loses the bindings, returns why.
pub(super) fn reconfigure(memory: &mut Memory, old: &Upstream, new: &Upstream) -> Option<TransitionReason> {
    let (before, after) = (&old.affinity, &new.affinity);
    match (&after.remember, &*memory, &before.remember) {
        (Remember::None, Memory::None, _) => None,
        (Remember::Table(table), Memory::Table(kept), _) => {
            kept.set_limits(table.max_entries, ttl_seconds(table));
            None
        }
        (remember @ Remember::Cookie(cookie), Memory::Cookie(_), Remember::Cookie(was)) => {
            // Keep an ephemeral key. Otherwise every reload would lose all sessions.
            if cookie.keys != was.keys {
                *memory = self::new(remember);
            }
            None
        }
        (remember, Memory::None, _) => {
            *memory = self::new(remember);
            None
        }
        (remember, Memory::Table(_) | Memory::Cookie(_), _) => {
            *memory = self::new(remember);
            Some(TransitionReason::RememberChanged)
        }
    }
}

/// Returns whether both are the same table or the same key ring.
pub(super) fn is_same(a: &Memory, b: &Memory) -> bool {
    match (a, b) {
        (Memory::None, Memory::None) => true,
        (Memory::Table(a), Memory::Table(b)) => Arc::ptr_eq(a, b),
        (Memory::Cookie(a), Memory::Cookie(b)) => Arc::ptr_eq(a, b),
        (Memory::None | Memory::Table(_) | Memory::Cookie(_), _) => false,
    }
}

/// Returns the value of `remember` in the configuration.
pub(super) fn as_str(remember: &Remember) -> &'static str {
    match remember {
        Remember::None => "none",
        Remember::Table(_) => "table",
        Remember::Cookie(_) => "cookie",
    }
}

fn ttl_seconds(config: &TableConfig) -> u32 {
    u32::try_from(config.ttl.as_secs()).unwrap_or(u32::MAX).max(1)
}

/// Returns the key ring. Without configured keys it has one random key.
fn key_ring(config: &CookieConfig) -> KeyRing {
    let keys: Vec<_> = config.keys.iter().map(|key| key.0).collect();
    KeyRing::new(&keys)
}
