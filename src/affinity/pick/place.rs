//! Where new sessions and requests without a key go: the part of the pick that
//! looks at loads.

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
    /// Was somebody passed over who had no room?
    pub(super) passed_over: bool,
    /// Does the member drain, for want of anybody better?
    pub(super) last_resort: bool,
}

/// Nobody can take it: because they are full (true) or because they are away.
pub(super) type Full = bool;

impl<L: Loads> Placement<'_, L> {
    /// The first on the walk of `key` that has room.
    pub(super) fn on_the_walk(&self, key: KeyHash) -> Result<Placed, Full> {
        let ring = self.cluster.ring();
        let met =
            |member, replica| replica < self.cluster.open_points(member) && !self.tried.contains(member);
        let Some(first) = ring.first(key, met) else {
            let member = ring.walk(key).filter(|&m| self.drains(m)).find(|&m| !self.loads.saturated(m));
            return match member {
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
            // The loads may change while they are read, and a balance below
            // 100 % leaves nobody room: the cap must not become an outage.
            .or_else(|| self.least_loaded(ring.walk(key).filter(|&m| self.open(m))))
            .ok_or(true)?;
        Ok(Placed { member, passed_over: member != first, last_resort: false })
    }

    /// The less loaded of two that are drawn by weight from 64 random bits.
    pub(super) fn of_two(&self, random: u64) -> Result<u16, Full> {
        let (one, other) = self.draw_two(random);
        let usable = |member: &u16| !self.tried.contains(*member) && !self.loads.saturated(*member);
        match (one.filter(usable), other.filter(usable)) {
            (Some(one), Some(other)) if self.lighter(other, one) => Ok(other),
            (Some(one), _) => Ok(one),
            (None, Some(other)) => Ok(other),
            (None, None) => {
                let all = || (0u16..).take(self.cluster.members().len());
                if all().any(|m| self.open(m)) {
                    self.least_loaded(all().filter(|&m| self.open(m))).ok_or(true)
                } else {
                    let drains = || all().filter(|&m| self.drains(m));
                    self.least_loaded(drains()).ok_or_else(|| drains().next().is_some())
                }
            }
        }
    }

    /// Two different members that are eligible for new, each drawn with the
    /// chance of its open points; fewer where there are fewer.
    fn draw_two(&self, random: u64) -> (Option<u16>, Option<u16>) {
        let total = self.cluster.total_open_points();
        let below = |bound: u32, random: u64| {
            u32::try_from(((random & u64::from(u32::MAX)) * u64::from(bound)) >> u32::BITS).unwrap_or(0)
        };
        let Some(one) = self.cluster.nth_open_point(below(total, random)) else {
            return (None, None);
        };
        // The second is drawn from the open points that are not the first's.
        let width = self.cluster.open_points(one);
        let n = below(total - width, random >> u32::BITS);
        let n = if n < self.cluster.open_points_before(one) { n } else { n + width };
        (Some(one), self.cluster.nth_open_point(n))
    }

    /// Of those in `order` that have connections left the one with the least in
    /// flight for its weight; of equals the first.
    fn least_loaded(&self, order: impl Iterator<Item = u16>) -> Option<u16> {
        order
            .filter(|&member| !self.loads.saturated(member))
            .reduce(|best, member| if self.lighter(member, best) { member } else { best })
    }

    /// Is `member` eligible for new, and not tried?
    fn open(&self, member: u16) -> bool {
        self.cluster.open_points(member) > 0 && !self.tried.contains(member)
    }

    /// Is `member` there as a last resort? Asked only when nobody is
    /// [`open`](Self::open). A person who wants a backend to serve nobody
    /// whatever happens says `maint`.
    fn drains(&self, member: u16) -> bool {
        self.cluster.members()[usize::from(member)].eligible_for_existing() && !self.tried.contains(member)
    }

    /// Has `a` less in flight for its weight than `b`?
    fn lighter(&self, a: u16, b: u16) -> bool {
        let load = |member| u64::from(self.loads.in_flight(member));
        let weight = |member| match self.cluster.open_points(member) {
            0 => u64::from(self.cluster.ring().points_of(member)),
            open => u64::from(open),
        };
        load(a) * weight(b) < load(b) * weight(a)
    }
}

/// Bounded load: the most that each backend may have in flight for a new session
/// to be placed there.
#[derive(Debug)]
pub(in crate::affinity) struct Cap<'a> {
    cluster: &'a Cluster,
    /// `balance_percent` × what will be in flight with the new session, over
    /// all that are eligible for new.
    allowed: u128,
}

impl<'a> Cap<'a> {
    pub(in crate::affinity) fn new(cluster: &'a Cluster, loads: &impl Loads, balance_percent: u32) -> Self {
        let total: u64 = (0u16..)
            .take(cluster.members().len())
            .filter(|&member| cluster.open_points(member) > 0)
            .map(|member| u64::from(loads.in_flight(member)))
            .sum();
        Self { cluster, allowed: u128::from(balance_percent) * u128::from(total + 1) }
    }

    /// May `member`, having `in_flight`, take one more?
    ///
    /// `in_flight + 1 ≤ ⌈balance × (total + 1) × its weight / all weights⌉`, which
    /// for whole numbers is `in_flight < balance × …` without rounding up. A weight is
    /// the number of open points: during slow start a backend's share of the
    /// load is as small as its share of the ring, or else the others would run
    /// into a cap that counts on it.
    pub(in crate::affinity) fn admits(&self, member: u16, in_flight: u32) -> bool {
        let weight = u128::from(self.cluster.open_points(member));
        let weights = u128::from(self.cluster.total_open_points());
        u128::from(in_flight) * 100 * weights < self.allowed * weight
    }
}
