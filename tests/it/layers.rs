//! `remember` with a sealed cookie: which session it belongs to, and how it and the table help each
//! other.

use std::path::PathBuf;
use std::time::SystemTime;

use homing::affinity::{AdminState, Timestamp};

use crate::harness::{Backend, Client, Gate, Proxy, ProxyBuilder, eventually, three};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const SEALED: &str = "homing-web";
const EARLY: &str = "homing-web.early";
const COOKIE: &str = r#""cookie""#;
const BOTH: &str = r#"["table", "cookie"]"#;

/// Three backends and a key file.
struct Site {
    backends: [Backend; 3],
    _directory: tempfile::TempDir,
    keys: PathBuf,
}

impl Site {
    async fn new() -> Self {
        Self::of(three().await)
    }

    fn of(backends: [Backend; 3]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let keys = directory.path().join("keys");
        std::fs::write(&keys, KEY).expect("write");
        Self { backends, _directory: directory, keys }
    }

    /// A proxy that keeps bindings in these layers.
    fn remembering(&self, layers: &str) -> ProxyBuilder {
        self.with(layers, r#"key = ["cookie:SID"]"#)
    }

    /// A proxy that keeps bindings in these layers, with more settings of `affinity`.
    fn with(&self, layers: &str, more: &str) -> ProxyBuilder {
        let [a, b, c] = &self.backends;
        let cookie = format!("cookie = {{ keys_file = \"{}\" }}", self.keys.display());
        let cookie = if layers.contains("cookie") { cookie } else { "announce = false".to_owned() };
        let affinity = format!("remember = {layers}, report = true, {more}, {cookie}");
        Proxy::builder().upstream("web", &[a, b, c]).affinity(&affinity)
    }

    /// Makes all backends add these lines to their responses.
    fn answer(&self, lines: &[&str]) {
        self.backends.iter().for_each(|backend| backend.set_fields(lines));
    }

    fn backend(&self, name: &str) -> &Backend {
        self.backends.iter().find(|b| b.name == name).expect("a known backend")
    }

    /// Returns a client whose session is away from its key's home, so that only a binding keeps it
    /// there, and the session's backend.
    async fn away_from_home(&self, proxy: &Proxy, sid: &str) -> (Client, String) {
        let mut client = proxy.session(sid);
        let home = client.get("/").await.backend().to_owned();
        self.backend(&home).stop().await;
        let heir = client.get("/").await.backend().to_owned();
        self.backend(&home).restart();
        assert_ne!(heir, home);
        (client, heir)
    }
}

#[tokio::test]
async fn response_to_a_request_without_the_key_never_sets_the_cookie() {
    let site = Site::new().await;
    for layers in [COOKIE, BOTH] {
        for fallback in [r#"key = ["cookie:SID"]"#, r#"key = ["cookie:SID", "ip"]"#] {
            let proxy = site.with(layers, fallback).start().await;
            for n in 0..10 {
                // The page's first requests go out together. One of them mints the session.
                site.answer(&[&format!("Set-Cookie: SID=minted-{n}; Path=/")]);
                let mut client = proxy.client();
                let home = client.get("/").await;
                assert!(home.fields.all("set-cookie").iter().any(|line| line.starts_with(SEALED)));
                site.answer(&[]);
                let other = proxy.client().get("/picture").await;
                assert!(!other.fields.has("set-cookie"), "the session's cookie was replaced");
                let next = client.get("/").await;
                assert_eq!(next.backend(), home.backend());
                assert!(next.outcome().starts_with("kept"), "{}", next.outcome());
                // With the seal and without the key, such as from outside the key cookie's path.
                let sealed = client.cookie_value(SEALED).expect("the cookie").to_owned();
                let outside = proxy.client().cookie(SEALED, &sealed).get("/outside").await;
                assert_eq!(outside.backend(), home.backend(), "the client has been there");
                assert!(!outside.fields.has("set-cookie"), "the session's cookie was replaced");
            }
        }
    }
}

#[tokio::test]
async fn first_page_without_a_key_keeps_the_backend_that_set_the_applications_cookie() {
    let site = Site::new().await;
    let proxy = site.with(COOKIE, "announce = true").start().await;
    for n in 0..10 {
        // Two responses to the page's first requests. The one without a session arrives last.
        site.answer(&[&format!("Set-Cookie: id={n}; Path=/")]);
        let mut client = proxy.client();
        let home = client.get("/").await;
        site.answer(&[]);
        let mut picture = proxy.client();
        let other = picture.get("/picture").await;
        assert!(other.outcome().starts_with("new"), "{}", other.outcome());
        for name in [SEALED, EARLY] {
            if let Some(value) = picture.cookie_value(name) {
                client = client.cookie(name, value);
            }
        }
        for _ in 0..3 {
            let next = client.get("/").await;
            assert_eq!(next.backend(), home.backend());
            assert!(!next.fields.has("set-cookie"), "the cookie was set again");
        }
        // An application without cookies is served too, until it has some.
        let next = picture.get("/").await;
        assert_eq!(next.backend(), other.backend());
        assert!(!next.fields.has("set-cookie"), "the cookie was set again");
        site.answer(&["Set-Cookie: id=late; Path=/"]);
        picture.get("/login").await;
        site.answer(&[]);
        assert!(picture.cookie_value(SEALED).is_some(), "the session has begun");
        assert_eq!(picture.get("/").await.backend(), other.backend());
    }
}

#[tokio::test]
async fn cookie_of_another_session_does_not_move_a_known_one() {
    let site = Site::new().await;
    for layers in [COOKIE, BOTH] {
        let proxy = site.remembering(layers).start().await;
        let (mut one, place) = site.away_from_home(&proxy, "one").await;
        let mut other = proxy.session("other");
        while other.get("/").await.backend() == place {
            other = proxy.session(&format!("{}-", other.cookie_value("SID").expect("a session")));
        }
        let sealed = other.cookie_value(SEALED).expect("the cookie").to_owned();
        one = one.cookie(SEALED, &sealed);
        let reply = one.get("/").await;
        assert_eq!(reply.backend(), place, "the cookie of another session moved it");
        assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
        assert!(reply.fields.has("set-cookie"), "the client must get its cookie back");
    }
}

#[tokio::test]
async fn cookie_of_another_session_leads_a_new_one_to_the_same_backend_but_not_if_it_drains() {
    let site = Site::new().await;
    for layers in [COOKIE, BOTH] {
        let proxy = site.remembering(layers).start().await;
        let (first, place) = site.away_from_home(&proxy, "first").await;
        let next = async |sid: &str| first.at(proxy.addr()).cookie("SID", sid).get("/").await;
        for n in 0..6 {
            let reply = next(&format!("near-{n}")).await;
            assert_eq!(reply.backend(), place);
            assert!(reply.outcome().starts_with("new"), "{}", reply.outcome());
        }
        proxy.set_state("web", &place, AdminState::Drain).await;
        for n in 0..6 {
            let reply = next(&format!("elsewhere-{n}")).await;
            assert_ne!(reply.backend(), place);
            assert!(reply.outcome().starts_with("new"), "{}", reply.outcome());
        }
    }
}

#[tokio::test]
async fn cacheable_page_that_mints_the_session_costs_no_affinity() {
    let site = Site::new().await;
    let proxy = site.remembering(COOKIE).start().await;
    for n in 0..10 {
        site.answer(&[&format!("Set-Cookie: SID=page-{n}"), "Cache-Control: public, max-age=60"]);
        let mut client = proxy.client();
        let first = client.get("/").await;
        assert_eq!(client.cookie_value(SEALED), None);
        site.answer(&[]);
        let next = client.get("/").await;
        assert_eq!(next.backend(), first.backend());
        assert!(next.fields.has("set-cookie"), "the next response must bring the cookie");
    }
}

#[tokio::test]
async fn simultaneous_first_requests_of_a_session_stay_together() {
    let more = r#"key = ["cookie:SID"], ring = { balance_factor = 1.01 }"#;
    for layers in [COOKIE, BOTH] {
        let gate = Gate::closed();
        let backend = |name| Backend::named(name).reply_after(&gate).start();
        let site = Site::of([backend("a").await, backend("b").await, backend("c").await]);
        let proxy = site.with(layers, more).start().await;
        let all = || site.backends.iter().map(Backend::requests).sum::<u64>();
        let mut waiting = Vec::new();
        for _ in 0..6 {
            let mut client = proxy.session("first");
            waiting.push(tokio::spawn(async move { client.get("/").await.backend().to_owned() }));
        }
        eventually("the requests arrive", async || all() == 6).await;
        let used = site.backends.iter().filter(|backend| backend.requests() > 0).count();
        assert_eq!(used, 1, "{layers}: the session was split");
        gate.open();
        for reply in waiting {
            reply.await.expect("a reply");
        }
    }
}

#[tokio::test]
async fn session_that_is_let_go_leaves_a_draining_backend() {
    let site = Site::new().await;
    for layers in [r#""table""#, COOKIE, BOTH] {
        for (how, line) in
            [("released", "X-Affinity-Release: 1"), ("logged out", "Set-Cookie: SID=; Path=/; Max-Age=0")]
        {
            let proxy = site.remembering(layers).start().await;
            site.answer(&["Set-Cookie: SID=abc; Path=/"]);
            let mut client = proxy.client();
            let home = client.get("/login").await.backend().to_owned();
            site.answer(&[]);
            assert_eq!(client.get("/").await.backend(), home);
            proxy.set_state("web", &home, AdminState::Drain).await;
            assert_eq!(client.get("/").await.backend(), home, "a draining backend keeps its sessions");
            site.answer(&[line]);
            let reply = client.get("/end").await;
            assert_eq!(reply.backend(), home);
            assert!(!reply.fields.has("x-affinity-release"));
            site.answer(&[]);
            assert_eq!(client.cookie_value(SEALED), None, "{layers}: {how}");
            let next = client.get("/").await.backend().to_owned();
            assert_ne!(next, home, "{layers}: a session that was {how} stays");
        }
    }
}

#[tokio::test]
async fn cookie_deleted_in_another_scope_ends_no_session() {
    let site = Site::new().await;
    for layers in [r#""table""#, COOKIE, BOTH] {
        let proxy = site.remembering(layers).start().await;
        // This one knows the session from its sealed cookie only.
        let other = site.remembering(layers).start().await;
        site.answer(&["Set-Cookie: SID=abc; Path=/"]);
        let mut client = proxy.client();
        let home = client.get("/login").await.backend().to_owned();
        let sealed = client.cookie_value(SEALED).map(str::to_owned);
        site.answer(&["Set-Cookie: SID=; Path=/shop; Max-Age=0"]);
        let proxies = if sealed.is_some() { vec![&proxy, &other] } else { vec![&proxy] };
        for proxy in proxies {
            proxy.set_state("web", &home, AdminState::Drain).await;
            for _ in 0..2 {
                client = client.at(proxy.addr()).cookie("SID", "abc");
                assert_eq!(client.get("/").await.backend(), home, "{layers}");
                assert_eq!(client.cookie_value(SEALED), sealed.as_deref(), "{layers}");
            }
        }
        site.answer(&[]);
    }
}

#[tokio::test]
async fn cookie_and_table_survive_the_loss_of_either() {
    let site = Site::new().await;
    let proxy = site.remembering(BOTH).start().await;
    let (client, place) = site.away_from_home(&proxy, "survivor").await;
    // Killed without saving anything. Another proxy takes over.
    drop(proxy);
    let proxy = site.remembering(BOTH).start().await;
    let mut client = client.at(proxy.addr());
    let reply = client.get("/").await;
    assert_eq!(reply.backend(), place);
    assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
    proxy.metric_becomes("homing_recalled_total", &[("memory", "cookie")], 1.0).await;
    // The client loses its cookie. The table has learned it from the cookie.
    let mut without = proxy.session("survivor");
    let reply = without.get("/").await;
    assert_eq!(reply.backend(), place);
    assert!(without.cookie_value(SEALED).is_some(), "the table gives the client its cookie back");
    proxy.metric_becomes("homing_recalled_total", &[("memory", "table")], 1.0).await;
}

#[tokio::test]
async fn session_that_another_proxy_has_moved_stays_moved() {
    let site = Site::new().await;
    let (one, other) = (site.remembering(BOTH).start().await, site.remembering(BOTH).start().await);
    let mut client = one.session("travels");
    let home = client.get("/").await.backend().to_owned();
    // The table knows to the second when it last saw the session, and a worker's clock is behind by a
    // fraction of one.
    let seen = Timestamp::of(SystemTime::now());
    eventually("a later second", async || Timestamp::of(SystemTime::now()).since(seen) > 1).await;
    site.backend(&home).stop().await;
    let mut at_other = client.at(other.addr());
    let place = at_other.get("/").await.backend().to_owned();
    site.backend(&home).restart();
    assert_eq!(at_other.at(one.addr()).get("/").await.backend(), place, "the cookie is newer");
    assert_ne!(place, home);
    assert_eq!(one.session("travels").get("/").await.backend(), place, "the table is behind");
}

#[tokio::test]
async fn reload_between_table_and_cookie_keeps_sessions() {
    let site = Site::new().await;
    let (table, cookie) = (site.remembering(r#""table""#), site.remembering(COOKIE));
    let proxy = table.clone().start().await;
    let (mut client, place) = site.away_from_home(&proxy, "in-table").await;
    proxy.reload(&cookie).await;
    let reply = client.get("/").await;
    assert_eq!(reply.backend(), place, "the table serves until its entries expire");
    assert!(client.cookie_value(SEALED).is_some(), "the session is handed to the cookie");

    // A session that only its cookie knows.
    let elsewhere = cookie.start().await;
    let (sealed, place) = site.away_from_home(&elsewhere, "in-cookie").await;
    proxy.reload(&table).await;
    let mut sealed = sealed.at(proxy.addr());
    let reply = sealed.get("/").await;
    assert_eq!(reply.backend(), place, "cookies that were issued before are read");
    assert!(!reply.fields.has("set-cookie"));
    assert!(!site.backend(&place).last().field("cookie").expect("a cookie").contains(SEALED));
    assert_eq!(proxy.session("in-cookie").get("/").await.backend(), place, "it is handed to the table");
}

#[tokio::test]
async fn upstreams_on_one_host_do_not_share_a_cookie() {
    let (one, two) = (three().await, three().await);
    let affinity = r#"remember = "cookie", report = true"#;
    let proxy = Proxy::builder()
        .raw_toml("[[route]]\npath = \"/one\"\nupstream = \"one\"\n[[route]]\nupstream = \"two\"")
        .upstream("one", &one.each_ref())
        .affinity(affinity)
        .upstream("two", &two.each_ref())
        .affinity(affinity)
        .start()
        .await;
    for _ in 0..10 {
        let mut client = proxy.client();
        let homes = [client.get("/one").await, client.get("/two").await].map(|r| r.backend().to_owned());
        for _ in 0..3 {
            for (path, home) in ["/one", "/two"].iter().zip(&homes) {
                let reply = client.get(path).await;
                assert_eq!(reply.backend(), home);
                assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
            }
        }
    }
}

#[tokio::test]
async fn clients_behind_one_address_are_spread_unless_the_key_is_the_address() {
    let site = Site::new().await;
    let spread = site.with(COOKIE, "announce = true").start().await;
    for _ in 0..40 {
        spread.client().get("/").await;
    }
    assert!(site.backends.iter().all(|backend| backend.requests() > 0), "not spread over all backends");
    let by_address = site.with(COOKIE, r#"key = ["cookie:SID", "ip"]"#).start().await;
    for n in 0..20 {
        site.answer(&[&format!("Set-Cookie: SID={n}")]);
        by_address.client().get("/").await;
    }
    by_address.metric_becomes("homing_sessions_by_address_total", &[("address", "largest")], 20.0).await;
}
