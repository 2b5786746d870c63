//! Parses the Cookie header the way servers do (RFC 6265 §4.1.1, §5.4).

use crate::affinity::message::{RequestView, trim};

/// One `name=value` pair of a Cookie line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CookiePair<'a> {
    /// Trimmed; case-sensitive.
    pub name: &'a [u8],
    /// Trimmed, without one pair of quotes.
    pub value: &'a [u8],
}

/// Returns the pairs of one Cookie line, in order.
///
/// Pieces without `=` have no name (browsers send them for nameless cookies) and are skipped. Only
/// `;` separates: a quoted value cannot contain one.
pub fn cookie_pairs(line: &[u8]) -> impl Iterator<Item = CookiePair<'_>> {
    cookie_pieces(line).filter_map(parse_pair)
}

/// Returns the values of all cookies with this name, in order, across all Cookie lines (HTTP/2
/// splits them), including empty ones.
pub fn cookie_values<'r>(request: &'r impl RequestView, name: &'r [u8]) -> impl Iterator<Item = &'r [u8]> {
    values_named(request, move |known| known == name)
}

/// Returns the values of all cookies whose names are recognized, like [`cookie_values`].
pub fn values_named<'r>(
    request: &'r impl RequestView,
    is_named: impl Fn(&[u8]) -> bool + 'r,
) -> impl Iterator<Item = &'r [u8]> {
    let pairs = request.field_values("cookie").flat_map(cookie_pairs);
    pairs.filter(move |pair| is_named(pair.name)).map(|pair| pair.value)
}

/// Removes the quotes that servers ignore. RFC 6265 §4.1.1 allows a quoted value, clients send it
/// back unchanged, and servers (Tomcat, PHP, Go, …) strip the quotes, so `abc` and `"abc"` are one
/// session.
pub fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// Splits a Cookie line at its semicolons. The pieces are not trimmed.
pub(crate) fn cookie_pieces(line: &[u8]) -> CookiePieces<'_> {
    CookiePieces { rest: Some(line) }
}

/// Parses one piece; `None` if it has no name.
pub(crate) fn parse_pair(piece: &[u8]) -> Option<CookiePair<'_>> {
    let equals = memchr::memchr(b'=', piece)?;
    let name = trim(&piece[..equals]);
    let value = unquote(trim(&piece[equals + 1..]));
    (!name.is_empty()).then_some(CookiePair { name, value })
}

/// The iterator of [`cookie_pieces`].
#[derive(Debug, Clone)]
pub(crate) struct CookiePieces<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for CookiePieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        if let Some(end) = memchr::memchr(b';', rest) {
            self.rest = Some(&rest[end + 1..]);
            Some(&rest[..end])
        } else {
            self.rest = None;
            Some(rest)
        }
    }
}
