//! The session of a request: looks up its binding, and stores what the request changes.

use crate::affinity::cookie::{self, CookieBinding, Opened};
use crate::affinity::key::{FoundKey, RequestView};
use crate::affinity::learn::{self, Learned, ResponseView};
use crate::affinity::pick::{self, Binding, Tried, Verdict};
use crate::affinity::recall::{Recalled, Store, recall};
use crate::affinity::{BackendId, KeyHash, Timestamp};
use crate::model::Remember;
use crate::model::snapshot::Memory;
use crate::proxy::view::UpstreamView;

/// A request's session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its key, from the request or derived from its sealed cookie.
    pub key: Option<KeyHash>,
    /// The index of the key's source; `None` if the key is not from the request.
    pub source: Option<usize>,
    /// Its binding when the request arrived.
    pub binding: Binding,
    /// The request's sealed cookie, if valid.
    opened: Option<Opened>,
}

impl Session {
    /// Looks up the session of a request. `found` is the key found in the request.
    pub(crate) fn recall(
        upstream: &UpstreamView,
        found: Option<FoundKey>,
        request: &impl RequestView,
        now: Timestamp,
    ) -> Self {
        let hash = found.map(|found| found.hash);
        let Recalled { key, binding, cookie } =
            recall(store(upstream), &upstream.state.cluster, hash, request, now);
        let opened = match cookie {
            CookieBinding::Bound(opened) => Some(opened),
            CookieBinding::Absent | CookieBinding::Expired(_) | CookieBinding::Forged => None,
        };
        Self { key, source: found.map(|found| found.source), binding, opened }
    }

    /// Returns the backend that the session was on when the request arrived: the bound one, or without
    /// bindings its home. `None` for a new session, or if the backend is gone and nothing names it.
    pub(crate) fn backend<'a>(&'a self, upstream: &'a UpstreamView) -> Option<&'a BackendId> {
        let cluster = &upstream.state.cluster;
        let member = match self.binding {
            Binding::To(slot) => cluster.index_of(slot)?,
            Binding::RingOnly => cluster.ring().home(self.key?)?,
            _ => return self.opened.as_ref().map(|opened| &opened.backend),
        };
        Some(upstream.id(member))
    }

    /// Stores the binding that a pick made, just before the request is sent. Returns false if
    /// another request of the session has bound it to another backend first; the caller must then
    /// pick again.
    pub(crate) fn bind(
        &self,
        upstream: &UpstreamView,
        verdict: Verdict,
        tried: &Tried,
        now: Timestamp,
    ) -> bool {
        let (Memory::Table(table), Some(key), true) = (&upstream.state.memory, self.key, verdict.rebind)
        else {
            return true;
        };
        let slot = upstream.slot(verdict.member);
        if self.binding == Binding::Absent {
            let bound = table.bind_if_absent(key, slot, now);
            let may_follow = |member| !tried.contains(member);
            if bound == slot || upstream.state.cluster.index_of(bound).is_some_and(may_follow) {
                return bound == slot;
            }
        }
        table.bind(key, slot, now);
        true
    }

    /// Learns from a response of `member`: binds session ids that it sets to `member`, and removes
    /// the bindings of ids that it deletes.
    pub(crate) fn learn(
        &self,
        upstream: &UpstreamView,
        member: u16,
        response: &impl ResponseView,
        now: Timestamp,
    ) {
        let Memory::Table(table) = &upstream.state.memory else { return };
        let affinity = &upstream.state.config.affinity;
        match learn::learn(&affinity.key, affinity.seed, now, response) {
            Learned::Nothing => {}
            // The request had this id already: the pick has bound it, or has left it bound to the
            // backend that the session returns to.
            Learned::Bind(found) if self.key == Some(found.hash) => {}
            Learned::Bind(found) => table.bind(found.hash, upstream.slot(member), now),
            Learned::Delete { source } if self.source != Some(source) => {}
            Learned::Delete { .. } | Learned::Release => {
                // A session that has moved since belongs to another backend.
                let is_here = |key| table.peek(key, now).is_none_or(|slot| slot == upstream.slot(member));
                if let Some(key) = self.key.filter(|key| is_here(*key)) {
                    table.remove(key);
                }
            }
        }
    }

    /// Returns the Set-Cookie value to add to the response, and whether the response must be marked
    /// private. Calls `cacheable` only if a cookie is due.
    pub(crate) fn cookie_to_set(
        &self,
        upstream: &UpstreamView,
        verdict: Verdict,
        secure: bool,
        cacheable: impl FnOnce() -> bool,
        now: Timestamp,
    ) -> Option<(String, bool)> {
        let (Memory::Cookie(keys), Remember::Cookie(config)) =
            (&upstream.state.memory, &upstream.state.config.affinity.remember)
        else {
            return None;
        };
        let backend = match &self.opened {
            // A temporary failover: the cookie keeps naming the session's backend.
            Some(opened) if !verdict.rebind => &opened.backend,
            _ => upstream.id(verdict.member),
        };
        if self.opened.as_ref().is_some_and(|opened| !opened.needs_reissue(backend, now, config.max_idle)) {
            return None;
        }
        let cacheable = cacheable();
        if cacheable && config.on_cacheable == cookie::OnCacheable::Skip {
            return None;
        }
        let issued = self.opened.as_ref().map_or(now, |opened| opened.issued);
        let sealed = keys.seal(&upstream.state.config.name, backend, issued, now);
        let value = cookie::set_cookie_value(config, &sealed, secure);
        Some((value, cacheable && config.on_cacheable == cookie::OnCacheable::Private))
    }
}

/// Returns the name of the sealed cookie, which backends must not see.
pub(crate) fn own_cookie(upstream: &UpstreamView) -> Option<&str> {
    match &upstream.state.config.affinity.remember {
        Remember::Cookie(config) => Some(&config.name),
        _ => None,
    }
}

/// Returns the backend and successor to announce to the backend, if the upstream announces them.
pub(crate) fn announce(
    upstream: &UpstreamView,
    key: Option<KeyHash>,
    member: u16,
) -> Option<(&str, Option<&str>)> {
    let successor = |key| pick::successor(&upstream.state.cluster, key, member);
    upstream.state.config.affinity.announce.then(|| {
        let successor = key.and_then(successor).map(|next| upstream.id(next).as_str());
        (upstream.id(member).as_str(), successor)
    })
}

/// Returns the store of an upstream's bindings.
fn store(upstream: &UpstreamView) -> Store<'_> {
    let config = &upstream.state.config;
    match (&upstream.state.memory, &config.affinity.remember) {
        (Memory::Table(table), _) => Store::Table(table),
        (Memory::Cookie(keys), Remember::Cookie(cookie)) => {
            Store::Cookie { keys, config: cookie, upstream: &config.name, seed: config.affinity.seed }
        }
        // Keys without cookie settings do not occur: both come from one configuration.
        (Memory::None | Memory::Cookie(_), _) => Store::None,
    }
}
