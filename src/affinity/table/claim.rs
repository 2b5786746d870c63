//! A claim: the first binding of a session while its backend has not answered yet.

use std::sync::Arc;

use super::Table;
use crate::affinity::{KeyHash, Slot, Timestamp};

/// What came of a [`Table::claim`].
#[derive(Debug)]
pub enum Claimed {
    /// The key was absent and is now bound.
    Fresh(Claim),
    /// The key is bound already, to this backend.
    Bound(Slot),
}

/// A binding that may be taken back until another request has found it, because the request that
/// made it may be refused an answer. Dropping it keeps the binding.
#[derive(Debug)]
pub struct Claim {
    table: Arc<Table>,
    key: KeyHash,
}

impl Claim {
    /// Removes the binding, unless another request of the session relies on it. Returns whether the
    /// session is without a binding again.
    pub fn withdraw(self) -> bool {
        let Self { table, key } = &self;
        let hash = table.hash(*key);
        let mut shard = table.shard(hash).lock();
        let ours = shard.end_claim(*key);
        if let (true, Some(at)) = (ours, shard.find(hash, *key)) {
            table.drop_entry(&mut shard, at);
        }
        ours
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.table.shard(self.table.hash(self.key)).lock().end_claim(self.key);
    }
}

impl Table {
    /// Binds `key` unless it is already bound, like [`Self::bind_if_absent`]. A new binding can be
    /// taken back while nobody else has found it.
    pub fn claim(self: &Arc<Self>, key: KeyHash, slot: Slot, now: Timestamp) -> Claimed {
        let mut fresh = false;
        let bound = self.place_and(key, slot, now, super::OnBound::Keep, |shard, placed| {
            fresh = placed;
            if placed {
                shard.begin_claim(key);
            }
        });
        if fresh { Claimed::Fresh(Claim { table: Arc::clone(self), key }) } else { Claimed::Bound(bound) }
    }
}
