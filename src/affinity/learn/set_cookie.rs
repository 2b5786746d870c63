//! The Set-Cookie field, read the way browsers read it (RFC 6265 §5.2).

use super::date::cookie_date;
use crate::affinity::Timestamp;
use crate::affinity::key::cookies::{cookie_pieces, trim};

/// What matters of one Set-Cookie line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetCookie<'a> {
    /// Case counts.
    pub name: &'a [u8],
    /// Quotes included.
    pub value: &'a [u8],
    attributes: &'a [u8],
}

/// One line; `None` if it names no cookie. What follows the value is read
/// only when [`SetCookie::deletes`] asks.
pub fn parse_set_cookie(line: &[u8]) -> Option<SetCookie<'_>> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let equals = memchr::memchr(b'=', &line[..end])?;
    let name = trim(&line[..equals]);
    let value = trim(&line[equals + 1..end]);
    (!name.is_empty()).then_some(SetCookie { name, value, attributes: &line[end..] })
}

impl SetCookie<'_> {
    /// Does it delete the cookie: by a Max-Age of zero or less or, without
    /// Max-Age, by an Expires that is not after `now`?
    ///
    /// Attributes come in any order and case; of several the last counts. One
    /// that does not parse is ignored, so it deletes nothing.
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

/// Is this number above zero? `None` if it is no number. However many digits:
/// nothing is computed, so nothing overflows.
fn is_positive(text: &[u8]) -> Option<bool> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
        .then(|| !negative && digits.iter().any(|digit| *digit != b'0'))
}
