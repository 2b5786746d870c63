use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::affinity::cookie::{OnCacheable, SameSite, SecureAttribute};
use crate::affinity::key::tests::TestRequest;
use crate::affinity::name;
use crate::affinity::ring::Ring;
use crate::affinity::{AdminState, Health, Member, Slot, Weight};

const NOW: Timestamp = Timestamp(1_000_000);
const MINE: KeyHash = KeyHash(42);
const OTHER: KeyHash = KeyHash(43);
const NAME: SessionName = SessionName(7);

fn config() -> CookieConfig {
    CookieConfig {
        name: "homing-web".to_owned(),
        early_name: "homing-web.early".to_owned(),
        former_name: Some("homing".to_owned()),
        keys_file: None,
        keys: Vec::new(),
        max_age: Some(Duration::from_secs(1000)),
        max_idle: Duration::from_secs(100),
        path: "/".to_owned(),
        domain: None,
        secure: SecureAttribute::Auto,
        same_site: SameSite::Lax,
        http_only: true,
        partitioned: false,
        on_cacheable: OnCacheable::Skip,
    }
}

/// An upstream's layers of memory.
struct Memory {
    sources: Vec<KeySource>,
    table: Option<Table>,
    helper: bool,
    keys: Option<KeyRing>,
    config: CookieConfig,
    first: Layer,
}

impl Memory {
    fn new() -> Self {
        Self {
            sources: vec![KeySource::Cookie("SID".to_owned()), KeySource::Ip],
            table: None,
            helper: false,
            keys: None,
            config: config(),
            first: Layer::Table,
        }
    }

    fn with_table() -> Self {
        Self { table: Some(Table::new(10, 100)), ..Self::new() }
    }

    /// The cookie, with a table that helps it.
    fn with_cookie() -> Self {
        Self { helper: true, first: Layer::Cookie, keys: Some(KeyRing::ephemeral()), ..Self::with_table() }
    }

    fn with_both() -> Self {
        Self { keys: Some(KeyRing::ephemeral()), ..Self::with_table() }
    }

    fn recall(&self, found: Option<FoundKey>, cookie: &str) -> Recalled {
        let layers = Layers {
            upstream: "web",
            sources: &self.sources,
            seed: Seed(1),
            table: self.table.as_ref().map(|table| TableLayer { table, helper: self.helper }),
            cookie: self.keys.as_ref().map(|keys| CookieLayer { keys, config: &self.config }),
            first: self.first,
        };
        recall(&layers, &cluster(), found, &TestRequest::new("/", &[("cookie", cookie)]), NOW)
    }

    fn bind(&self, slot: u16, seen: u32) {
        self.table.as_ref().unwrap().bind(NAME, Slot(slot), name::Owner(0), Timestamp(seen));
    }

    /// Returns the session's sealed cookie.
    fn sealed(&self, key: Option<KeyHash>, backend: &str, bound: u32) -> String {
        let bound = Timestamp(bound);
        let opened = Opened {
            backend: backend.parse().unwrap(),
            key,
            early: false,
            issued: bound,
            bound,
            last_seen: bound,
        };
        format!("homing-web={}", self.keys.as_ref().unwrap().seal("web", &opened))
    }
}

/// Two backends: `node1` in slot 3, `node2` in slot 4.
fn cluster() -> Cluster {
    let ids: Vec<BackendId> = ["node1", "node2"].map(|id| id.parse().unwrap()).into();
    let ring = Ring::build(Seed(1), 10, &ids.iter().map(|id| (id.clone(), Weight::ONE)).collect::<Vec<_>>());
    let members = (3..).zip(ids).map(|(slot, id)| Member {
        id,
        slot: Slot(slot),
        weight: Weight::ONE,
        admin: AdminState::Ready,
        health: Health::Up,
        shunned: false,
        active_points: u32::MAX,
    });
    Cluster::new(Arc::new(ring), members.collect())
}

const SESSION: Option<FoundKey> = Some(FoundKey { source: 0, hash: MINE, name: Some(NAME) });
const ADDRESS: Option<FoundKey> = Some(FoundKey { source: 1, hash: MINE, name: Some(NAME) });

fn to(slot: u16) -> Binding {
    Binding::To(Slot(slot))
}

#[test]
fn ring_alone_decides_without_a_layer() {
    let recalled = Memory::new().recall(SESSION, "");
    assert_eq!((recalled.binding, recalled.key, recalled.layer), (Binding::RingOnly, Some(MINE), None));
}

#[test]
fn table_binding_is_found_by_key() {
    let memory = Memory::with_table();
    assert_eq!(memory.recall(SESSION, "").binding, Binding::Absent);
    memory.bind(3, NOW.0);
    assert_eq!(memory.recall(SESSION, "").binding, to(3));
    assert_eq!(memory.recall(SESSION, "").layer, Some(Layer::Table));
    assert_eq!(memory.recall(ADDRESS, "").binding, to(3), "an address has entries too");
    assert_eq!(memory.recall(None, "").binding, Binding::Absent);
    memory.bind(9, NOW.0);
    assert_eq!(memory.recall(SESSION, "").binding, Binding::Unknown, "removed backend");
}

#[test]
fn cookie_binds_the_session_that_it_names() {
    let memory = Memory::with_cookie();
    assert_eq!(memory.recall(SESSION, "").binding, Binding::Absent);
    assert_eq!(memory.recall(SESSION, "homing-web=x").binding, Binding::Forged);
    let bound = memory.recall(SESSION, &memory.sealed(Some(MINE), "node1", NOW.0));
    assert_eq!((bound.binding, bound.key, bound.layer), (to(3), Some(MINE), Some(Layer::Cookie)));
    let removed = memory.recall(SESSION, &memory.sealed(Some(MINE), "node9", NOW.0));
    assert_eq!(removed.binding, Binding::Unknown);
    let expired = memory.recall(SESSION, &memory.sealed(Some(MINE), "node1", NOW.0 - 101));
    assert_eq!((expired.binding, expired.layer), (Binding::Expired, None));
}

#[test]
fn cookie_of_another_session_is_a_hint_for_a_new_one() {
    let memory = Memory::with_cookie();
    let other = memory.sealed(Some(OTHER), "node2", NOW.0);
    for found in [SESSION, ADDRESS, None] {
        let recalled = memory.recall(found, &other);
        assert_eq!((recalled.binding, recalled.layer), (Binding::Hint(Slot(4)), None), "{found:?}");
    }
    memory.bind(3, NOW.0);
    assert_eq!(memory.recall(SESSION, &other).binding, to(3), "the session is known");
}

#[test]
fn cookie_is_the_session_where_requests_have_no_id() {
    let memory = Memory { sources: Vec::new(), ..Memory::with_cookie() };
    let sealed = memory.sealed(None, "node1", NOW.0);
    let bound = memory.recall(None, &sealed);
    assert_eq!(bound.binding, to(3));
    assert!(bound.key.is_some(), "the key comes from the cookie");
    assert_eq!(memory.recall(None, &sealed).key, bound.key, "every proxy gets the same key");
}

#[test]
fn cookie_under_its_former_name_is_read() {
    let memory = Memory::with_cookie();
    let former = memory.sealed(None, "node1", NOW.0).replace("homing-web=", "homing=");
    let recalled = memory.recall(SESSION, &former);
    assert_eq!(recalled.binding, to(3));
    assert!(!recalled.own.is_empty());
}

#[test]
fn either_layer_finds_what_the_other_has_lost() {
    let memory = Memory::with_both();
    let sealed = memory.sealed(Some(MINE), "node2", NOW.0 - 10);
    let recalled = memory.recall(SESSION, &sealed);
    assert_eq!((recalled.binding, recalled.layer), (to(4), Some(Layer::Cookie)));
    assert!(recalled.table_behind, "the table has lost the session");
    memory.bind(4, NOW.0);
    let recalled = memory.recall(SESSION, &sealed);
    assert_eq!((recalled.binding, recalled.layer), (to(4), Some(Layer::Table)));
    assert!(!recalled.table_behind);
    assert_eq!(memory.recall(SESSION, "").binding, to(4));
}

#[test]
fn newer_binding_wins() {
    let memory = Memory::with_both();
    memory.bind(3, NOW.0 - 10);
    // Another proxy has moved the session since the table saw it last.
    let recalled = memory.recall(SESSION, &memory.sealed(Some(MINE), "node2", NOW.0 - 9));
    assert_eq!((recalled.binding, recalled.layer), (to(4), Some(Layer::Cookie)));
    assert!(recalled.table_behind);
    // This proxy has moved it, and the client does not know yet.
    memory.bind(3, NOW.0);
    let recalled = memory.recall(SESSION, &memory.sealed(Some(MINE), "node2", NOW.0 - 9));
    assert_eq!((recalled.binding, recalled.layer), (to(3), Some(Layer::Table)));
}

#[test]
fn listed_order_decides_if_no_binding_is_newer() {
    let memory = Memory { first: Layer::Cookie, ..Memory::with_both() };
    memory.bind(3, NOW.0);
    let recalled = memory.recall(SESSION, &memory.sealed(Some(MINE), "node2", NOW.0));
    assert_eq!((recalled.binding, recalled.layer), (to(4), Some(Layer::Cookie)));
}

#[test]
fn helping_table_knows_what_the_client_has_not_brought_back() {
    let memory = Memory::with_cookie();
    memory.bind(3, NOW.0 - 5);
    let stale = memory.sealed(Some(MINE), "node2", NOW.0 - 6);
    assert_eq!(memory.recall(SESSION, &stale).binding, to(3), "the table is newer");
    let newer = memory.sealed(Some(MINE), "node2", NOW.0 - 4);
    let recalled = memory.recall(SESSION, &newer);
    assert_eq!(recalled.binding, to(4));
    assert!(recalled.table_behind, "the table contradicts the client");
    assert_eq!(memory.recall(ADDRESS, "").binding, Binding::Absent, "an address is no session");
    let seen = memory.table.as_ref().unwrap().recall(NAME, NOW, false);
    assert_eq!(seen, Some((Slot(3), Timestamp(NOW.0 - 5))), "a lookup must not make the entry newer");
}

#[test]
fn table_does_not_outlive_the_maximum_age() {
    let memory = Memory::with_both();
    memory.bind(3, NOW.0);
    let old = memory.sealed(Some(MINE), "node1", NOW.0 - 1001);
    assert_eq!(memory.recall(SESSION, &old).binding, Binding::Expired);
    let idle = memory.sealed(Some(MINE), "node1", NOW.0 - 101);
    assert_eq!(memory.recall(SESSION, &idle).binding, to(3));
}
