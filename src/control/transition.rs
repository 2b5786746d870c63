//! What is told of a change: one line per transition, with its reason.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::probe::ProbeFailure;
use crate::affinity::BackendId;

/// Something an operator wants to know happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The backend; `None` where it concerns the whole upstream.
    pub backend: Option<BackendId>,
    /// The state before: `up`, `down`, `ready`, `drain`, `maint`, `absent` …
    pub from: &'static str,
    /// The state after.
    pub to: &'static str,
    /// Why.
    pub reason: TransitionReason,
}

/// Why a state changed (or deliberately did not).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransitionReason {
    /// Active checks failed `fall` times in a row.
    ChecksFailed {
        /// What the last one failed of.
        last: ProbeFailure,
        /// How long it stays down at least, for it has flapped.
        held_for: Duration,
    },
    /// Active checks passed `rise` times in a row.
    ChecksPassed,
    /// Requests failed: in a row, or once while on trial.
    RequestsFailed {
        /// How long it is ejected.
        penalty: Duration,
    },
    /// Too many 5xx responses within the window.
    ServerErrors {
        /// How long it is ejected.
        penalty: Duration,
    },
    /// It would have been ejected, but nobody else is eligible.
    LastEligible,
    /// The penalty is over; it is back on trial.
    PenaltyOver,
    /// Nobody else is eligible: what was left of its penalty is waived.
    PenaltyWaived,
    /// An operator said so.
    Operator,
    /// The backend answered its check with a `drain_status`, or stopped to.
    Backend,
    /// A reload of the configuration.
    Reload,
    /// The ring's seed was changed: keys hash to something else, so that the
    /// bindings kept so far can no longer be found.
    SeedChanged,
    /// `remember` was changed to another kind of memory.
    RememberChanged,
}

impl TransitionReason {
    /// Does it call for somebody's attention?
    pub fn is_warning(self) -> bool {
        match self {
            Self::ChecksFailed { .. }
            | Self::RequestsFailed { .. }
            | Self::ServerErrors { .. }
            | Self::LastEligible
            | Self::PenaltyWaived
            | Self::SeedChanged
            | Self::RememberChanged => true,
            Self::ChecksPassed | Self::PenaltyOver | Self::Operator | Self::Backend | Self::Reload => false,
        }
    }
}

impl fmt::Display for TransitionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChecksFailed { last, held_for } if held_for.is_zero() => write!(f, "checks failed: {last}"),
            Self::ChecksFailed { last, held_for } => {
                write!(f, "checks failed: {last}; it flaps and stays down for at least {held_for:?}")
            }
            Self::ChecksPassed => f.write_str("checks passed"),
            Self::RequestsFailed { penalty } => write!(f, "requests failed; ejected for {penalty:?}"),
            Self::ServerErrors { penalty } => write!(f, "too many 5xx responses; ejected for {penalty:?}"),
            Self::LastEligible => f.write_str("requests fail, but it is the last eligible backend"),
            Self::PenaltyOver => f.write_str("penalty over, on trial"),
            Self::PenaltyWaived => f.write_str("no other backend is eligible: penalty waived"),
            Self::Operator => f.write_str("operator"),
            Self::Backend => f.write_str("the backend's own wish"),
            Self::Reload => f.write_str("configuration"),
            Self::SeedChanged => f.write_str("the ring's seed changed: all bindings are forgotten"),
            Self::RememberChanged => f.write_str("remember changed: all bindings are forgotten"),
        }
    }
}
