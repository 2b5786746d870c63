//! An upstream's backends as the pick sees them: the ring and who is eligible.

use std::sync::Arc;

use super::ring::Ring;
use super::{AdminState, BackendId, Health, Slot, Weight};

/// One backend of a [`Cluster`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub id: BackendId,
    /// Its number in the table.
    pub slot: Slot,
    /// Its share of the ring.
    pub weight: Weight,
    /// What a person wishes.
    pub admin: AdminState,
    /// What the checks say.
    pub health: Health,
    /// How many of its points count: all of them, or a growing prefix of them
    /// during slow start. Less than one counts as one, more than all as all.
    pub active_points: u32,
}

impl Member {
    /// May it serve sessions that are bound to it?
    pub fn eligible_for_existing(&self) -> bool {
        self.health == Health::Up && self.admin != AdminState::Maint
    }

    /// May it be given new sessions?
    pub fn eligible_for_new(&self) -> bool {
        self.health == Health::Up && self.admin == AdminState::Ready
    }
}

/// The backends of one upstream, immutable. Members are addressed by their
/// index; `ring` was built from the same members in the same order.
#[derive(Debug, Clone)]
pub struct Cluster {
    ring: Arc<Ring>,
    members: Vec<Member>,
    /// Member index by slot; `None` where the slot's backend is not configured.
    by_slot: Vec<Option<u16>>,
    /// Open points by member index: all that a walk needs to know of a
    /// member, four bytes each.
    open: Box<[u32]>,
    /// `open_up_to[i]` sums the open points of members 0 to `i`.
    open_up_to: Box<[u32]>,
}

impl Cluster {
    /// Joins a ring and the members it was built from.
    ///
    /// # Panics
    /// In debug builds, if the ring was built for another number of members.
    pub fn new(ring: Arc<Ring>, members: Vec<Member>) -> Self {
        debug_assert_eq!(ring.members(), members.len(), "ring and members belong together");
        let slots = members.iter().map(|m| usize::from(m.slot.0) + 1).max().unwrap_or(0);
        let mut by_slot = vec![None; slots];
        for (index, member) in (0u16..).zip(&members) {
            by_slot[usize::from(member.slot.0)] = Some(index);
        }
        let open: Box<[u32]> = (0u16..)
            .zip(&members)
            .map(|(index, member)| {
                if member.eligible_for_new() {
                    // It is reachable from the first moment of its slow start.
                    member.active_points.max(1).min(ring.points_of(index))
                } else {
                    0
                }
            })
            .collect();
        let open_up_to = open
            .iter()
            .scan(0, |sum, &points| {
                *sum += points;
                Some(*sum)
            })
            .collect();
        Self { ring, members, by_slot, open, open_up_to }
    }

    /// The hash ring.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// All members, by index.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The index of the member that has this slot, if it is still configured.
    pub fn index_of(&self, slot: Slot) -> Option<u16> {
        self.by_slot.get(usize::from(slot.0)).copied().flatten()
    }

    /// At how many of its points, counted from replica 0, member `index` takes
    /// new sessions: its active points if it is eligible for new, none if not.
    /// This is also its weight among those that are.
    pub fn open_points(&self, index: u16) -> u32 {
        self.open.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// The open points of all members; 0 if nobody is eligible for new.
    pub fn total_open_points(&self) -> u32 {
        self.open_up_to.last().copied().unwrap_or(0)
    }

    /// The member that has the `n`th open point, counting member by member
    /// from 0: a uniform `n` draws a member by its weight.
    pub fn nth_open_point(&self, n: u32) -> Option<u16> {
        let index = self.open_up_to.partition_point(|&up_to| up_to <= n);
        u16::try_from(index).ok().filter(|_| index < self.members.len())
    }

    /// How many open points come before those of member `index`.
    pub(super) fn open_points_before(&self, index: u16) -> u32 {
        self.open_up_to[usize::from(index)] - self.open[usize::from(index)]
    }
}

#[cfg(test)]
mod tests;
