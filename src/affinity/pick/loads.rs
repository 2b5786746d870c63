//! The loads that the pick looks at.

/// What the pick asks of the live counters.
pub trait Loads {
    /// Requests and streams in flight to member `index`.
    fn in_flight(&self, index: u16) -> u32;
    /// Is member `index` at its connection limit (new sessions avoid it)?
    fn saturated(&self, index: u16) -> bool;
}

/// Loads of backends that do nothing: for questions asked away from a live
/// proxy.
#[derive(Debug, Clone, Copy, Default)]
pub struct Idle;

impl Loads for Idle {
    fn in_flight(&self, _: u16) -> u32 {
        0
    }

    fn saturated(&self, _: u16) -> bool {
        false
    }
}
