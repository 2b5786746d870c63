//! Places new sessions and requests without a key: the part of the pick that depends on loads.

use super::loads::Loads;
use super::tried::Tried;
use crate::affinity::{Cluster, KeyHash};

/// What a placement depends on.
pub(super) struct Placement<'a, L> {
    pub(super) cluster: &'a Cluster,
    pub(super) loads: &'a L,
    pub(super) tried: &'a Tried,
    pub(super) balance_percent: Option<u32>,
}

/// Where a new session was placed.
pub(super) struct Placed {
    pub(super) member: u16,
    /// Whether a member was skipped because it was full.
    pub(super) passed_over: bool,
    /// Whether the member is shunned or draining and was taken as the last resort.
    pub(super) last_resort: bool,
}

/// Why no member can take it: all are full (true) or away (false).
pub(super) type Full = bool;

impl<L: Loads> Placement<'_, L> {
    /// Returns the first member on the walk of `key` with room.
    pub(super) fn on_the_walk(&self, key: KeyHash) -> Result<Placed, Full> {
        let ring = self.cluster.ring();
        let met =
            |member, replica| replica < self.cluster.inviting_points(member) && !self.tried.contains(member);
        let Some(first) = ring.first(key, met) else {
            let shunned = self.shunned_with_room(key);
            let drains = || ring.walk(key).filter(|&m| self.drains(m)).find(|&m| !self.loads.saturated(m));
            return match shunned.or_else(drains) {
                Some(member) => Ok(Placed { member, passed_over: false, last_resort: true }),
                None => Err(ring.walk(key).any(|m| self.drains(m))),
            };
        };
        let cap = self.balance_percent.map(|percent| Cap::new(self.cluster, self.loads, percent));
        let member = ring
            .first(key, |member, replica| {
                met(member, replica)
                    && !self.loads.saturated(member)
                    && cap.as_ref().is_none_or(|cap| cap.admits(member, self.loads.in_flight(member)))
            })
            // Loads may change while they are read, and a balance below 100 % leaves no member with
            // room. The cap must not cause an outage.
            .or_else(|| self.least_loaded(ring.walk(key).filter(|&m| self.invites(m))))
            .or_else(|| self.shunned_with_room(key))
            .ok_or(true)?;
        Ok(Placed { member, passed_over: member != first, last_resort: false })
    }

    /// Returns true if `member` may get a new session: it is eligible, not tried, below its
    /// connection limit and under its load cap.
    pub(super) fn has_room(&self, member: u16) -> bool {
        let under_cap = |percent| {
            Cap::new(self.cluster, self.loads, percent).admits(member, self.loads.in_flight(member))
        };
        self.open(member) && !self.loads.saturated(member) && self.balance_percent.is_none_or(under_cap)
    }

    /// Returns the less loaded of two members drawn by weight from 64 random bits.
    pub(super) fn of_two(&self, random: u64) -> Result<u16, Full> {
        let (one, other) = self.draw_two(random);
        let usable = |member: &u16| !self.tried.contains(*member) && !self.loads.saturated(*member);
        match (one.filter(usable), other.filter(usable)) {
            (Some(one), Some(other)) if self.lighter(other, one) => Ok(other),
            (Some(one), _) => Ok(one),
            (None, Some(other)) => Ok(other),
            (None, None) => {
                let all = || (0u16..).take(self.cluster.members().len());
                let invited = self.least_loaded(all().filter(|&m| self.invites(m)));
                let open = || self.least_loaded(all().filter(|&m| self.open(m)));
                if let Some(member) = invited.or_else(open) {
                    Ok(member)
                } else if all().any(|m| self.open(m)) {
                    Err(true)
                } else {
                    let drains = || all().filter(|&m| self.drains(m));
                    self.least_loaded(drains()).ok_or_else(|| drains().next().is_some())
                }
            }
        }
    }

    /// Draws two different members that get new sessions, each with a probability proportional to
    /// its inviting points. Returns fewer if there are fewer.
    fn draw_two(&self, random: u64) -> (Option<u16>, Option<u16>) {
        let total = self.cluster.total_inviting_points();
        let below = |bound: u32, random: u64| {
            u32::try_from(((random & u64::from(u32::MAX)) * u64::from(bound)) >> u32::BITS).unwrap_or(0)
        };
        let Some(one) = self.cluster.nth_inviting_point(below(total, random)) else {
            return (None, None);
        };
        // Draw the second from the inviting points of the other members.
        let width = self.cluster.inviting_points(one);
        let n = below(total - width, random >> u32::BITS);
        let n = if n < self.cluster.inviting_points_before(one) { n } else { n + width };
        (Some(one), self.cluster.nth_inviting_point(n))
    }

    /// Returns the member with the least in flight for its weight, among those in `order` below
    /// their connection limit. The first wins a tie.
    fn least_loaded(&self, order: impl Iterator<Item = u16>) -> Option<u16> {
        order
            .filter(|&member| !self.loads.saturated(member))
            .reduce(|best, member| if self.lighter(member, best) { member } else { best })
    }

    /// Returns the first shunned member on the walk of `key` that is below its connection limit:
    /// worse than a member that is not shunned, better than a draining one or an error.
    fn shunned_with_room(&self, key: KeyHash) -> Option<u16> {
        self.cluster.ring().first(key, |member, replica| {
            self.cluster.shuns(member)
                && replica < self.cluster.open_points(member)
                && !self.tried.contains(member)
                && !self.loads.saturated(member)
        })
    }

    /// Returns true if `member` is eligible for new, not passed over as shunned, and not tried.
    fn invites(&self, member: u16) -> bool {
        self.cluster.inviting_points(member) > 0 && !self.tried.contains(member)
    }

    /// Returns true if `member` is eligible for new and not tried.
    fn open(&self, member: u16) -> bool {
        self.cluster.open_points(member) > 0 && !self.tried.contains(member)
    }

    /// Returns true if `member` may be the last resort. Used only if no member is
    /// [`open`](Self::open). An operator who wants a backend to serve nothing at all sets `maint`.
    fn drains(&self, member: u16) -> bool {
        self.cluster.members()[usize::from(member)].eligible_for_existing() && !self.tried.contains(member)
    }

    /// Returns true if `a` has less in flight for its weight than `b`.
    fn lighter(&self, a: u16, b: u16) -> bool {
        let load = |member| u64::from(self.loads.in_flight(member));
        let weight = |member| match self.cluster.open_points(member) {
            0 => u64::from(self.cluster.ring().points_of(member)),
            open => u64::from(open),
        };
        load(a) * weight(b) < load(b) * weight(a)
    }
}

/// The load cap: the most that each backend may have in flight to get a new session.
#[derive(Debug)]
pub(in crate::affinity) struct Cap<'a> {
    cluster: &'a Cluster,
    /// `balance_percent` × the total in flight including the new session, over all members that get
    /// new sessions.
    allowed: u128,
}

impl<'a> Cap<'a> {
    pub(in crate::affinity) fn new(cluster: &'a Cluster, loads: &impl Loads, balance_percent: u32) -> Self {
        let total: u64 = (0u16..)
            .take(cluster.members().len())
            .filter(|&member| cluster.inviting_points(member) > 0)
            .map(|member| u64::from(loads.in_flight(member)))
            .sum();
        Self { cluster, allowed: u128::from(balance_percent) * u128::from(total + 1) }
    }

    /// Returns true if `member`, with `in_flight`, may take one more.
    ///
    /// The rule is `in_flight + 1 ≤ ⌈balance × (total + 1) × its weight / all weights⌉`, which for
    /// whole numbers is `in_flight < balance × …` without rounding up. The weight is the number of
    /// inviting points: during slow start a backend's share of the load is as small as its share of the
    /// ring. Otherwise the others would hit a cap that assumes it takes its full share.
    pub(in crate::affinity) fn admits(&self, member: u16, in_flight: u32) -> bool {
        let weight = u128::from(self.cluster.inviting_points(member));
        let weights = u128::from(self.cluster.total_inviting_points());
        u128::from(in_flight) * 100 * weights < self.allowed * weight
    }
}
