//! A binding outside the table.

use crate::affinity::{KeyHash, Slot, Timestamp};

/// A binding as visited and restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The session's key.
    pub key: KeyHash,
    /// Its backend.
    pub slot: Slot,
    /// When it was last used.
    pub last_seen: Timestamp,
}
