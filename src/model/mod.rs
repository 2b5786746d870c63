//! The validated configuration and the state that the data plane reads.
//!
//! `config` parses a file into a [`Config`]. `control` combines it with the backends' health into a
//! [`snapshot::Snapshot`], which is all that `proxy` reads.

pub mod client_net;
mod config;
pub mod line;
pub mod live;
pub mod live_tls;
pub mod router;
pub mod snapshot;

pub use config::*;
