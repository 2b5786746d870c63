//! Whom a sealed cookie must speak for.

use crate::affinity::KeyHash;
use crate::affinity::key::{FoundKey, KeySource};

use super::opened::Opened;

/// Whom a sealed cookie must speak for to bind the session of a request, and whom a new one is
/// issued for.
///
/// A binding belongs to a session. Where the upstream has a key, a browser sends the cookie beside
/// the session's id, and the two may come from different responses: a page's first requests go out
/// together, before there is a session. So the cookie names the key it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The client: the upstream's key is not in its requests, so the cookie is the session.
    Client,
    /// The session with this key.
    Session(KeyHash),
    /// Nobody: the upstream has a key, and the request does not carry it.
    Nobody,
}

impl Owner {
    /// Returns the owner for a request of an upstream with these key sources. `found` is the key
    /// found in the request. An address is no session: it is what is left if nothing else is known.
    pub fn of(sources: &[KeySource], found: Option<FoundKey>) -> Self {
        let names_sessions = |source: &KeySource| *source != KeySource::Ip;
        if !sources.iter().any(names_sessions) {
            return Self::Client;
        }
        match found {
            Some(found) if sources.get(found.source).is_some_and(names_sessions) => Self::Session(found.hash),
            _ => Self::Nobody,
        }
    }

    /// Returns true if this cookie speaks for the owner. One that names no key speaks for everyone
    /// who brings it: it was issued by an earlier version, or before the upstream had a key.
    pub fn is_named_by(self, opened: &Opened) -> bool {
        match self {
            Self::Client => true,
            Self::Session(key) => opened.key.is_none_or(|named| named == key),
            Self::Nobody => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: usize) -> FoundKey {
        FoundKey { source, hash: KeyHash(7), name: None }
    }

    #[test]
    fn address_is_no_session() {
        let sources = [KeySource::Cookie("SID".into()), KeySource::ClientCert, KeySource::Ip];
        assert_eq!(Owner::of(&sources, Some(found(0))), Owner::Session(KeyHash(7)));
        assert_eq!(Owner::of(&sources, Some(found(1))), Owner::Session(KeyHash(7)));
        assert_eq!(Owner::of(&sources, Some(found(2))), Owner::Nobody);
        assert_eq!(Owner::of(&sources, None), Owner::Nobody);
    }

    #[test]
    fn cookie_is_the_session_of_an_upstream_without_ids() {
        assert_eq!(Owner::of(&[], None), Owner::Client);
        assert_eq!(Owner::of(&[KeySource::Ip], Some(found(0))), Owner::Client);
    }
}
