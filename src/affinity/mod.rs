//! Session affinity: which backend does this request belong to?
//!
//! Everything here is pure: no sockets, no runtime, no clock (time is an
//! argument), so that each line of the affinity contract is a property test.
//! The path of a request through this module:
//!
//! 1. [`key`] finds what identifies the session (cookie, header, address …);
//! 2. [`table`] or [`cookie`] says which backend the session is bound to;
//! 3. [`pick`] decides, over the [`ring`] and the backends' states;
//! 4. [`learn`] reads the response for ids that the backend minted.
//!
//! The words are those of `docs/lexicon.md`.

pub mod backend;
pub mod client_ip;
pub mod cluster;
pub mod cookie;
pub mod explain;
pub mod hash;
pub mod key;
pub mod learn;
pub mod message;
pub mod pick;
pub mod recall;
pub mod ring;
pub mod table;

pub use backend::{AdminState, BackendId, Health, Slot, Timestamp, Weight};
pub use cluster::{Cluster, Member};
pub use hash::{KeyHash, Seed};
