//! The pick: the affinity contract as one function, [`pick()`].
//!
//! It is pure: the same cluster, policy, loads and query give the same decision
//! in every proxy, and only new sessions and requests without a key look at the
//! loads at all. `docs/affinity.md` has the contract line by line.

mod loads;
mod place;
mod tried;

use super::{AdminState, Cluster, Health, KeyHash, Slot};
pub use loads::{Idle, Loads};
pub(super) use place::Cap;
use place::Placement;
pub use tried::Tried;

/// What happens when a session's backend cannot serve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// Go to the next on the walk and stay there.
    Sticky,
    /// Go to the next on the walk; return when the backend is back.
    Temporary,
    /// 503 until it is back.
    None,
}

/// What is remembered of the request's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Bindings are not kept (`remember = "none"`): the ring alone decides.
    RingOnly,
    /// Nothing is known: a new session.
    Absent,
    /// Bound to this backend.
    To(Slot),
    /// Bound to a backend that the proxy does not know any more.
    Unknown,
    /// Was bound, but the binding has expired.
    Expired,
    /// Claims a binding that does not authenticate.
    Forged,
}

/// A request's affinity outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It goes where its session is (with `RingOnly`: to its home).
    Kept,
    /// A new session was placed.
    New,
    /// It goes elsewhere than its session was.
    Moved,
    /// It has no key: it was load-balanced.
    Unkeyed,
}

impl Outcome {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::New => "new",
            Self::Moved => "moved",
            Self::Unkeyed => "unkeyed",
        }
    }
}

/// Why a session was moved, or a new one not placed at its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its backend is down, or could not be connected to.
    BackendDown,
    /// Its backend drains: the session cannot be kept (`RingOnly`), or a new
    /// one is placed elsewhere, or, where nobody else is up, there after all.
    Drained,
    /// Its backend is in maintenance.
    Maint,
    /// Its backend is no longer configured.
    Removed,
    /// Its binding has expired.
    Expired,
    /// Its binding did not authenticate.
    Forged,
    /// The backend may not have more: it is at its load cap or connection
    /// limit, or in slow start and not open to this key yet.
    Capacity,
}

impl Reason {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackendDown => "backend_down",
            Self::Drained => "drained",
            Self::Maint => "maint",
            Self::Removed => "removed",
            Self::Expired => "expired",
            Self::Forged => "forged",
            Self::Capacity => "capacity",
        }
    }
}

/// How new sessions and failovers are decided in an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What happens when a session's backend cannot serve it.
    pub failover: Failover,
    /// Bounded load in per cent of the mean (125 = 1.25 ×); `None`: no cap.
    pub balance_percent: Option<u32>,
}

/// One question to the pick.
#[derive(Debug)]
pub struct Query<'a> {
    /// The request's key, if it has one.
    pub key: Option<KeyHash>,
    /// What is remembered of it.
    pub binding: Binding,
    /// What earlier attempts have tried.
    pub tried: &'a Tried,
    /// May the answer be [`Decision::Hold`]?
    pub may_hold: bool,
    /// Two random numbers of 32 bits, for the choice of two among requests
    /// without a key.
    pub random: u64,
}

/// Where a request goes and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Member index.
    pub member: u16,
    /// Kept, new, moved or unkeyed.
    pub outcome: Outcome,
    /// Why it is not where it was, or not at home.
    pub reason: Option<Reason>,
    /// Is the binding to be written (it is new, or changes)? Where it is kept
    /// under the request's key and there is no key, it cannot be.
    pub rebind: bool,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it there.
    Send(Verdict),
    /// Its backend (member index) is away and may come back: wait for it, then
    /// ask again with it no longer in [`Query::tried`], or without leave to hold.
    Hold(u16),
    /// Nobody may serve it now: 503 with Retry-After. The reason is that of the
    /// session's backend or home, [`Reason::Capacity`] where all are full, and
    /// `None` for a request without either.
    Unavailable(Option<Reason>),
}

/// Decides where a request goes.
pub fn pick(cluster: &Cluster, policy: Policy, loads: &impl Loads, query: &Query<'_>) -> Decision {
    let ask = Ask { cluster, policy, loads, query };
    match query.binding {
        Binding::To(slot) => match cluster.index_of(slot) {
            Some(member) => ask.bound(member),
            None => ask.removed(),
        },
        Binding::Unknown => ask.removed(),
        Binding::RingOnly => ask.ring_only(),
        Binding::Absent => ask.new_session(None),
        Binding::Expired => ask.new_session(Some(Reason::Expired)),
        Binding::Forged => ask.new_session(Some(Reason::Forged)),
    }
}

/// Where the session of `key` goes if `member` goes down, as long as nothing
/// else changes: the first other on its walk that is eligible for new, or, if
/// there is none, the first that drains. `None` if nobody else is up.
pub fn successor(cluster: &Cluster, key: KeyHash, member: u16) -> Option<u16> {
    heir(cluster, key, |other| other == member)
}

/// One question with everything that bears on it.
struct Ask<'a, L> {
    cluster: &'a Cluster,
    policy: Policy,
    loads: &'a L,
    query: &'a Query<'a>,
}

impl<L: Loads> Ask<'_, L> {
    /// A session that is bound to `member`, which is configured.
    fn bound(&self, member: u16) -> Decision {
        let Some(reason) = self.cannot_keep(member) else {
            return send(member, Outcome::Kept, None, false);
        };
        if let Some(decision) = self.stays_away(member, reason) {
            return decision;
        }
        self.fail_over(reason, self.policy.failover == Failover::Sticky)
    }

    /// A session whose backend is not configured any more: whatever the
    /// policy says of a return, there is nobody to return to.
    fn removed(&self) -> Decision {
        self.fail_over(Reason::Removed, true)
    }

    /// A request of which nothing is remembered, because nothing ever is.
    fn ring_only(&self) -> Decision {
        let Some(key) = self.query.key else {
            return self.unkeyed(Outcome::Unkeyed, None, false);
        };
        let Some((home, replica)) = self.cluster.ring().home_point(key) else {
            return Decision::Unavailable(None);
        };
        if replica < self.cluster.open_points(home) && !self.query.tried.contains(home) {
            return send(home, Outcome::Kept, None, false);
        }
        if let Some(decision) = self.cannot_keep(home).and_then(|reason| self.stays_away(home, reason)) {
            return decision;
        }
        let reason = self.why_not(home);
        match heir(self.cluster, key, |member| self.query.tried.contains(member)) {
            Some(member) if member == home => send(home, Outcome::Kept, None, false),
            Some(member) => send(member, Outcome::Moved, Some(reason), false),
            None => Decision::Unavailable(Some(reason)),
        }
    }

    /// A session that is to be bound; `lost` says what became of a binding
    /// that it had.
    fn new_session(&self, lost: Option<Reason>) -> Decision {
        let Some(key) = self.query.key else {
            return self.unkeyed(lost.map_or(Outcome::Unkeyed, |_| Outcome::New), lost, true);
        };
        let Some(home) = self.cluster.ring().home(key) else {
            return Decision::Unavailable(None);
        };
        match self.placement().on_the_walk(key) {
            Ok(placed) => {
                let reason = lost.or_else(|| {
                    if placed.passed_over {
                        Some(Reason::Capacity)
                    } else if placed.member != home || placed.last_resort {
                        Some(self.why_not(home))
                    } else {
                        None
                    }
                });
                send(placed.member, Outcome::New, reason, true)
            }
            Err(full) => {
                Decision::Unavailable(Some(if full { Reason::Capacity } else { self.why_not(home) }))
            }
        }
    }

    /// A session that leaves its backend. Loads don't matter: every proxy is to
    /// find the same heir, the one that was announced.
    fn fail_over(&self, reason: Reason, rebind: bool) -> Decision {
        let Some(key) = self.query.key else {
            return self.unkeyed(Outcome::Moved, Some(reason), rebind);
        };
        match heir(self.cluster, key, |member| self.query.tried.contains(member)) {
            Some(member) => send(member, Outcome::Moved, Some(reason), rebind),
            None => Decision::Unavailable(Some(reason)),
        }
    }

    fn unkeyed(&self, outcome: Outcome, reason: Option<Reason>, rebind: bool) -> Decision {
        match self.placement().of_two(self.query.random) {
            Ok(member) => send(member, outcome, reason, rebind),
            Err(true) => Decision::Unavailable(Some(Reason::Capacity)),
            Err(false) => Decision::Unavailable(reason),
        }
    }

    fn placement(&self) -> Placement<'_, L> {
        Placement {
            cluster: self.cluster,
            loads: self.loads,
            tried: self.query.tried,
            balance_percent: self.policy.balance_percent,
        }
    }

    /// The sessions of a backend that is away may wait for it, or have to.
    fn stays_away(&self, member: u16, reason: Reason) -> Option<Decision> {
        if self.query.may_hold && reason == Reason::BackendDown {
            return Some(Decision::Hold(member));
        }
        (self.policy.failover == Failover::None).then_some(Decision::Unavailable(Some(reason)))
    }

    /// Why `member` cannot serve a session that is there, if it cannot.
    fn cannot_keep(&self, member: u16) -> Option<Reason> {
        match self.why_not(member) {
            reason @ (Reason::BackendDown | Reason::Maint) => Some(reason),
            _ => None,
        }
    }

    /// Why `member` was not taken although it was met first. A person's wish
    /// explains more than what follows from it, and for somebody who is up,
    /// ready and not tried it can only be that slow start has not come to this
    /// key yet.
    fn why_not(&self, member: u16) -> Reason {
        let state = &self.cluster.members()[usize::from(member)];
        match (state.admin, state.health) {
            (AdminState::Maint, _) => Reason::Maint,
            (_, Health::Down) => Reason::BackendDown,
            _ if self.query.tried.contains(member) => Reason::BackendDown,
            (AdminState::Drain, Health::Up) => Reason::Drained,
            (AdminState::Ready, Health::Up) => Reason::Capacity,
        }
    }
}

/// The first on the walk that may be given sessions and is not `out`. A draining
/// backend is the last resort: worse than any that is not, better than an error.
fn heir(cluster: &Cluster, key: KeyHash, out: impl Fn(u16) -> bool) -> Option<u16> {
    let ring = cluster.ring();
    ring.first(key, |member, replica| replica < cluster.open_points(member) && !out(member)).or_else(|| {
        ring.first(key, |member, _| {
            cluster.members()[usize::from(member)].eligible_for_existing() && !out(member)
        })
    })
}

fn send(member: u16, outcome: Outcome, reason: Option<Reason>, rebind: bool) -> Decision {
    Decision::Send(Verdict { member, outcome, reason, rebind })
}

#[cfg(test)]
mod tests;
