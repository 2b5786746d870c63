//! A claim: the first binding of a session while its backend has not answered yet.

use std::sync::Arc;

use super::place::OnBound;
use super::{Saved, Table, Tag};
use crate::affinity::name::Owner;
use crate::affinity::{SessionName, Slot, Timestamp};

/// What came of a [`Table::claim`].
#[derive(Debug)]
pub enum Claimed {
    /// The session was absent and is now bound.
    Fresh(Claim),
    /// The session is bound already, to this backend.
    Bound(Slot),
    /// The session is absent, and there is no room for it.
    NoRoom,
}

/// A binding that may be taken back until another request has found it, because the request that
/// made it may be refused an answer. Dropping it keeps the binding.
#[derive(Debug)]
pub struct Claim {
    table: Arc<Table>,
    name: SessionName,
}

impl Claim {
    /// Removes the binding, unless another request of the session relies on it. Returns whether the
    /// session is without a binding again.
    pub fn withdraw(self) -> bool {
        let Self { table, name } = &self;
        let hash = table.hash(*name);
        let mut shard = table.shard(hash).lock();
        let ours = shard.end_claim(*name);
        if let (true, Some(at)) = (ours, shard.find(hash, *name)) {
            table.drop_entry(&mut shard, at);
        }
        ours
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.table.shard(self.table.hash(self.name)).lock().end_claim(self.name);
    }
}

impl Table {
    /// Binds a session unless it is already bound, like [`Self::bind_if_absent`]. A new binding can be
    /// taken back while nobody else has found it.
    pub fn claim(self: &Arc<Self>, name: SessionName, slot: Slot, owner: Owner, now: Timestamp) -> Claimed {
        let new = Saved { name, slot, last_seen: now, tag: Tag::unminted(owner) };
        let mut fresh = false;
        let placed = self.place(new, OnBound::Keep, |shard| {
            fresh = true;
            shard.begin_claim(name);
        });
        match placed {
            _ if fresh => Claimed::Fresh(Claim { table: Arc::clone(self), name }),
            Some(slot) => Claimed::Bound(slot),
            None => Claimed::NoRoom,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp(1_000_000);
    const ONE: SessionName = SessionName(1);

    fn claim(table: &Arc<Table>, slot: Slot) -> Claim {
        match table.claim(ONE, slot, Owner(0), T0) {
            Claimed::Fresh(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn claim_is_taken_back_unless_others_rely_on_it() {
        type Relies = fn(&Arc<Table>);
        let others: [(Relies, bool); 6] = [
            (|_| (), true),
            (|table| assert_eq!(table.peek(ONE, T0), Some(Slot(1))), true),
            (|table| assert_eq!(table.lookup(ONE, T0), Some(Slot(1))), false),
            (|table| assert!(table.recall(ONE, T0, false).is_some()), false),
            (
                |table| assert!(matches!(table.claim(ONE, Slot(2), Owner(0), T0), Claimed::Bound(Slot(1)))),
                false,
            ),
            (|table| table.bind(ONE, Slot(1), Owner(0), T0), false),
        ];
        for (relies, taken_back) in others {
            let table = Arc::new(Table::new(10, 60));
            let claim = claim(&table, Slot(1));
            relies(&table);
            assert_eq!(claim.withdraw(), taken_back);
            let left = if taken_back { None } else { Some(Slot(1)) };
            assert_eq!(table.peek(ONE, T0), left);
            assert_eq!(table.sessions(Slot(1)), usize::from(!taken_back));
        }
    }

    #[test]
    fn answered_claim_stays_bound() {
        let table = Arc::new(Table::new(10, 60));
        drop(claim(&table, Slot(1)));
        assert_eq!(table.peek(ONE, T0), Some(Slot(1)));
        let expired = Timestamp(T0.0 + 61);
        assert!(
            matches!(table.claim(ONE, Slot(2), Owner(0), expired), Claimed::Fresh(_)),
            "an expired binding is absent"
        );
    }

    #[test]
    fn session_without_room_is_not_claimed() {
        let table = Arc::new(Table::new(1, 60));
        table.learn(SessionName(2), Slot(2), table.namer().root_scope(), None, T0);
        assert!(matches!(table.claim(ONE, Slot(1), Owner(0), T0), Claimed::NoRoom));
        assert_eq!(table.peek(ONE, T0), None);
    }
}
