//! A binding outside the table.

use super::tag::Tag;
use crate::affinity::{SessionName, Slot, Timestamp};

/// A binding as visited and restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saved {
    /// The session.
    pub name: SessionName,
    /// Its backend.
    pub slot: Slot,
    /// When it was last used.
    pub last_seen: Timestamp,
    /// Where its id is from.
    pub tag: Tag,
}
