//! Session affinity: which backend a request belongs to.
//!
//! Everything here is pure: no sockets, no runtime, no clock (time is an argument). Each line of
//! the affinity contract can therefore be a property test. A request passes through:
//!
//! 1. [`key`] finds what identifies the session (cookie, header, address, …);
//! 2. [`table`] and [`cookie`] say which backend the session is bound to ([`recall`] asks them);
//! 3. [`pick`] decides, from the [`ring`] and the state of the backends;
//! 4. [`learn`] reads the response for session ids that the backend set.
//!
//! [`crowd`] notices when one address brings most of the new sessions.
//!
//! `docs/lexicon.md` defines the terms.

pub mod backend;
pub mod client_ip;
pub mod cluster;
pub mod cookie;
pub mod crowd;
pub mod explain;
pub mod hash;
pub mod key;
pub mod learn;
pub mod message;
pub mod name;
pub mod pick;
pub mod recall;
pub mod recent;
pub mod ring;
mod siphash;
pub mod table;

pub use backend::{AdminState, BackendId, Health, Slot, Timestamp, Weight};
pub use cluster::{Cluster, Member};
pub use hash::{KeyHash, Seed};
pub use name::SessionName;
