//! Heads, as the pipeline sees them.

use super::{Connection, Fields, Framing, Version};
use crate::affinity::message::{RequestView, ResponseView};

/// Limits on the size of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes from the first one to the empty line's LF.
    pub head_bytes: usize,
    /// Field lines; at most [`super::MAX_FIELDS`].
    pub fields: usize,
    /// Bytes in the request target.
    pub uri_bytes: usize,
}

/// The result of parsing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The head is complete.
    Complete {
        /// The head.
        head: T,
        /// Its length in the input, including the empty line; the body starts there.
        len: usize,
    },
    /// Valid so far; more bytes are needed.
    Partial,
}

/// A request target (RFC 9112 §3.2). The authority form belongs to CONNECT and is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'b> {
    /// `/path?query`.
    Origin(&'b str),
    /// `http://authority/path?query`.
    Absolute {
        /// `http` or `https`, in any case.
        scheme: &'b str,
        /// The authority, validated like Host.
        authority: &'b str,
        /// The target for an origin server: never empty, `*` for OPTIONS without a path (RFC 9112
        /// §3.2.4).
        path_and_query: &'b str,
    },
    /// `*`, for OPTIONS.
    Asterisk,
}

impl<'b> Target<'b> {
    /// Returns the target for an origin server: the origin form or `*`.
    pub fn path_and_query(&self) -> &'b str {
        match self {
            Self::Origin(path_and_query) | Self::Absolute { path_and_query, .. } => path_and_query,
            Self::Asterisk => "*",
        }
    }
}

/// A request head; borrows the bytes it was parsed from.
#[derive(Debug, Clone)]
pub struct RequestHead<'b> {
    /// A token of at most [`super::MAX_METHOD`] bytes, case as received.
    pub method: &'b str,
    /// The request target.
    pub target: Target<'b>,
    /// The client's version.
    pub version: Version,
    /// All fields, in order.
    pub fields: Fields<'b>,
    /// The effective authority, including the port: the target's if it has one, else Host (RFC 9112
    /// §3.2.2). Empty only for HTTP/1.0 without Host.
    pub host: &'b str,
    /// How the body ends.
    pub framing: Framing,
    /// The Connection header.
    pub connection: Connection<'b>,
    /// `Expect: 100-continue`; HTTP/1.1 only.
    pub expects_continue: bool,
    /// The Upgrade header, if Connection names it and there is only one; HTTP/1.1 only.
    pub upgrade: Option<&'b [u8]>,
    /// Whether there is a Via.
    pub has_via: bool,
    /// Whether it has credentials that authenticate the connection (NTLM, Negotiate).
    pub connection_auth: bool,
}

impl RequestHead<'_> {
    /// Returns true if the client's connection may carry another request after this one.
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

/// A response head; borrows the bytes it was parsed from.
#[derive(Debug, Clone)]
pub struct ResponseHead<'b> {
    /// 100..=599.
    pub status: u16,
    /// The reason phrase; may be empty, and may contain obs-text.
    pub reason: &'b [u8],
    /// The backend's version.
    pub version: Version,
    /// All fields, in order.
    pub fields: Fields<'b>,
    /// How the body ends. `Framing::None` for responses to HEAD, 1xx, 204 and 304, regardless of
    /// their fields.
    pub framing: Framing,
    /// The Connection header.
    pub connection: Connection<'b>,
    /// The Upgrade header, if Connection names it and there is only one.
    pub upgrade: Option<&'b [u8]>,
    /// Whether it asks to authenticate the connection: 401 or 407 with NTLM or Negotiate.
    pub connection_auth: bool,
}

impl ResponseHead<'_> {
    /// Returns true if the backend's connection may carry another request after this response.
    pub fn persistent(&self) -> bool {
        self.framing != Framing::UntilClose && self.connection.persistent(self.version)
    }
}

impl ResponseView for ResponseHead<'_> {
    fn field_values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s [u8]> {
        self.fields.values(name)
    }
}
