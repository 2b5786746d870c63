//! Looks up the binding of a request's session in the layers of memory.

use arrayvec::ArrayVec;

use super::cookie::{CookieBinding, CookieConfig, Jar, KeyRing, Opened, OwnCookies, Owner, read_binding};
use super::key::cookies::values_named;
use super::key::{FoundKey, KeySource};
use super::message::RequestView;
use super::pick::Binding;
use super::table::Table;
use super::{BackendId, Cluster, KeyHash, Seed, SessionName, Slot, Timestamp};

/// A place where bindings are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The table in this proxy.
    Table,
    /// A sealed cookie at the client.
    Cookie,
}

impl Layer {
    /// Returns the name used in the configuration, in logs and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Cookie => "cookie",
        }
    }
}

/// An upstream's memory of bindings. Without any layer, the ring alone decides.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// The upstream's name; a cookie opens only for the upstream that sealed it.
    pub upstream: &'a str,
    /// The upstream's key sources.
    pub sources: &'a [KeySource],
    /// The ring's seed.
    pub seed: Seed,
    /// The table.
    pub table: Option<TableLayer<'a>>,
    /// The sealed cookie.
    pub cookie: Option<CookieLayer<'a>>,
    /// The layer that is believed if they disagree and neither is known to be newer.
    pub first: Layer,
}

/// The table as a layer.
#[derive(Debug, Clone, Copy)]
pub struct TableLayer<'a> {
    /// The table.
    pub table: &'a Table,
    /// Whether it only helps the cookie: it keeps what clients have not brought back yet.
    pub helper: bool,
}

/// The sealed cookie as a layer.
#[derive(Debug, Clone, Copy)]
pub struct CookieLayer<'a> {
    /// The keys that open it.
    pub keys: &'a KeyRing,
    /// The cookie's settings.
    pub config: &'a CookieConfig,
}

/// The result of [`recall`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// The request's key. A request without one whose cookie is valid gets a key derived from the
    /// cookie, so that all proxies choose the same heir.
    pub key: Option<KeyHash>,
    /// The binding to pick with.
    pub binding: Binding,
    /// The layer that the binding is from.
    pub layer: Option<Layer>,
    /// Whether the table is behind the cookie.
    pub table_behind: bool,
    /// Whom the request's cookie must speak for.
    pub owner: Owner,
    /// The request's cookie; [`CookieBinding::Absent`] unless bindings are kept in cookies.
    pub cookie: CookieBinding,
    /// Which of the request's cookies with our name are ours.
    pub own: OwnCookies,
}

/// A binding found in the table.
#[derive(Debug, Clone, Copy)]
struct InTable {
    slot: Slot,
    /// When it was last used; of a helper, when it was bound.
    seen: Timestamp,
}

/// Looks up the binding of a request's session. `found` is the key found in the request.
///
/// A binding found in the table is marked as used at `now`, unless the table only helps the cookie.
pub fn recall(
    layers: &Layers<'_>,
    cluster: &Cluster,
    found: Option<FoundKey>,
    request: &impl RequestView,
    now: Timestamp,
) -> Recalled {
    let owner = Owner::of(layers.sources, found);
    let mut recalled = Recalled {
        key: found.map(|found| found.hash),
        binding: Binding::Absent,
        layer: None,
        table_behind: false,
        owner,
        cookie: CookieBinding::Absent,
        own: OwnCookies::default(),
    };
    if layers.table.is_none() && layers.cookie.is_none() {
        recalled.binding = Binding::RingOnly;
        return recalled;
    }
    let in_table = layers.in_table(found.and_then(|found| found.name), owner, now);
    if let Some(CookieLayer { keys, config }) = layers.cookie {
        let values = values_named(request, |name| config.is_named(name));
        let Jar { binding, own } =
            read_binding(keys, layers.upstream, values, owner, now, config.max_age, config.max_idle);
        (recalled.cookie, recalled.own) = (binding, own);
    }
    let slot_of = |opened: &Opened| slot_of(cluster, opened);
    let max_age = layers.cookie.and_then(|layer| layer.config.max_age);
    let (layer, slot) = match (&recalled.cookie, in_table) {
        // The operator has set an absolute end, whatever the table knows.
        (CookieBinding::Expired(opened), Some(_))
            if owner.is_named_by(opened) && opened.too_old(now, max_age) =>
        {
            recalled.binding = Binding::Expired;
            return recalled;
        }
        (CookieBinding::Bound(opened), known) => {
            let slot = slot_of(opened);
            match known.filter(|known| Some(known.slot) != slot) {
                Some(other) if layers.believes_table(owner, opened, other) => {
                    (Layer::Table, Some(other.slot))
                }
                other => {
                    // A helper need not know what clients bring, but must not contradict it.
                    let helper = layers.table.is_none_or(|layer| layer.helper);
                    recalled.table_behind = other.is_some() || (known.is_none() && !helper);
                    let both = known.is_some() && other.is_none() && owner != Owner::Client;
                    (if both { layers.first } else { Layer::Cookie }, slot)
                }
            }
        }
        (_, Some(known)) => (Layer::Table, Some(known.slot)),
        (without_binding, None) => {
            recalled.binding = match without_binding {
                CookieBinding::Hint(opened) => slot_of(opened).map_or(Binding::Absent, Binding::Hint),
                CookieBinding::Expired(_) => Binding::Expired,
                CookieBinding::Forged => Binding::Forged,
                CookieBinding::Absent | CookieBinding::Bound(_) => Binding::Absent,
            };
            return recalled;
        }
    };
    if let (CookieBinding::Bound(opened), None) = (&recalled.cookie, recalled.key) {
        recalled.key = Some(key_of(layers.seed, opened));
    }
    let configured = slot.filter(|slot| cluster.index_of(*slot).is_some());
    recalled.binding = configured.map_or(Binding::Unknown, Binding::To);
    recalled.layer = Some(layer);
    recalled
}

impl Layers<'_> {
    /// Looks up the request's session in the table. A helper knows only sessions that cookies name.
    fn in_table(&self, name: Option<SessionName>, owner: Owner, now: Timestamp) -> Option<InTable> {
        let TableLayer { table, helper } = self.table?;
        let wanted = !helper || matches!(owner, Owner::Session(_));
        let (slot, seen) = table.recall(name.filter(|_| wanted)?, now, !helper)?;
        Some(InTable { slot, seen })
    }

    /// Returns true if the table's binding outranks the one in the cookie.
    ///
    /// The newer one wins: a session that was bound after the table last saw it has been moved by
    /// another proxy. A cookie that is the session outranks a table that knows only the address.
    fn believes_table(&self, owner: Owner, opened: &Opened, known: InTable) -> bool {
        let newer = opened.bound.0 > known.seen.0;
        let helper = self.table.is_some_and(|layer| layer.helper);
        owner != Owner::Client && !newer && (helper || self.first == Layer::Table)
    }
}

/// Returns the slot of the backend that a cookie names, if it is configured.
pub(super) fn slot_of(cluster: &Cluster, opened: &Opened) -> Option<Slot> {
    let member = cluster.members().iter().find(|member| member.id == opened.backend);
    member.map(|member| member.slot)
}

/// Derives a key for a session that has only its cookie.
pub fn key_of(seed: Seed, opened: &Opened) -> KeyHash {
    let mut id = ArrayVec::<u8, { BackendId::MAX_LEN + size_of::<u32>() }>::new();
    id.extend(opened.issued.0.to_le_bytes());
    id.extend(opened.backend.as_str().bytes());
    KeyHash::of_id(seed, &id)
}

#[cfg(test)]
mod tests;
