//! The pick: the affinity contract as one function, [`pick()`].
//!
//! It is pure: the same cluster, policy, loads and query give the same decision in every proxy.
//! Only new sessions and requests without a key depend on the loads. `docs/affinity.md` has the
//! contract line by line.

mod loads;
mod place;
mod tried;

use super::{AdminState, Cluster, Health, KeyHash, Slot};
pub use loads::{Idle, Loads};
pub(super) use place::Cap;
use place::Placement;
pub use tried::Tried;

/// What to do when a session's backend cannot serve it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failover {
    /// Go to the next backend on the walk and stay there.
    Sticky,
    /// Go to the next backend on the walk; return when the original is back.
    Temporary,
    /// Answer 503 until it is back.
    None,
}

/// What is known about the request's session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// Bindings are not stored (`remember = "none"`): the ring alone decides.
    RingOnly,
    /// Nothing is known: a new session.
    Absent,
    /// Bound to the backend in this slot.
    To(Slot),
    /// Bound to a backend that is no longer configured.
    Unknown,
    /// Was bound, but the binding has expired.
    Expired,
    /// Claims a binding that is not authentic.
    Forged,
    /// A new session of a client that has been at the backend in this slot.
    Hint(Slot),
}

/// The affinity outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It goes where its session is (with `RingOnly`: to its home).
    Kept,
    /// A new session was placed.
    New,
    /// It goes to another backend than its session was on.
    Moved,
    /// It has no key: it was load-balanced.
    Unkeyed,
}

impl Outcome {
    /// Returns the name used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::New => "new",
            Self::Moved => "moved",
            Self::Unkeyed => "unkeyed",
        }
    }
}

/// Why a session was moved, or why a new one was not placed at its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Its backend is down or refused the connection.
    BackendDown,
    /// Its backend is draining. The session cannot be kept (`RingOnly`), or a new session is placed
    /// elsewhere, or there after all if no other backend is up.
    Drained,
    /// Its backend is in maintenance.
    Maint,
    /// Its backend is no longer configured.
    Removed,
    /// Its binding has expired.
    Expired,
    /// Its binding was not authentic.
    Forged,
    /// Requests failed at its home lately, so new sessions are placed elsewhere.
    Shunned,
    /// The backend cannot take more: it is at its load cap or connection limit, or in slow start
    /// and not open to this key yet.
    Capacity,
    /// The client's last session is at the backend.
    Hint,
}

impl Reason {
    /// Returns the name used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BackendDown => "backend_down",
            Self::Drained => "drained",
            Self::Maint => "maint",
            Self::Removed => "removed",
            Self::Expired => "expired",
            Self::Forged => "forged",
            Self::Shunned => "shunned",
            Self::Capacity => "capacity",
            Self::Hint => "hint",
        }
    }
}

/// How an upstream places new sessions and fails over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What to do when a session's backend cannot serve it.
    pub failover: Failover,
    /// Bounded load in percent of the mean (125 = 1.25 ×); `None`: no cap.
    pub balance_percent: Option<u32>,
    /// Whether active checks decide health. If so, a failed attempt alone proves nothing about the
    /// backend: it moves the request that saw it, and no binding. A refused connection does prove
    /// something: the process with the session is gone.
    pub checked: bool,
}

/// The input to [`pick()`].
#[derive(Debug)]
pub struct Query<'a> {
    /// The request's key, if it has one.
    pub key: Option<KeyHash>,
    /// What is known about its session.
    pub binding: Binding,
    /// The members that earlier attempts have tried.
    pub tried: &'a Tried,
    /// Whether the decision may be [`Decision::Hold`].
    pub may_hold: bool,
    /// Two random 32-bit numbers, for the power-of-two choice among requests without a key.
    pub random: u64,
}

/// Where a request goes and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The member's index.
    pub member: u16,
    /// Kept, new, moved or unkeyed.
    pub outcome: Outcome,
    /// Why it moved, or why it is not at home.
    pub reason: Option<Reason>,
    /// Whether the binding must be written because it is new or has changed. A binding stored under
    /// the request's key cannot be written if there is no key.
    pub rebind: bool,
}

/// The result of [`pick()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send it there.
    Send(Verdict),
    /// Its backend (member index) is away and may return: wait for it, then pick again with the
    /// member removed from [`Query::tried`], or with [`Query::may_hold`] false.
    Hold(u16),
    /// No member can serve it now: answer 503 with Retry-After. The reason is that of the session's
    /// backend or home, [`Reason::Capacity`] if all are full, and `None` for a request without
    /// either.
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
        Binding::Hint(slot) => ask.near(slot),
    }
}

/// Returns the member that gets the session of `key` if `member` goes down and nothing else
/// changes: the first other member on its walk that is eligible for new or, if there is none, the
/// first that is draining. `None` if no other member is up.
pub fn successor(cluster: &Cluster, key: KeyHash, member: u16) -> Option<u16> {
    heir(cluster, key, |other| other == member)
}

/// A query with everything it depends on.
struct Ask<'a, L> {
    cluster: &'a Cluster,
    policy: Policy,
    loads: &'a L,
    query: &'a Query<'a>,
}

impl<L: Loads> Ask<'_, L> {
    /// Decides for a session bound to `member`, which is configured.
    fn bound(&self, member: u16) -> Decision {
        let Some(reason) = self.cannot_keep(member) else {
            return send(member, Outcome::Kept, None, false);
        };
        if let Some(decision) = self.stays_away(member, reason) {
            return decision;
        }
        let gone = self.query.tried.has_refused(member)
            || !self.cluster.members()[usize::from(member)].eligible_for_existing();
        let proven = gone || !self.policy.checked;
        self.fail_over(reason, proven && self.policy.failover == Failover::Sticky)
    }

    /// Decides for a session whose backend is no longer configured. It is rebound under every
    /// failover policy, because there is no backend to return to.
    fn removed(&self) -> Decision {
        self.fail_over(Reason::Removed, true)
    }

    /// Decides for a request when bindings are never stored.
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

    /// Decides for a session that must be bound. `lost` says why a previous binding was lost.
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
                        Some(self.why_not_for_new(home))
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

    /// Decides for a new session of a client that has been at the backend in `slot`: it is placed
    /// there if that backend has room for new sessions.
    fn near(&self, slot: Slot) -> Decision {
        let hinted = self.cluster.index_of(slot).filter(|member| self.placement().has_room(*member));
        let Some(member) = hinted else { return self.new_session(None) };
        let home = self.query.key.and_then(|key| self.cluster.ring().home(key));
        let outcome = if self.query.key.is_some() { Outcome::New } else { Outcome::Unkeyed };
        send(member, outcome, (home != Some(member)).then_some(Reason::Hint), true)
    }

    /// Decides for a session that leaves its backend. Loads are ignored: every proxy must find the
    /// same heir, which is the successor announced earlier.
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

    /// Returns the decision if the session must not leave its backend: hold the request, or refuse
    /// it.
    fn stays_away(&self, member: u16, reason: Reason) -> Option<Decision> {
        if self.query.may_hold && reason == Reason::BackendDown {
            return Some(Decision::Hold(member));
        }
        (self.policy.failover == Failover::None).then_some(Decision::Unavailable(Some(reason)))
    }

    /// Returns why `member` cannot serve a session bound to it, or `None` if it can.
    fn cannot_keep(&self, member: u16) -> Option<Reason> {
        match self.why_not(member) {
            reason @ (Reason::BackendDown | Reason::Maint) => Some(reason),
            _ => None,
        }
    }

    /// Returns why a new session was not placed at `member` although it came first.
    fn why_not_for_new(&self, member: u16) -> Reason {
        match self.why_not(member) {
            Reason::Capacity if self.cluster.members()[usize::from(member)].shunned => Reason::Shunned,
            reason => reason,
        }
    }

    /// Returns why `member` was not taken although it came first. The admin state explains more
    /// than its consequences, so it is checked first. If a member is up, ready and not tried, slow
    /// start has not opened it to this key yet.
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

/// Returns the first member on the walk that may get new sessions and is not `out`. Whether it is
/// shunned plays no part: clients can make a proxy shun a backend, and must not be able to choose
/// another heir than the one announced. A draining
/// backend is the last resort: worse than any that is not draining, better than an error.
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
