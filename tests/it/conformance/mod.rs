//! Answers to malformed messages: tables of exact bytes, each run against the
//! real proxy on real sockets. The tables in `docs/conformance.md` are generated
//! from the same data:
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

/// A request and its expected outcome.
pub(crate) struct Case {
    /// The class of malformed input, as the page shows it.
    pub(crate) class: &'static str,
    /// The RFC section with the rule.
    pub(crate) rfc: &'static str,
    /// Everything that the client sends.
    pub(crate) bytes: Cow<'static, [u8]>,
    pub(crate) outcome: Outcome,
}

/// The expected outcome of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Outcome {
    /// Rejected with this status and this code in the body. The connection is closed
    /// and no backend receives a complete request.
    Rejected(u16, &'static str),
    /// Unusual but valid: the backend receives this request line and Host, and none
    /// of these headers.
    Forwarded { line: &'static str, host: &'static str, without: &'static [&'static str] },
}

fn case(
    class: &'static str,
    rfc: &'static str,
    bytes: impl Into<Cow<'static, [u8]>>,
    outcome: Outcome,
) -> Case {
    Case { class, rfc, bytes: bytes.into(), outcome }
}
