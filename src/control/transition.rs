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
    /// Requests failed without an answer in between, or one failed while the backend was on trial.
    RequestsFailed {
        /// The clients whose requests failed.
        clients: usize,
        /// How long the backend is shunned at most.
        penalty: Duration,
    },
    /// Too many clients got 5xx responses within the window.
    ServerErrors {
        /// These clients.
        clients: usize,
        /// How long the backend is shunned at most.
        penalty: Duration,
    },
    /// The backend has answered nobody for at least a whole window, and no check asks its application.
    AnsweredNobody {
        /// The clients whose requests failed.
        clients: usize,
        /// For how long it has answered nobody.
        silence: Duration,
        /// How long the backend stays down.
        penalty: Duration,
    },
    /// The backend was not taken down because no other backend is eligible.
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
            | Self::AnsweredNobody { .. }
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
            Self::RequestsFailed { clients, penalty } => {
                write!(f, "requests of {} failed; shunned for at most {penalty:?}", Clients(*clients))
            }
            Self::ServerErrors { clients, penalty } => {
                write!(f, "{} got 5xx responses; shunned for at most {penalty:?}", Clients(*clients))
            }
            Self::AnsweredNobody { clients, silence, penalty } => write!(
                f,
                "answered nobody for {:?} while requests of {} failed; down for at least {penalty:?}",
                Duration::from_millis(u64::try_from(silence.as_millis()).unwrap_or(u64::MAX)),
                Clients(*clients)
            ),
            Self::LastEligible => {
                f.write_str("answers nobody; not taken down because no other backend is eligible")
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

/// A number of clients with its noun.
struct Clients(usize);

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} client{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}
