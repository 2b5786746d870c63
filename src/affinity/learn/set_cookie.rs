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
/// [`SetCookie::attributes`].
pub fn parse_set_cookie(line: &[u8]) -> Option<SetCookie<'_>> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let equals = memchr::memchr(b'=', &line[..end])?;
    let name = trim(&line[..equals]);
    let value = trim(&line[equals + 1..end]);
    (!name.is_empty()).then_some(SetCookie { name, value, attributes: &line[end..] })
}

/// The attributes of a cookie that say where browsers keep it, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes<'a> {
    /// Without a leading dot; `None`: for its host only.
    pub domain: Option<&'a [u8]>,
    /// `None`: the directory of the request's path.
    pub path: Option<&'a [u8]>,
    /// Whether it is kept apart by top-level site (CHIPS).
    pub partitioned: bool,
    /// Whether Max-Age is positive.
    max_age: Option<bool>,
    /// Seconds since the epoch.
    expires: Option<i64>,
}

impl<'a> SetCookie<'a> {
    /// Parses the attributes. They may be in any order and case; the last of each kind wins. A malformed
    /// one is ignored.
    pub fn attributes(&self) -> Attributes<'a> {
        let mut found = Attributes::default();
        for attribute in cookie_pieces(self.attributes) {
            let equals = memchr::memchr(b'=', attribute).unwrap_or(attribute.len());
            let (name, value) = (trim(&attribute[..equals]), attribute.get(equals + 1..).map(trim));
            let is = |wanted: &[u8]| name.eq_ignore_ascii_case(wanted);
            match value {
                _ if is(b"partitioned") => found.partitioned = true,
                Some(value) if is(b"max-age") => found.max_age = is_positive(value).or(found.max_age),
                Some(value) if is(b"expires") => found.expires = cookie_date(value).or(found.expires),
                value if is(b"path") => found.path = value.filter(|path| path.starts_with(b"/")),
                value if is(b"domain") => {
                    let domain = value.map(|domain| domain.strip_prefix(b".").unwrap_or(domain));
                    found.domain = domain.filter(|domain| !domain.is_empty()).or(found.domain);
                }
                _ => {}
            }
        }
        found
    }
}

impl Attributes<'_> {
    /// Returns true if they delete the cookie: with a Max-Age of zero or less or, without Max-Age, with an
    /// Expires that is not after `now`.
    pub fn deletes(&self, now: Timestamp) -> bool {
        match (self.max_age, self.expires) {
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
