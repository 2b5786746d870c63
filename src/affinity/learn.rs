//! Learning: session ids that the backend mints, read from its responses.
//!
//! The first response that sets the key's cookie or header names a session
//! that lives at the backend which answered; hashing the new id cold would
//! send it elsewhere. A response may also take a session back: by deleting
//! the cookie, or by saying so ([`RELEASE`]).

use super::key::cookies::{trim, unquote};
use super::key::{FoundKey, KeySource};
use super::{KeyHash, Seed, Timestamp};

pub use super::message::ResponseView;

mod date;
mod set_cookie;
#[cfg(test)]
mod tests;

pub use date::cookie_date;
pub use set_cookie::{SetCookie, parse_set_cookie};

/// The response field by which a backend asks that the binding of the
/// request's session be forgotten, whatever its value. It is meant for the
/// proxy and not forwarded to the client.
pub const RELEASE: &str = "x-affinity-release";

/// What a response says of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// Nothing.
    Nothing,
    /// Its session is this one, and lives at the backend that answered.
    Bind(FoundKey),
    /// The session whose id the source with this index held is over. Only if
    /// the request's key came from that source is it the one to forget.
    Delete {
        /// Index into the list of sources.
        source: usize,
    },
    /// The request's session is to be placed anew: forget its binding and
    /// bind nothing.
    Release,
}

/// Reads a response. A release counts before everything else; then the first
/// source that the response sets or deletes decides. Only cookies and header
/// fields are learned: a response does not say which query or path parameter
/// the next request will carry (but an id learned from a cookie is also known
/// as a parameter, see [`KeyHash::of_id`]).
pub fn learn(sources: &[KeySource], seed: Seed, now: Timestamp, response: &impl ResponseView) -> Learned {
    if response.field_values(RELEASE).next().is_some() {
        return Learned::Release;
    }
    for (source, wanted) in sources.iter().enumerate() {
        let id = match wanted {
            KeySource::Ip | KeySource::ClientCert | KeySource::Query(_) | KeySource::PathParam(_) => None,
            KeySource::Header(name) => response.field_values(name).map(trim).find(|value| !value.is_empty()),
            KeySource::Cookie(name) => learned_cookie(name.as_bytes(), now, response),
        };
        match id {
            None => {}
            Some([]) => return Learned::Delete { source },
            Some(id) => return Learned::Bind(FoundKey { source, hash: KeyHash::of_id(seed, id) }),
        }
    }
    Learned::Nothing
}

/// The value to which the cookie is set, empty if it is deleted; `None` if it
/// is not set. Of several Set-Cookie lines the last counts, as in browsers.
fn learned_cookie<'r>(name: &[u8], now: Timestamp, response: &'r impl ResponseView) -> Option<&'r [u8]> {
    let cookies = response.field_values("set-cookie").filter_map(parse_set_cookie);
    let cookie = cookies.filter(|cookie| cookie.name == name).last()?;
    Some(if cookie.deletes(now) { &[] } else { unquote(cookie.value) })
}
