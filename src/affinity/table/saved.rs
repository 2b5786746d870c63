//! A binding outside of the table.

use crate::affinity::{KeyHash, Slot, Timestamp};

/// One binding, as it is visited and restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The session.
    pub key: KeyHash,
    /// Its backend.
    pub slot: Slot,
    /// When it was last used.
    pub last_seen: Timestamp,
}
