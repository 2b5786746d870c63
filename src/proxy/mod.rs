//! The data plane: accepts connections, forwards requests.
//!
//! `request/pipeline.rs` is the path of a request, top to bottom; start there. Nothing here
//! writes what another worker reads on a request's way, but the backends' live counters and
//! the table.

mod backend;
mod bridge;
pub mod client;
pub mod connection_counts;
mod request;
mod retry;
mod route;
mod view;
mod wire;
pub mod worker;
