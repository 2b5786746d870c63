//! What a valid configuration means, and the state the data plane reads.
//!
//! `config` parses a file into a [`Config`]; `control` turns it, with what
//! the checks say, into a [`snapshot::Snapshot`]; `proxy` reads only that.

mod config;
pub mod live;
pub mod router;
pub mod snapshot;

pub use config::*;
