use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::affinity::cookie::{OnCacheable, SameSite, SecureAttribute};
use crate::affinity::key::tests::TestRequest;
use crate::affinity::name::Owner;
use crate::affinity::ring::Ring;
use crate::affinity::{AdminState, Health, Member, SessionName, Slot, Weight};

const NOW: Timestamp = Timestamp(1_000_000);
const KEY: Option<KeyHash> = Some(KeyHash(42));
const NAME: SessionName = SessionName(7);

/// One backend, `node1`, in slot 3.
fn cluster() -> Cluster {
    let id: BackendId = "node1".parse().unwrap();
    let ring = Ring::build(Seed(1), 10, &[(id.clone(), Weight::ONE)]);
    let member = Member {
        id,
        slot: Slot(3),
        weight: Weight::ONE,
        admin: AdminState::Ready,
        health: Health::Up,
        active_points: u32::MAX,
    };
    Cluster::new(Arc::new(ring), vec![member])
}

fn recalled(store: Store<'_>, key: Option<KeyHash>, cookie: &str) -> Recalled {
    let found = key.map(|hash| FoundKey { source: 0, hash, name: Some(NAME) });
    recall(store, &cluster(), found, &TestRequest::new("/", &[("cookie", cookie)]), NOW)
}

fn config() -> CookieConfig {
    CookieConfig {
        name: "homing".to_owned(),
        keys_file: None,
        keys: Vec::new(),
        max_age: Duration::from_secs(1000),
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

#[test]
fn nothing_is_stored_without_a_store() {
    let recalled = recalled(Store::None, KEY, "");
    assert_eq!((recalled.binding, recalled.key), (Binding::RingOnly, KEY));
}

#[test]
fn table_binding_is_found_by_key() {
    let table = Table::new(10, 100);
    assert_eq!(recalled(Store::Table(&table), KEY, "").binding, Binding::Absent);
    table.bind(NAME, Slot(3), Owner(0), NOW);
    assert_eq!(recalled(Store::Table(&table), KEY, "").binding, Binding::To(Slot(3)));
    assert_eq!(recalled(Store::Table(&table), None, "").binding, Binding::Absent);
    table.bind(NAME, Slot(4), Owner(0), NOW);
    assert_eq!(recalled(Store::Table(&table), KEY, "").binding, Binding::Unknown, "removed backend");
}

#[test]
fn cookie_binding_is_found_and_gives_a_key() {
    let (keys, config) = (KeyRing::ephemeral(), config());
    let store = Store::Cookie { keys: &keys, config: &config, upstream: "web", seed: Seed(1) };
    let cookie = |backend: &str, issued: u32| {
        let sealed = keys.seal("web", &backend.parse().unwrap(), Timestamp(issued), Timestamp(issued));
        format!("homing={sealed}")
    };

    assert_eq!(recalled(store, KEY, "").binding, Binding::Absent);
    assert_eq!(recalled(store, KEY, "homing=x").binding, Binding::Forged);

    let bound = recalled(store, None, &cookie("node1", NOW.0));
    assert_eq!(bound.binding, Binding::To(Slot(3)));
    assert!(matches!(bound.cookie, CookieBinding::Bound(_)));
    assert!(bound.key.is_some(), "the key comes from the cookie");
    assert_eq!(
        recalled(store, None, &cookie("node1", NOW.0)).key,
        bound.key,
        "every proxy gets the same key"
    );
    assert_eq!(recalled(store, KEY, &cookie("node1", NOW.0)).key, KEY, "the request's key wins");

    assert_eq!(recalled(store, KEY, &cookie("node9", NOW.0)).binding, Binding::Unknown);
    let expired = recalled(store, None, &cookie("node1", NOW.0 - 101));
    assert_eq!((expired.binding, expired.key), (Binding::Expired, None));
}
