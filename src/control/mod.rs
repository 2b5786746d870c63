//! The control plane: one task owns the state of all backends and publishes
//! it, whole and immutable, to the workers.
//!
//! - [`state`] is the reducer: events and a virtual clock in, a
//!   [`Snapshot`](crate::model::snapshot::Snapshot) and what is to be logged
//!   out. It has no runtime and no clock, so that a seeded simulation can
//!   drive it through years in a second.
//! - [`probe`] is one active check of one backend.
//! - [`controller`] joins the two: it runs the checks, feeds the reducer and
//!   publishes through a `watch` channel.
//!
//! Control never imports the proxy, and the proxy never imports control.

mod backend;
mod build;
pub mod controller;
#[cfg(test)]
mod fixture;
mod health;
mod memory;
mod penalty;
pub mod probe;
mod prober;
mod reload;
mod slots;
mod slow_start;
pub mod state;
mod transition;
mod upstream;

pub use controller::{ControlError, ControlHandle, start};
pub use reload::{ReloadSummary, UpstreamChange, UpstreamChangeKind};
pub use slots::{SlotRegistry, Slots, TooManyBackends};
pub use state::{ControlState, Effects, Event, UnknownBackend};
pub use transition::{Transition, TransitionReason};
