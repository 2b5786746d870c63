//! Explains a routing decision to people: `homing explain`.
//!
//! The decision comes from [`pick()`] itself; the walk beside it says what the pick saw of each
//! member. This is not on the request path.

use super::pick::{Binding, Cap, Decision, Loads, Policy, Query, pick, successor};
use super::{AdminState, Cluster, Health, KeyHash};

/// The full explanation of one decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The member that the ring gives the key, regardless of its state; `None` without a key.
    pub home: Option<u16>,
    /// The member that the session is bound to, or that a hint points to, if it is configured.
    pub bound: Option<u16>,
    /// The key's walk; empty without a key. It is the same whether or not the session is kept: it
    /// shows where the session would go.
    pub steps: Vec<Step>,
    /// Where the request goes.
    pub decision: Decision,
    /// The announced successor of the backend that the request goes to or waits for.
    pub successor: Option<u16>,
}

/// One member on the walk. A member in slow start appears twice if its active points come later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its index.
    pub member: u16,
    /// Why it is skipped; `None` if it can be taken.
    pub passed: Option<Passed>,
}

/// Why the walk skips a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Passed {
    /// It is in maintenance.
    Maint,
    /// It is down.
    Down,
    /// An earlier attempt of this request failed there.
    Tried,
    /// It is draining. It is taken after all if no other member is up.
    Draining,
    /// It is in slow start, and this point is not active yet.
    SlowStart,
    /// Requests failed there lately (new sessions only). It is taken after all if no other member
    /// can be.
    Shunned,
    /// It is at its connection limit (new sessions only).
    Saturated,
    /// It is at its load cap (new sessions only).
    AtCap,
}

impl Passed {
    /// Returns the text shown to people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Maint => "maint",
            Self::Down => "down",
            Self::Tried => "tried",
            Self::Draining => "draining",
            Self::SlowStart => "slow start",
            Self::Shunned => "shunned",
            Self::Saturated => "at its connection limit",
            Self::AtCap => "at its load cap",
        }
    }
}

/// Explains what [`pick()`] decides for the same arguments.
pub fn explain(cluster: &Cluster, policy: Policy, loads: &impl Loads, query: &Query<'_>) -> Explanation {
    let decision = pick(cluster, policy, loads, query);
    let serves = match decision {
        Decision::Send(verdict) => Some(verdict.member),
        Decision::Hold(member) => Some(member),
        Decision::Unavailable(_) => None,
    };
    Explanation {
        home: query.key.and_then(|key| cluster.ring().home(key)),
        bound: match query.binding {
            Binding::To(slot) | Binding::Hint(slot) => cluster.index_of(slot),
            _ => None,
        },
        steps: query.key.map_or_else(Vec::new, |key| steps(cluster, policy, loads, query, key)),
        decision,
        successor: query.key.zip(serves).and_then(|(key, member)| successor(cluster, key, member)),
    }
}

fn steps(
    cluster: &Cluster,
    policy: Policy,
    loads: &impl Loads,
    query: &Query<'_>,
    key: KeyHash,
) -> Vec<Step> {
    let is_new =
        matches!(query.binding, Binding::Absent | Binding::Expired | Binding::Forged | Binding::Hint(_));
    let cap = policy.balance_percent.filter(|_| is_new).map(|percent| Cap::new(cluster, loads, percent));
    let passed = |member: u16, replica: u32| {
        let state = &cluster.members()[usize::from(member)];
        if state.admin == AdminState::Maint {
            Some(Passed::Maint)
        } else if state.health == Health::Down {
            Some(Passed::Down)
        } else if query.tried.contains(member) {
            Some(Passed::Tried)
        } else if state.admin == AdminState::Drain {
            Some(Passed::Draining)
        } else if replica >= cluster.open_points(member) {
            Some(Passed::SlowStart)
        } else if is_new && cluster.shuns(member) {
            Some(Passed::Shunned)
        } else if is_new && loads.saturated(member) {
            Some(Passed::Saturated)
        } else if cap.as_ref().is_some_and(|cap| !cap.admits(member, loads.in_flight(member))) {
            Some(Passed::AtCap)
        } else {
            None
        }
    };

    let mut steps = Vec::new();
    let mut met = vec![Met::Never; cluster.members().len()];
    let mut left = met.len();
    for (member, replica) in cluster.ring().points_met(key) {
        if left == 0 {
            break;
        }
        let before = &mut met[usize::from(member)];
        if *before == Met::Settled {
            continue;
        }
        let passed = passed(member, replica);
        let now = if passed == Some(Passed::SlowStart) { Met::Early } else { Met::Settled };
        if *before != now {
            steps.push(Step { member, passed });
            left -= usize::from(now == Met::Settled);
            *before = now;
        }
    }
    steps
}

/// What the walk has seen of a member so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    Never,
    /// Seen at a point that is not active yet.
    Early,
    /// Seen at an active point.
    Settled,
}
