//! Heads, as the pipeline sees them.

use super::{Connection, Fields, Framing, Version};
use crate::affinity::message::{RequestView, ResponseView};

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes from the first to the empty line's LF.
    pub head_bytes: usize,
    /// Field lines; at most [`super::MAX_FIELDS`].
    pub fields: usize,
    /// Bytes of the request target.
    pub uri_bytes: usize,
}

/// What came of parsing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The whole head.
    Complete {
        /// The head.
        head: T,
        /// Its length in the input, empty line included; the body starts there.
        len: usize,
    },
    /// Right so far; more bytes are needed.
    Partial,
}

/// What a request is for (RFC 9112 §3.2). Authority-form is CONNECT's, and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'b> {
    /// `/path?query`.
    Origin(&'b str),
    /// `http://authority/path?query`.
    Absolute {
        /// `http` or `https`, in any case.
        scheme: &'b str,
        /// Checked like Host.
        authority: &'b str,
        /// What an origin server is to be sent: never empty, `*` for OPTIONS without a path (RFC 9112 §3.2.4).
        path_and_query: &'b str,
    },
    /// `*`, of OPTIONS.
    Asterisk,
}

impl<'b> Target<'b> {
    /// What an origin server is to be sent: origin-form, or `*`.
    pub fn path_and_query(&self) -> &'b str {
        match self {
            Self::Origin(path_and_query) | Self::Absolute { path_and_query, .. } => path_and_query,
            Self::Asterisk => "*",
        }
    }
}

/// A request's head; borrows the bytes it was parsed from.
#[derive(Debug, Clone)]
pub struct RequestHead<'b> {
    /// A token of at most [`super::MAX_METHOD`] bytes, case as received.
    pub method: &'b str,
    /// What it is for.
    pub target: Target<'b>,
    /// The client's version.
    pub version: Version,
    /// All fields, in order.
    pub fields: Fields<'b>,
    /// The authority that counts, port included: the target's where it has
    /// one, else Host (RFC 9112 §3.2.2). Empty only for HTTP/1.0 without Host.
    pub host: &'b str,
    /// Where the body ends.
    pub framing: Framing,
    /// What Connection says.
    pub connection: Connection<'b>,
    /// `Expect: 100-continue`, in HTTP/1.1.
    pub expects_continue: bool,
    /// Upgrade, in HTTP/1.1, where Connection names it and there is but one line of it.
    pub upgrade: Option<&'b [u8]>,
}

impl RequestHead<'_> {
    /// May the client's connection carry another request after this one?
    pub fn persistent(&self) -> bool {
        self.connection.persistent(self.version)
    }
}

impl RequestView for RequestHead<'_> {
    fn path_and_query(&self) -> &str {
        self.target.path_and_query()
    }

    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.fields.values(name)
    }
}

/// A response's head; borrows the bytes it was parsed from.
#[derive(Debug, Clone)]
pub struct ResponseHead<'b> {
    /// 100..=599.
    pub status: u16,
    /// The reason phrase; may be empty, and may hold obs-text.
    pub reason: &'b [u8],
    /// The backend's version.
    pub version: Version,
    /// All fields, in order.
    pub fields: Fields<'b>,
    /// Where the body ends. None for responses to HEAD, 1xx, 204 and 304, whatever their fields say.
    pub framing: Framing,
    /// What Connection says.
    pub connection: Connection<'b>,
    /// Upgrade, where Connection names it and there is but one line of it.
    pub upgrade: Option<&'b [u8]>,
}

impl ResponseHead<'_> {
    /// May the backend's connection carry another request after this response?
    pub fn persistent(&self) -> bool {
        self.framing != Framing::UntilClose && self.connection.persistent(self.version)
    }
}

impl ResponseView for ResponseHead<'_> {
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.fields.values(name)
    }
}
