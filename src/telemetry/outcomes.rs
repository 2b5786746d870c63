//! Indices of outcomes and reasons in arrays of counters.

use crate::affinity::pick::{Outcome, Reason};

/// All outcomes, in the order of their counters.
pub(crate) const OUTCOMES: [Outcome; 4] = [Outcome::Kept, Outcome::New, Outcome::Moved, Outcome::Unkeyed];

/// All reasons, in the order of their counters.
pub(crate) const REASONS: [Reason; 9] = [
    Reason::BackendDown,
    Reason::Drained,
    Reason::Maint,
    Reason::Removed,
    Reason::Expired,
    Reason::Forged,
    Reason::Capacity,
    Reason::Hint,
    Reason::Shunned,
];

/// Returns the index of an outcome in [`OUTCOMES`].
pub(crate) const fn outcome_index(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Kept => 0,
        Outcome::New => 1,
        Outcome::Moved => 2,
        Outcome::Unkeyed => 3,
    }
}

/// Returns the index of a reason in [`REASONS`].
pub(crate) const fn reason_index(reason: Reason) -> usize {
    match reason {
        Reason::BackendDown => 0,
        Reason::Drained => 1,
        Reason::Maint => 2,
        Reason::Removed => 3,
        Reason::Expired => 4,
        Reason::Forged => 5,
        Reason::Capacity => 6,
        Reason::Hint => 7,
        Reason::Shunned => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_match_the_lists() {
        for (i, outcome) in OUTCOMES.into_iter().enumerate() {
            assert_eq!(outcome_index(outcome), i);
        }
        for (i, reason) in REASONS.into_iter().enumerate() {
            assert_eq!(reason_index(reason), i);
        }
    }
}
