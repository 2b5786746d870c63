//! The control plane. One task owns the state of all backends and publishes immutable snapshots of
//! it to the workers.
//!
//! - [`state`] is the reducer. It takes events and the current time, and returns a
//!   [`Snapshot`](crate::model::snapshot::Snapshot) and the transitions to log. It has no runtime
//!   and no clock, so a seeded simulation can run years of virtual time in a second.
//! - [`probe`] runs one active check of one backend.
//! - [`controller`] joins the two: it runs the checks, feeds the reducer and publishes snapshots
//!   through a `watch` channel.
//!
//! Control never imports the proxy, and the proxy never imports control.

mod backend;
mod build;
pub mod controller;
mod failures;
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
