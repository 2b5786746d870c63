//! Looks up the binding of a request's session.

use super::cookie::{CookieBinding, CookieConfig, KeyRing, read_binding};
use super::key::FoundKey;
use super::key::cookies::cookie_values;
use super::message::RequestView;
use super::pick::Binding;
use super::table::Table;
use super::{BackendId, Cluster, KeyHash, Seed, Timestamp};

/// Where an upstream keeps its bindings.
#[derive(Debug, Clone, Copy)]
pub enum Store<'a> {
    /// Nowhere: the ring alone decides.
    None,
    /// In the table.
    Table(&'a Table),
    /// At the client, in a sealed cookie.
    Cookie {
        /// The keys that open it.
        keys: &'a KeyRing,
        /// The cookie's settings.
        config: &'a CookieConfig,
        /// The upstream's name; a cookie opens only for the upstream that sealed it.
        upstream: &'a str,
        /// The ring's seed.
        seed: Seed,
    },
}

/// The result of [`recall`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// The request's key. A request without one whose cookie is valid gets a key derived from the
    /// cookie, so that all proxies choose the same heir.
    pub key: Option<KeyHash>,
    /// The binding to pick with.
    pub binding: Binding,
    /// The request's cookie; [`CookieBinding::Absent`] unless bindings are kept in cookies.
    pub cookie: CookieBinding,
}

/// Looks up the binding of a request's session. `found` is the key found in the request.
///
/// A binding found in the table is marked as used at `now`.
pub fn recall(
    store: Store<'_>,
    cluster: &Cluster,
    found: Option<FoundKey>,
    request: &impl RequestView,
    now: Timestamp,
) -> Recalled {
    let key = found.map(|found| found.hash);
    let mut recalled = Recalled { key, binding: Binding::Absent, cookie: CookieBinding::Absent };
    match store {
        Store::None => recalled.binding = Binding::RingOnly,
        Store::Table(table) => {
            if let Some(slot) = found.and_then(|found| found.name).and_then(|name| table.lookup(name, now)) {
                let configured = cluster.index_of(slot).is_some();
                recalled.binding = if configured { Binding::To(slot) } else { Binding::Unknown };
            }
        }
        Store::Cookie { keys, config, upstream, seed } => {
            let values = cookie_values(request, config.name.as_bytes());
            recalled.cookie = read_binding(keys, upstream, values, now, config.max_age, config.max_idle);
            recalled.binding = match &recalled.cookie {
                CookieBinding::Absent => Binding::Absent,
                CookieBinding::Forged => Binding::Forged,
                CookieBinding::Expired(_) => Binding::Expired,
                CookieBinding::Bound(opened) => {
                    recalled.key = Some(key.unwrap_or_else(|| key_of(seed, &opened.backend, opened.issued)));
                    let member = cluster.members().iter().find(|member| member.id == opened.backend);
                    member.map_or(Binding::Unknown, |member| Binding::To(member.slot))
                }
            };
        }
    }
    recalled
}

/// Derives a key for a session that has only its cookie: bound to `backend` and first sealed at `issued`.
pub fn key_of(seed: Seed, backend: &BackendId, issued: Timestamp) -> KeyHash {
    let mut id = Vec::with_capacity(BackendId::MAX_LEN + size_of::<u32>());
    id.extend_from_slice(&issued.0.to_le_bytes());
    id.extend_from_slice(backend.as_str().as_bytes());
    KeyHash::of_id(seed, &id)
}

#[cfg(test)]
mod tests;
