//! HTTP/2 (RFC 9113), in front of the same pipeline as HTTP/1.
//!
//! Every stream of a client is bridged: to the pipeline it is a connection of
//! its own with one HTTP/1.1 request on it. There is one framing, one parser
//! and one place where a request is judged; what HTTP/2 could smuggle past
//! them does not exist, and HTTP/1 does not pay for it.
//!
//! ```text
//! connection ─ client_stream ─ inlet ─┐ request as text → request.rs
//!     │              └──────── outlet ┘ ← response as text
//!  transport (flood)
//! ```
//!
//! The same towards backends: `links` are the connections to one, each with a
//! `link` that moves its frames, and a request's stream on one is bridged.

mod backend_stream;
mod client_stream;
pub(super) mod connection;
mod fault;
mod flood;
mod head;
mod inlet;
mod link;
mod links;
mod outlet;
mod request_text;
mod transport;

pub(super) use fault::{Fault, is_not_http2};
pub(super) use flood::PREFACE;
pub(super) use link::not_chosen;
pub(super) use links::{Links, unshared};
