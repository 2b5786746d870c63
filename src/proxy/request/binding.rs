//! The session of a request: looks up its binding, and stores what the request changes.

use crate::affinity::cookie::{self, CookieBinding, Opened};
use crate::affinity::key::{FoundKey, KeySource, RequestView};
use crate::affinity::learn::{self, LearnContext, Learned, ResponseView};
use crate::affinity::name::PathHash;
use crate::affinity::pick::{self, Binding, Tried, Verdict};
use crate::affinity::recall::{Recalled, Store, recall};
use crate::affinity::recent::RecentUse;
use crate::affinity::table::Table;
use crate::affinity::{KeyHash, SessionName, Timestamp};
use crate::model::Remember;
use crate::model::snapshot::Memory;
use crate::proxy::view::UpstreamView;

/// A request's session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its key, from the request or derived from its sealed cookie.
    pub key: Option<KeyHash>,
    /// Its name in the table, if there is one and the request has a key.
    pub name: Option<SessionName>,
    /// The index of the key's source; `None` if the key is not from the request.
    pub source: Option<usize>,
    /// Its binding when the request arrived.
    pub binding: Binding,
    /// The request's sealed cookie, if valid.
    opened: Option<Opened>,
    /// The path of cookies that the response sets without one; `None` if none are learned.
    default_path: Option<PathHash>,
}

impl Session {
    /// Looks up the session of a request. `found` is the key found in the request.
    pub(crate) fn recall(
        upstream: &UpstreamView,
        found: Option<FoundKey>,
        request: &impl RequestView,
        recent: &RecentUse,
        now: Timestamp,
    ) -> Self {
        let (cluster, config) = (&upstream.state.cluster, &upstream.state.config);
        let mut recalled = recall(store(upstream), cluster, found, request, now);
        if let Remember::Cookie(cookie) = &config.affinity.remember {
            let cookie = (&*config.name, cookie);
            recalled = recent.revive(recalled, cookie, config.affinity.seed, cluster, now);
        }
        let Recalled { key, binding, cookie } = recalled;
        let opened = match cookie {
            CookieBinding::Bound(opened) => Some(opened),
            CookieBinding::Absent | CookieBinding::Expired(_) | CookieBinding::Forged => None,
        };
        let learns = config.affinity.key.iter().any(|source| matches!(source, KeySource::Cookie(_)));
        let default_path = table(upstream)
            .filter(|_| learns)
            .map(|table| table.namer().default_path(request.path_and_query().as_bytes()));
        Self {
            key,
            name: found.and_then(|found| found.name),
            source: found.map(|found| found.source),
            binding,
            opened,
            default_path,
        }
    }

    /// Stores the binding that a pick made, just before the request is sent. Returns false if
    /// another request of the session has bound it to another backend first; the caller must then
    /// pick again. `owner` is the client's masked address, for which a session that no backend has minted
    /// counts.
    pub(crate) fn bind(
        &self,
        upstream: &UpstreamView,
        verdict: Verdict,
        tried: &Tried,
        owner: [u8; 16],
        now: Timestamp,
    ) -> bool {
        let (Some(table), Some(name), true) = (table(upstream), self.name, verdict.rebind) else {
            return true;
        };
        let owner = table.namer().owner(owner);
        let slot = upstream.slot(verdict.member);
        if self.binding == Binding::Absent {
            let bound = table.bind_if_absent(name, slot, owner, now);
            let may_follow = |member| !tried.contains(member);
            if bound == slot || upstream.state.cluster.index_of(bound).is_some_and(may_follow) {
                return bound == slot;
            }
        }
        table.bind(name, slot, owner, now);
        true
    }

    /// Learns from a response of `member`: binds session ids that it sets to `member`, and removes
    /// the bindings of ids that it deletes. Returns the session that it set last, if any.
    pub(crate) fn learn(
        &self,
        upstream: &UpstreamView,
        member: u16,
        response: &impl ResponseView,
        now: Timestamp,
    ) -> Option<SessionName> {
        let table = table(upstream)?;
        let affinity = &upstream.state.config.affinity;
        let (slot, namer) = (upstream.slot(member), table.namer());
        let default_path = self.default_path.unwrap_or_else(|| namer.path(b"/"));
        let context = LearnContext { seed: affinity.seed, namer, default_path, now };
        let mut last = None;
        learn::learn(&affinity.key, context, response, |learned| match (learned, self.name) {
            // The request had this id already: the pick has bound it, or has left it bound to the
            // backend that the session returns to.
            (Learned::Bind { key, scope }, Some(name)) if key.name == Some(name) => {
                table.confirm(name, scope);
            }
            (Learned::Bind { key, scope }, before) => {
                if let Some(name) = key.name {
                    let before = before.filter(|_| self.source == Some(key.source));
                    table.learn(name, slot, scope, before, now);
                    last = Some(name);
                }
            }
            (Learned::Delete { source, scope }, Some(name)) if self.source == Some(source) => {
                table.delete(name, slot, scope);
            }
            // A session that has moved since belongs to another backend.
            (Learned::Release, Some(name)) if table.peek(name, now).is_none_or(|bound| bound == slot) => {
                table.remove(name);
            }
            (Learned::Delete { .. } | Learned::Release, _) => {}
        });
        last
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

/// Returns the table of an upstream's bindings, if they are kept in one.
pub(crate) fn table(upstream: &UpstreamView) -> Option<&Table> {
    match &upstream.state.memory {
        Memory::Table(table) => Some(table),
        Memory::None | Memory::Cookie(_) => None,
    }
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
