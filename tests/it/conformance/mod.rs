//! What Homing answers to what is malformed: tables of exact bytes, each run
//! against the real proxy on real sockets. `docs/conformance.md` is printed
//! from the same tables:
//!
//! `UPDATE_DOCS=1 cargo test --test it conformance`

mod bodies;
mod docs;
mod framing;
mod heads;
mod hops;
mod http2;
mod http2_cases;
mod http2_frames;
mod lines;
mod responses;
mod targets;

use std::borrow::Cow;

/// A request, and what becomes of it.
pub(crate) struct Case {
    /// What is wrong with it.
    pub(crate) class: &'static str,
    /// The section of the RFC that says so.
    pub(crate) rfc: &'static str,
    /// All that the client sends.
    pub(crate) bytes: Cow<'static, [u8]>,
    pub(crate) outcome: Outcome,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// This status, with this word in the body; the connection is closed, and no
    /// backend has a request that is whole.
    Refused(u16, &'static str),
    /// It is not malformed for who knows what may be dropped: the backend gets
    /// this request line and Host, and none of these fields.
    Passed { line: &'static str, host: &'static str, without: &'static [&'static str] },
}

fn case(
    class: &'static str,
    rfc: &'static str,
    bytes: impl Into<Cow<'static, [u8]>>,
    outcome: Outcome,
) -> Case {
    Case { class, rfc, bytes: bytes.into(), outcome }
}
