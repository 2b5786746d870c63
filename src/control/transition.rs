//! State transitions and their reasons, as logged.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::probe::ProbeFailure;
use crate::affinity::BackendId;

/// A state change of a backend or upstream that is logged for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The backend; `None` if the transition concerns the whole upstream.
    pub backend: Option<BackendId>,
    /// The state before: `up`, `down`, `ready`, `drain`, `maint`, `absent` …
    pub from: &'static str,
    /// The state after.
    pub to: &'static str,
    /// The reason.
    pub reason: TransitionReason,
}

/// The reason why a state changed, or deliberately did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransitionReason {
    /// `fall` consecutive active checks failed.
    ChecksFailed {
        /// Why the last one failed.
        last: ProbeFailure,
        /// Minimum time that it stays down because it flaps.
        held_for: Duration,
    },
    /// `rise` consecutive active checks passed.
    ChecksPassed,
    /// Consecutive requests failed, or one failed while the backend was on trial.
    RequestsFailed {
        /// How long the backend is ejected.
        penalty: Duration,
    },
    /// Too many 5xx responses within the window.
    ServerErrors {
        /// How long the backend is ejected.
        penalty: Duration,
    },
    /// The backend was not ejected because no other backend is eligible.
    LastEligible,
    /// The penalty is over and the backend is on trial.
    PenaltyOver,
    /// The rest of the penalty was waived because no other backend is eligible.
    PenaltyWaived,
    /// An operator set the state.
    Operator,
    /// The backend started or stopped answering checks with a `drain_status`.
    Backend,
    /// The configuration was reloaded.
    Reload,
    /// `remember` was changed to a different store.
    RememberChanged,
}

impl TransitionReason {
    /// Returns whether to log the transition as a warning.
    pub fn is_warning(self) -> bool {
        match self {
            Self::ChecksFailed { .. }
            | Self::RequestsFailed { .. }
            | Self::ServerErrors { .. }
            | Self::LastEligible
            | Self::PenaltyWaived
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
                write!(f, "checks failed: {last}; flapping, held down for at least {held_for:?}")
            }
            Self::ChecksPassed => f.write_str("checks passed"),
            Self::RequestsFailed { penalty } => write!(f, "requests failed; ejected for {penalty:?}"),
            Self::ServerErrors { penalty } => write!(f, "too many 5xx responses; ejected for {penalty:?}"),
            Self::LastEligible => {
                f.write_str("requests failed; not ejected because no other backend is eligible")
            }
            Self::PenaltyOver => f.write_str("penalty is over; on trial"),
            Self::PenaltyWaived => f.write_str("penalty waived because no other backend is eligible"),
            Self::Operator => f.write_str("set by operator"),
            Self::Backend => f.write_str("requested by the backend"),
            Self::Reload => f.write_str("configuration reloaded"),
            Self::RememberChanged => f.write_str("`remember` changed; all bindings are lost"),
        }
    }
}
