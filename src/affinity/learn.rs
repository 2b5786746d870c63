//! Learns session ids that backends set in their responses.
//!
//! The first response that sets the key's cookie or header creates a session that lives at the
//! backend that answered; hashing the new id without this would send it elsewhere. A response may
//! also end a session: by deleting the cookie, or with the [`RELEASE`] header.

use super::key::cookies::unquote;
use super::key::{FoundKey, KeySource};
use super::message::trim;
use super::{KeyHash, Seed, Timestamp};

pub use super::message::ResponseView;

mod date;
mod set_cookie;
#[cfg(test)]
mod tests;

pub use date::cookie_date;
pub use set_cookie::{SetCookie, parse_set_cookie};

/// The response header with which a backend asks to forget the binding of the request's session;
/// its value is ignored. It is for the proxy and not forwarded to the client.
pub const RELEASE: &str = "x-affinity-release";

/// What a response says about its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// Nothing.
    Nothing,
    /// This session lives at the backend that answered.
    Bind(FoundKey),
    /// The session with the id in this source has ended. Forget it only if the request's key came
    /// from this source.
    Delete {
        /// The index in the list of sources.
        source: usize,
    },
    /// Forget the binding of the request's session and bind nothing, so that it is placed again.
    Release,
}

/// Reads a response. [`RELEASE`] takes precedence; then the first source that the response sets or
/// deletes decides. Only cookies and headers are learned: a response does not say which query or
/// path parameter the next request will have. An id learned from a cookie is also known as a
/// parameter, see [`KeyHash::of_id`].
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

/// Returns the value the cookie is set to, empty if it is deleted, `None` if it is not set. Of
/// several Set-Cookie lines the last wins, as in browsers.
fn learned_cookie<'r>(name: &[u8], now: Timestamp, response: &'r impl ResponseView) -> Option<&'r [u8]> {
    let cookies = response.field_values("set-cookie").filter_map(parse_set_cookie);
    let cookie = cookies.filter(|cookie| cookie.name == name).last()?;
    Some(if cookie.deletes(now) { &[] } else { unquote(cookie.value) })
}
