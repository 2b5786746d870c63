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

mod client_stream;
pub(super) mod connection;
mod flood;
mod head;
mod inlet;
mod outlet;
mod transport;

pub(super) use flood::PREFACE;
