//! The session of a request: looks up its binding, and stores what the request changes.

use crate::affinity::cookie::{self, CookieBinding, CookieConfig, Opened, OwnCookies, Owner};
use crate::affinity::key::{FoundKey, KeySource, RequestView};
use crate::affinity::learn::{self, LearnContext, Learned, ResponseView};
use crate::affinity::name::PathHash;
use crate::affinity::pick::{self, Binding, Outcome, Tried, Verdict};
use crate::affinity::recall::{CookieLayer, Layer, Layers, Recalled, TableLayer, recall};
use crate::affinity::recent::{RecentUse, key_in_use};
use crate::affinity::table::{Claim, Claimed, Table};
use crate::affinity::{BackendId, KeyHash, SessionName, Timestamp};
use crate::model::snapshot::Seals;
use crate::proxy::view::UpstreamView;

/// A request's session.
#[derive(Debug)]
pub(crate) struct Session {
    /// Its key, from the request or derived from its sealed cookie.
    pub key: Option<KeyHash>,
    /// Its name in the table, if there is one and the request has a key.
    name: Option<SessionName>,
    /// The client's masked address, for which a session that no backend has minted counts.
    client: [u8; 16],
    /// The index of the key's source; `None` if the key is not from the request.
    pub source: Option<usize>,
    /// Its binding when the request arrived.
    pub binding: Binding,
    /// The layer of memory that the binding is from.
    pub layer: Option<Layer>,
    /// Whether the table must be told what the cookie says.
    table_behind: bool,
    /// Whom its sealed cookie must speak for.
    owner: Owner,
    /// The request's sealed cookie, if valid.
    opened: Option<Opened>,
    /// Which of the request's cookies are sealed cookies.
    own: OwnCookies,
    /// The path of cookies that the response sets without one; `None` if none are learned.
    default_path: Option<PathHash>,
    /// The binding of a new session, until its backend has answered.
    claim: Option<Claim>,
}

/// What a response says about the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// Nothing new.
    Nothing,
    /// The backend has minted the id of a session.
    Minted(FoundKey),
    /// The backend has set a cookie that may be a session.
    SetsCookie,
    /// The session has ended here.
    Ended,
}

impl Lesson {
    /// Returns the name of the session that was minted.
    pub(crate) fn minted(self) -> Option<SessionName> {
        match self {
            Self::Minted(found) => found.name,
            Self::Nothing | Self::SetsCookie | Self::Ended => None,
        }
    }

    /// Notes that the session has ended. One that was minted in its place goes on.
    fn end(&mut self) {
        if *self == Self::Nothing {
            *self = Self::Ended;
        }
    }
}

/// Set-Cookie lines to add to a response.
#[derive(Debug)]
pub(crate) struct SetCookie {
    pub values: Vec<String>,
    /// Whether the response must be marked private.
    pub private: bool,
    /// The session of a new sealed cookie, as it is noted while in use.
    pub in_use: Option<KeyHash>,
}

impl Session {
    /// Looks up the session of a request. `found` is the key found in the request, `client` the client's
    /// masked address.
    pub(crate) fn recall(
        upstream: &UpstreamView,
        found: Option<FoundKey>,
        request: &impl RequestView,
        client: [u8; 16],
        recent: &RecentUse,
        now: Timestamp,
    ) -> Self {
        let (cluster, layers) = (&upstream.state.cluster, layers(upstream));
        let recalled = recall(&layers, cluster, found, request, now);
        let Recalled { key, binding, layer, table_behind, owner, cookie, own } =
            recent.revive(recalled, &layers, cluster, now);
        let opened = match cookie {
            CookieBinding::Bound(opened) => Some(opened),
            CookieBinding::Absent
            | CookieBinding::Hint(_)
            | CookieBinding::Expired(_)
            | CookieBinding::Forged => None,
        };
        let learns = layers.sources.iter().any(|source| matches!(source, KeySource::Cookie(_)));
        let default_path = layers
            .table
            .filter(|_| learns)
            .map(|layer| layer.table.namer().default_path(request.path_and_query().as_bytes()));
        Self {
            key,
            name: found.and_then(|found| found.name),
            client,
            source: found.map(|found| found.source),
            binding,
            layer,
            table_behind,
            owner,
            opened,
            own,
            default_path,
            claim: None,
        }
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

    /// Returns the outcome to report for a pick. Where the cookie is the session, a request without
    /// a key starts one.
    pub(crate) fn outcome(&self, upstream: &UpstreamView, picked: Outcome) -> Outcome {
        let starts = picked == Outcome::Unkeyed && self.owner == Owner::Client && issues(upstream);
        if starts { Outcome::New } else { picked }
    }

    /// Binds a new session just before its request is sent, so that its other first requests go to
    /// the same backend. Returns false if another request of the session has bound it to another
    /// backend first; the caller must then pick again.
    pub(crate) fn bind(
        &mut self,
        upstream: &UpstreamView,
        verdict: Verdict,
        tried: &Tried,
        now: Timestamp,
    ) -> bool {
        let (Some(table), Some(name)) = (&upstream.state.memory.table, self.name) else { return true };
        let binds = verdict.rebind && self.is_unbound() && self.claim.is_none();
        if !(binds || self.table_behind) || !self.has_entry(upstream) {
            return true;
        }
        let (slot, owner) = (upstream.slot(verdict.member), table.namer().owner(self.client));
        if self.table_behind && verdict.outcome == Outcome::Kept {
            table.bind(name, slot, owner, now);
        }
        if !binds {
            return true;
        }
        match table.claim(name, slot, owner, now) {
            Claimed::Fresh(claim) => self.claim = Some(claim),
            Claimed::NoRoom => {}
            Claimed::Bound(bound) if bound == slot => self.binding = Binding::To(slot),
            Claimed::Bound(bound) => match upstream.state.cluster.index_of(bound) {
                // The session lives where this request could not be served: only this request goes
                // elsewhere.
                Some(member) if tried.contains(member) => self.binding = Binding::To(bound),
                Some(_) => return false,
                None => table.bind(name, slot, owner, now),
            },
        }
        true
    }

    /// Notes that the backend has answered. A session that moves is bound to its heir only now: the
    /// answer proves that the heir can serve it.
    pub(crate) fn answered(&mut self, upstream: &UpstreamView, verdict: Verdict, now: Timestamp) {
        self.claim = None;
        let (Some(table), Some(name)) = (&upstream.state.memory.table, self.name) else { return };
        if !verdict.rebind || verdict.outcome != Outcome::Moved || !self.has_entry(upstream) {
            return;
        }
        let configured = |slot| upstream.state.cluster.index_of(slot).is_some();
        let unchanged = match (self.binding, table.peek(name, now)) {
            (Binding::To(was), Some(is)) => was == is,
            (Binding::Unknown, Some(is)) => !configured(is),
            (_, None) => true,
            (_, Some(_)) => false,
        };
        // If another request of the session was faster, its heir counts.
        if unchanged {
            table.bind(name, upstream.slot(verdict.member), table.namer().owner(self.client), now);
        }
    }

    /// Takes the binding of a new session back, because its backend did not answer. Returns false if
    /// the session has a binding that others may rely on.
    pub(crate) fn give_up(&mut self) -> bool {
        match self.claim.take() {
            Some(claim) => claim.withdraw(),
            None => self.key.is_none() || self.is_unbound(),
        }
    }

    /// Returns whether the session has no binding that counts.
    fn is_unbound(&self) -> bool {
        matches!(self.binding, Binding::Absent | Binding::Hint(_) | Binding::Expired | Binding::Forged)
    }

    /// Returns whether the table has an entry for the session, or would have one.
    fn has_entry(&self, upstream: &UpstreamView) -> bool {
        match self.owner {
            Owner::Session(_) => true,
            // A cookie that is the session has no entry, and an address only where it was asked for.
            Owner::Client | Owner::Nobody => upstream.state.table().is_some() && self.opened.is_none(),
        }
    }

    /// Learns from a response of `member`: binds session ids that it sets to `member`, and removes
    /// the bindings of ids that it deletes.
    pub(crate) fn learn(
        &self,
        upstream: &UpstreamView,
        member: u16,
        response: &impl ResponseView,
        now: Timestamp,
    ) -> Lesson {
        let Some(table) = table(upstream) else { return Lesson::Nothing };
        let affinity = &upstream.state.config.affinity;
        let (slot, namer) = (upstream.slot(member), table.namer());
        let default_path = self.default_path.unwrap_or_else(|| namer.path(b"/"));
        let context = LearnContext { seed: affinity.seed, namer, default_path, now };
        let mut lesson = Lesson::Nothing;
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
                    lesson = Lesson::Minted(key);
                }
            }
            (Learned::Delete { source, scope }, Some(name)) if self.source == Some(source) => {
                if table.delete(name, slot, scope) {
                    lesson.end();
                }
            }
            (Learned::Delete { .. }, _) => {}
            // A session that has moved since belongs to another backend.
            (Learned::Release, Some(name)) => {
                if table.peek(name, now).is_none_or(|bound| bound == slot) {
                    table.remove(name);
                    lesson.end();
                }
            }
            (Learned::Release, None) => lesson.end(),
        });
        if lesson == Lesson::Nothing && self.owner == Owner::Client && sets_cookie(response) {
            return Lesson::SetsCookie;
        }
        lesson
    }

    /// Returns the address that has placed a new session: the request's key, if it is the client's
    /// address, and the response, or the sealed cookie, gives the session an identity of its own.
    pub(crate) fn placed_by_address(
        &self,
        upstream: &UpstreamView,
        verdict: Verdict,
        lesson: Lesson,
    ) -> Option<KeyHash> {
        let source = upstream.state.config.affinity.key.get(self.source?)?;
        let begins = match lesson {
            Lesson::Minted(_) => true,
            _ => verdict.outcome == Outcome::New && self.owner == Owner::Client && issues(upstream),
        };
        self.key.filter(|_| begins && *source == KeySource::Ip)
    }

    /// Returns the Set-Cookie to add to the response: a new sealed cookie, or the deletion of one.
    /// Calls `cacheable` only if a cookie is due.
    pub(crate) fn set_cookie(
        &self,
        upstream: &UpstreamView,
        verdict: Verdict,
        lesson: Lesson,
        secure: bool,
        cacheable: impl FnOnce() -> bool,
        now: Timestamp,
    ) -> Option<SetCookie> {
        let Seals { keys, config } = upstream.state.memory.seals.as_ref()?;
        let binding = match lesson {
            Lesson::Ended if self.own.is_empty() => return None,
            Lesson::Ended => None,
            _ if !issues(upstream) => return None,
            _ => Some(self.to_seal(upstream, verdict, lesson, config, now)?),
        };
        let cacheable = cacheable();
        if cacheable && config.on_cacheable == cookie::OnCacheable::Skip {
            return None;
        }
        let seed = upstream.state.config.affinity.seed;
        let in_use = binding.as_ref().map(|sealed| match sealed.key {
            Some(key) => key,
            None => key_in_use(seed, self.owner, sealed),
        });
        let values = if let Some(binding) = binding {
            let sealed = keys.seal(&upstream.state.config.name, &binding);
            vec![cookie::set_cookie_value(config, binding.early, &sealed, secure)]
        } else {
            let names: &[bool] = if self.owner == Owner::Client { &[false, true] } else { &[false] };
            names.iter().map(|early| cookie::delete_cookie_value(config, *early, secure)).collect()
        };
        let private = cacheable && config.on_cacheable == cookie::OnCacheable::Private;
        Some(SetCookie { values, private, in_use })
    }

    /// Returns the binding that the client must get, or `None` if it has it, or must get none.
    fn to_seal(
        &self,
        upstream: &UpstreamView,
        verdict: Verdict,
        lesson: Lesson,
        config: &CookieConfig,
        now: Timestamp,
    ) -> Option<Opened> {
        let new = |key, backend: &BackendId| {
            let backend = backend.clone();
            Opened { backend, key, early: false, issued: now, bound: now, last_seen: now }
        };
        let key = match (self.owner, lesson) {
            (Owner::Client, _) => None,
            // The next request carries the id that was minted, unless a source that comes first in
            // the list is in the request.
            (_, Lesson::Minted(minted)) if self.source.is_none_or(|source| minted.source <= source) => {
                return Some(new(Some(minted.hash), upstream.id(verdict.member)));
            }
            (Owner::Session(key), _) => Some(key),
            (Owner::Nobody, _) => return None,
        };
        let backend = match self.binding {
            // A temporary failover: the cookie keeps naming the session's backend.
            Binding::To(slot) if !verdict.rebind => upstream.id(upstream.state.cluster.index_of(slot)?),
            _ => upstream.id(verdict.member),
        };
        // A page's first requests go out together. Responses that set no cookie must not replace
        // the sealed cookie that comes with the session.
        let settled = self.opened.as_ref().is_some_and(|opened| !opened.early);
        let early = self.owner == Owner::Client && !settled && lesson != Lesson::SetsCookie;
        let mut next = Opened { early, ..new(key, backend) };
        let Some(opened) = &self.opened else { return Some(next) };
        next.issued = opened.issued;
        if opened.backend == next.backend {
            next.bound = opened.bound;
        }
        opened.needs_reissue(&next, config.max_idle).then_some(next)
    }

    /// Returns the session's name in the table and the key under which it is noted at the end of a long
    /// exchange. `None` if no layer remembers it.
    pub(crate) fn in_use(&self, upstream: &UpstreamView) -> Option<(Option<SessionName>, Option<KeyHash>)> {
        let seed = upstream.state.config.affinity.seed;
        table(upstream).map(|_| match (self.owner, &self.opened) {
            (Owner::Session(key), _) => (self.name, Some(key)),
            (owner, Some(opened)) => (self.name, Some(key_in_use(seed, owner, opened))),
            (_, None) => (self.name, None),
        })
    }

    /// Returns the sealed cookies of the request, which backends must not see.
    pub(crate) fn own_cookies<'u>(
        &self,
        upstream: &'u UpstreamView,
    ) -> Option<(&'u CookieConfig, OwnCookies)> {
        let seals = upstream.state.memory.seals.as_ref().filter(|_| !self.own.is_empty())?;
        Some((&seals.config, self.own))
    }
}

/// Returns whether sealed cookies are issued, not only read since a reload.
fn issues(upstream: &UpstreamView) -> bool {
    upstream.state.config.affinity.remember.cookie.is_some()
}

fn sets_cookie(response: &impl ResponseView) -> bool {
    response.field_values("set-cookie").next().is_some()
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

/// Returns the table that names an upstream's sessions, if it has a memory.
pub(crate) fn table(upstream: &UpstreamView) -> Option<&Table> {
    upstream.state.memory.table.as_deref()
}

/// Returns the layers of memory of an upstream.
fn layers(upstream: &UpstreamView) -> Layers<'_> {
    let (config, memory) = (&upstream.state.config, &upstream.state.memory);
    let remember = &config.affinity.remember;
    Layers {
        upstream: &config.name,
        sources: &config.affinity.key,
        seed: config.affinity.seed,
        table: memory.table.as_deref().map(|table| TableLayer { table, helper: remember.table.is_none() }),
        cookie: memory.seals.as_ref().map(|seals| CookieLayer { keys: &seals.keys, config: &seals.config }),
        first: remember.first(),
    }
}
