//! Parses the Set-Cookie header the way browsers do (RFC 6265 §5.2).

use super::date::cookie_date;
use crate::affinity::Timestamp;
use crate::affinity::key::cookies::cookie_pieces;
use crate::affinity::message::trim;

/// The relevant parts of one Set-Cookie line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetCookie<'a> {
    /// Case-sensitive.
    pub name: &'a [u8],
    /// Including quotes.
    pub value: &'a [u8],
    attributes: &'a [u8],
}

/// Parses one line; `None` if it names no cookie. The attributes are parsed only by
/// [`SetCookie::deletes`].
pub fn parse_set_cookie(line: &[u8]) -> Option<SetCookie<'_>> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let equals = memchr::memchr(b'=', &line[..end])?;
    let name = trim(&line[..equals]);
    let value = trim(&line[equals + 1..end]);
    (!name.is_empty()).then_some(SetCookie { name, value, attributes: &line[end..] })
}

impl SetCookie<'_> {
    /// Returns true if it deletes the cookie: with a Max-Age of zero or less or, without Max-Age,
    /// with an Expires that is not after `now`.
    ///
    /// Attributes may be in any order and case; the last one wins. A malformed attribute is
    /// ignored, so it deletes nothing.
    pub fn deletes(&self, now: Timestamp) -> bool {
        let mut max_age = None;
        let mut expires = None;
        for attribute in cookie_pieces(self.attributes) {
            let Some(equals) = memchr::memchr(b'=', attribute) else { continue };
            let (name, value) = (trim(&attribute[..equals]), trim(&attribute[equals + 1..]));
            if name.eq_ignore_ascii_case(b"max-age") {
                max_age = is_positive(value).or(max_age);
            } else if name.eq_ignore_ascii_case(b"expires") {
                expires = cookie_date(value).or(expires);
            }
        }
        match (max_age, expires) {
            (Some(positive), _) => !positive,
            (None, Some(expires)) => expires <= i64::from(now.0),
            (None, None) => false,
        }
    }
}

/// Returns true if this number is positive, or `None` if it is not a number. It may have any number
/// of digits: nothing is computed, so nothing overflows.
fn is_positive(text: &[u8]) -> Option<bool> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
        .then(|| !negative && digits.iter().any(|digit| *digit != b'0'))
}
