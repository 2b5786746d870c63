//! An upstream's backends as the pick sees them: the ring and the eligible members.

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
    /// The state requested by an operator.
    pub admin: AdminState,
    /// The result of the health checks.
    pub health: Health,
    /// Whether requests failed at it lately. It keeps its sessions and remains an heir, but new
    /// sessions are placed elsewhere.
    pub shunned: bool,
    /// The number of active points: all of them, or a growing prefix during slow start. Values
    /// below one count as one, values above the total as the total.
    pub active_points: u32,
}

impl Member {
    /// Returns true if it may serve sessions that are bound to it.
    pub fn eligible_for_existing(&self) -> bool {
        self.health == Health::Up && self.admin != AdminState::Maint
    }

    /// Returns true if it may get new sessions. A shunned member may, but only if all are shunned.
    pub fn eligible_for_new(&self) -> bool {
        self.health == Health::Up && self.admin == AdminState::Ready
    }
}

/// The backends of one upstream, immutable.
///
/// Members are addressed by index. `ring` was built from the same members in the same order.
#[derive(Debug, Clone)]
pub struct Cluster {
    ring: Arc<Ring>,
    members: Vec<Member>,
    /// Member index by slot; `None` if the slot's backend is not configured.
    by_slot: Vec<Option<u16>>,
    /// Open points by member index: all that a walk needs to know about a member, in four bytes
    /// each.
    open: Box<[u32]>,
    /// The open points at which new sessions are placed: those of the members that are not shunned
    /// or, if all are, those of all.
    inviting: Box<[u32]>,
    /// The sum of the inviting points of members 0 to `i`, by index `i`.
    inviting_up_to: Box<[u32]>,
}

impl Cluster {
    /// Joins a ring and the members it was built from.
    ///
    /// # Panics
    /// In debug builds, if the ring was built for another number of members.
    pub fn new(ring: Arc<Ring>, members: Vec<Member>) -> Self {
        debug_assert_eq!(ring.members(), members.len(), "the ring was built from these members");
        let slots = members.iter().map(|m| usize::from(m.slot.0) + 1).max().unwrap_or(0);
        let mut by_slot = vec![None; slots];
        for (index, member) in (0u16..).zip(&members) {
            by_slot[usize::from(member.slot.0)] = Some(index);
        }
        let open: Box<[u32]> = (0u16..)
            .zip(&members)
            .map(|(index, member)| {
                if member.eligible_for_new() {
                    // A member gets its first point as soon as its slow start begins.
                    member.active_points.max(1).min(ring.points_of(index))
                } else {
                    0
                }
            })
            .collect();
        let unless_shunned = open.iter().zip(&members).map(|(&p, member)| if member.shunned { 0 } else { p });
        let mut inviting: Box<[u32]> = unless_shunned.collect();
        if inviting.iter().all(|&points| points == 0) {
            inviting.clone_from(&open);
        }
        let inviting_up_to = inviting
            .iter()
            .scan(0, |sum, &points| {
                *sum += points;
                Some(*sum)
            })
            .collect();
        Self { ring, members, by_slot, open, inviting, inviting_up_to }
    }

    /// Returns the hash ring.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Returns all members, by index.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the index of the member with this slot, if it is still configured.
    pub fn index_of(&self, slot: Slot) -> Option<u16> {
        self.by_slot.get(usize::from(slot.0)).copied().flatten()
    }

    /// Returns the number of points, counted from replica 0, at which member `index` can take
    /// sessions that are not bound to it: its active points if it is eligible for new, otherwise 0.
    pub fn open_points(&self, index: u16) -> u32 {
        self.open.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Returns the number of points at which new sessions are placed at member `index`: its open
    /// points, or 0 if it is shunned and another is not. This is also its weight among the members
    /// that get new sessions.
    pub fn inviting_points(&self, index: u16) -> u32 {
        self.inviting.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Returns true if new sessions avoid member `index` only because it is shunned.
    pub fn shuns(&self, index: u16) -> bool {
        self.inviting_points(index) < self.open_points(index)
    }

    /// Returns the inviting points of all members; 0 if no member is eligible for new.
    pub fn total_inviting_points(&self) -> u32 {
        self.inviting_up_to.last().copied().unwrap_or(0)
    }

    /// Returns the member that owns the `n`th inviting point, counting member by member from 0. A
    /// uniform `n` draws a member by weight.
    pub fn nth_inviting_point(&self, n: u32) -> Option<u16> {
        let index = self.inviting_up_to.partition_point(|&up_to| up_to <= n);
        u16::try_from(index).ok().filter(|_| index < self.members.len())
    }

    /// Returns the number of inviting points before those of member `index`.
    pub(super) fn inviting_points_before(&self, index: u16) -> u32 {
        self.inviting_up_to[usize::from(index)] - self.inviting[usize::from(index)]
    }
}

#[cfg(test)]
mod tests;
