//! The loads that the pick depends on.

/// The live load of the members.
pub trait Loads {
    /// Returns the requests and streams in flight to member `index`.
    fn in_flight(&self, index: u16) -> u32;
    /// Returns true if member `index` is at its connection limit. New sessions avoid it.
    fn saturated(&self, index: u16) -> bool;
}

/// Loads of idle backends, for decisions made outside a live proxy.
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
