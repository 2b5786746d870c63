//! Learns session ids that backends set in their responses.
//!
//! A response that sets the key's cookie or header creates a session that lives at the backend that
//! answered; hashing the new id without this would send it elsewhere. A response may also end a session:
//! by deleting the cookie, or with the [`RELEASE`] header.
//!
//! Browsers keep cookies of one name apart by domain, path and partition (RFC 6265 §5.3), so a response
//! may set several ids, and deleting one leaves the others.

use arrayvec::ArrayVec;

use super::key::cookies::unquote;
use super::key::{FoundKey, KeySource};
use super::message::trim;
use super::name::{Namer, PathHash, Scope};
use super::{KeyHash, Seed, Timestamp};

pub use super::message::ResponseView;

mod date;
mod set_cookie;
#[cfg(test)]
mod tests;

pub use date::cookie_date;
pub use set_cookie::{Attributes, SetCookie, parse_set_cookie};

/// The response header with which a backend asks to forget the binding of the request's session;
/// its value is ignored. It is for the proxy and not forwarded to the client.
pub const RELEASE: &str = "x-affinity-release";

/// What a response says about sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// This session lives at the backend that answered.
    Bind {
        /// Its key.
        key: FoundKey,
        /// Where browsers keep its id.
        scope: Scope,
    },
    /// The session whose id is in this source and scope has ended. Forget it only if the request's key
    /// came from this source, and its id was set in this scope.
    Delete {
        /// The index in the list of sources.
        source: usize,
        /// Where browsers kept its id.
        scope: Scope,
    },
    /// Forget the binding of the request's session and bind nothing, so that it is placed again.
    Release,
}

/// How learned ids are hashed.
#[derive(Debug, Clone, Copy)]
pub struct LearnContext<'a> {
    /// The ring's seed.
    pub seed: Seed,
    /// What names the sessions of the table.
    pub namer: &'a Namer,
    /// The path of cookies without one: the directory of the request's.
    pub default_path: PathHash,
    /// When the response arrived.
    pub now: Timestamp,
}

/// Reads a response and calls `each` with everything that it says, in order. [`RELEASE`] takes
/// precedence over the rest. Only cookies and headers are learned: a response does not say which query or
/// path parameter the next request will have. An id learned from a cookie is also known as a parameter,
/// see [`KeyHash::of_id`].
pub fn learn(
    sources: &[KeySource],
    context: LearnContext<'_>,
    response: &impl ResponseView,
    mut each: impl FnMut(Learned),
) {
    if response.field_values(RELEASE).next().is_some() {
        return each(Learned::Release);
    }
    let LearnContext { seed, namer, .. } = context;
    let bind = |source, id: &[u8], scope| {
        let key = FoundKey { source, hash: KeyHash::of_id(seed, id), name: Some(namer.of_id(id)) };
        Learned::Bind { key, scope }
    };
    for (source, wanted) in sources.iter().enumerate() {
        match wanted {
            KeySource::Ip | KeySource::ClientCert | KeySource::Query(_) | KeySource::PathParam(_) => {}
            KeySource::Header(name) => {
                let values = response.field_values(name).map(trim).filter(|value| !value.is_empty());
                values.for_each(|id| each(bind(source, id, Scope::HEADER)));
            }
            KeySource::Cookie(name) => cookies(name.as_bytes(), context, response, |scope, id| {
                each(match id {
                    Some(id) => bind(source, id, scope),
                    None => Learned::Delete { source, scope },
                });
            }),
        }
    }
}

/// Calls `each` with every scope in which the response sets the cookie and its value, `None` if it is
/// deleted there. Of several lines for one scope the last wins, as in browsers.
fn cookies<'r>(
    name: &[u8],
    context: LearnContext<'_>,
    response: &'r impl ResponseView,
    mut each: impl FnMut(Scope, Option<&'r [u8]>),
) {
    let mut set: ArrayVec<(Scope, Option<&[u8]>), MAX_SCOPES> = ArrayVec::new();
    let lines = response.field_values("set-cookie").filter_map(parse_set_cookie);
    for cookie in lines.filter(|cookie| cookie.name == name) {
        let value = unquote(cookie.value);
        let attributes = cookie.attributes();
        let path = attributes.path.map_or(context.default_path, |path| context.namer.path(path));
        let scope = context.namer.scope(attributes.domain, path, attributes.partitioned);
        let value = (!attributes.deletes(context.now) && !value.is_empty()).then_some(value);
        if let Some(before) = set.iter_mut().find(|(other, _)| *other == scope) {
            before.1 = value;
            continue;
        }
        if set.is_full() {
            set.drain(..).for_each(|(scope, value)| each(scope, value));
        }
        set.push((scope, value));
    }
    set.into_iter().for_each(|(scope, value)| each(scope, value));
}

/// The scopes of one name that a line may override. Lines for more scopes are all learned.
const MAX_SCOPES: usize = 16;
