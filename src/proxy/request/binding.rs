//! Where affinity meets a request: what is remembered of its session, and
//! what is to be remembered after its response.

use crate::affinity::cookie::{self, CookieBinding, Opened};
use crate::affinity::key::cookies::cookie_values;
use crate::affinity::key::{FoundKey, RequestView};
use crate::affinity::learn::{self, Learned, ResponseView};
use crate::affinity::pick::{Binding, Tried, Verdict};
use crate::affinity::{BackendId, KeyHash, Seed, Timestamp};
use crate::model::Remember;
use crate::model::snapshot::Memory;
use crate::proxy::view::UpstreamView;

/// What was found out about a request's session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its key; where the binding is in a cookie and the request has no key,
    /// one made from the cookie, so that every proxy fails over alike.
    pub key: Option<KeyHash>,
    /// Which source the key came from.
    pub source: Option<usize>,
    /// What is remembered.
    pub binding: Binding,
    /// Our own cookie, opened.
    opened: Option<Opened>,
}

impl Session {
    /// Looks up what is remembered of this request's session.
    pub(crate) fn recall(
        upstream: &UpstreamView,
        found: Option<FoundKey>,
        request: &impl RequestView,
        now: Timestamp,
    ) -> Self {
        let mut session = Self {
            key: found.map(|f| f.hash),
            source: found.map(|f| f.source),
            binding: Binding::Absent,
            opened: None,
        };
        match &upstream.state.memory {
            Memory::None => session.binding = Binding::RingOnly,
            Memory::Table(table) => {
                if let Some(slot) = session.key.and_then(|key| table.lookup(key, now)) {
                    session.binding = if upstream.state.cluster.index_of(slot).is_some() {
                        Binding::To(slot)
                    } else {
                        Binding::Unknown
                    };
                }
            }
            Memory::Cookie(keys) => session.recall_from_cookie(upstream, keys, request, now),
        }
        session
    }

    fn recall_from_cookie(
        &mut self,
        upstream: &UpstreamView,
        keys: &cookie::KeyRing,
        request: &impl RequestView,
        now: Timestamp,
    ) {
        let Remember::Cookie(config) = &upstream.state.config.affinity.remember else { return };
        let values = cookie_values(request, config.name.as_bytes());
        let name = &upstream.state.config.name;
        self.binding = match cookie::read_binding(keys, name, values, now, config.max_age, config.max_idle) {
            CookieBinding::Absent => Binding::Absent,
            CookieBinding::Forged => Binding::Forged,
            CookieBinding::Expired(_) => Binding::Expired,
            CookieBinding::Bound(opened) => {
                let members = upstream.state.cluster.members();
                let slot = members.iter().find(|m| m.id == opened.backend).map(|m| m.slot);
                let seed = upstream.state.config.affinity.seed;
                self.key.get_or_insert_with(|| key_of(seed, &opened));
                self.opened = Some(opened);
                slot.map_or(Binding::Unknown, Binding::To)
            }
        };
    }

    /// Writes the binding that a pick made, just before the request is sent.
    /// `false`: another request of the same session was faster, and bound it
    /// to another backend; the pick is to be made again.
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

    /// Learns from a response of `member`: ids that it mints are bound to it,
    /// ids that it deletes are forgotten.
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
            // The id that the request came with is not new: the pick has bound it, or
            // left it bound to a backend that it returns to.
            Learned::Bind(found) if self.key == Some(found.hash) => {}
            Learned::Bind(found) => table.bind(found.hash, upstream.slot(member), now),
            Learned::Delete { source } if self.source != Some(source) => {}
            Learned::Delete { .. } | Learned::Release => {
                // Unless it has moved on meanwhile: then it is another's to delete.
                let here = |key| table.peek(key, now).is_none_or(|slot| slot == upstream.slot(member));
                if let Some(key) = self.key.filter(|key| here(*key)) {
                    table.remove(key);
                }
            }
        }
    }

    /// The Set-Cookie value that this response is to carry, and whether the
    /// response must be marked private for it.
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
            // Temporarily elsewhere: the cookie goes on naming its own backend.
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

/// The name of the cookie that is ours, not the backend's.
pub(crate) fn own_cookie(upstream: &UpstreamView) -> Option<&str> {
    match &upstream.state.config.affinity.remember {
        Remember::Cookie(config) => Some(&config.name),
        _ => None,
    }
}

/// A key for a session that has none but its cookie.
fn key_of(seed: Seed, opened: &Opened) -> KeyHash {
    let mut id = Vec::with_capacity(BackendId::MAX_LEN + 4);
    id.extend_from_slice(&opened.issued.0.to_le_bytes());
    id.extend_from_slice(opened.backend.as_str().as_bytes());
    KeyHash::of_id(seed, &id)
}
