//! `remember = "cookie"`: bindings sealed in a cookie at the client.

use std::path::{Path, PathBuf};

use crate::harness::{Backend, Client, Proxy, ProxyBuilder, eventually, three};

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const NEWER: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

/// Writes these keys to a file. Dropping the directory deletes it.
fn keys(keys: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("keys");
    std::fs::write(&path, keys.join("\n")).expect("write");
    (directory, path)
}

/// These backends, with sessions bound by a sealed cookie.
fn sealed(backends: &[Backend; 3], keys: &Path, cookie: &str) -> ProxyBuilder {
    let [a, b, c] = backends;
    let keys = keys.display();
    let affinity = format!(
        r#"key = ["cookie:SID"], remember = "cookie", report = true, cookie = {{ keys_file = "{keys}", {cookie} }}"#
    );
    Proxy::builder().upstream("web", &[a, b, c]).affinity(&affinity)
}

/// Returns a client whose session is away from its key's home, so that only the cookie keeps it
/// there, and the session's backend.
async fn away_from_home(proxy: &Proxy, backends: &[Backend; 3]) -> (Client, String) {
    let mut client = proxy.session("away");
    let home = client.get("/").await.backend().to_owned();
    let home = backends.iter().find(|b| b.name == home).expect("a known backend");
    home.stop().await;
    let heir = client.get("/").await.backend().to_owned();
    home.restart();
    assert_ne!(heir, home.name);
    (client, heir)
}

#[tokio::test]
async fn cookie_is_set_once_and_binds_the_session() {
    let backends = three().await;
    let (_directory, keys) = keys(&[KEY]);
    let proxy = sealed(&backends, &keys, "").start().await;
    let keyless =
        format!(r#"remember = "cookie", report = true, cookie = {{ keys_file = "{}" }}"#, keys.display());
    let [a, b, c] = &backends;
    let keyless = Proxy::builder().upstream("web", &[a, b, c]).affinity(&keyless).start().await;
    for client in [proxy.session("s"), keyless.client()] {
        let mut client = client.reconnecting();
        let first = client.get("/").await;
        assert!(first.outcome().starts_with("new"), "{}", first.outcome());
        let cookie = first.field("set-cookie").expect("a cookie");
        assert!(cookie.starts_with("homing-web=") || cookie.starts_with("homing-web.early="), "{cookie}");
        assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
        assert!(
            !cookie.contains(first.backend()) || first.backend().len() == 1,
            "the cookie reveals its backend"
        );
        for _ in 0..5 {
            let next = client.get("/").await;
            assert_eq!(next.backend(), first.backend());
            assert!(next.outcome().starts_with("kept"), "{}", next.outcome());
            assert!(!next.fields.has("set-cookie"), "the cookie was set again");
        }
    }
}

#[tokio::test]
async fn cookie_overrides_the_ring() {
    let backends = three().await;
    let (_directory, keys) = keys(&[KEY]);
    let proxy = sealed(&backends, &keys, "").start().await;
    let (mut client, heir) = away_from_home(&proxy, &backends).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.backend(), heir);
    }
}

#[tokio::test]
async fn cookie_is_stripped_from_requests_and_others_are_kept() {
    let backends = three().await;
    let (_directory, keys) = keys(&[KEY]);
    let proxy = sealed(&backends, &keys, "").start().await;
    let mut client = proxy.session("s");
    client.get("/").await;
    let own = format!("homing-web={}", client.cookie_value("homing-web").expect("the cookie"));
    let mut raw = proxy.raw().await;
    for (sent, expected) in [
        (vec![own.clone()], vec![]),
        (vec![format!("a=1; {own}; b=2")], vec!["a=1; b=2"]),
        (vec![format!("{own}; a=1")], vec!["a=1"]),
        (vec![format!("a=1;{own}")], vec!["a=1"]),
        (vec!["a=1".into(), own.clone(), "b=2; c=3".into()], vec!["a=1", "b=2; c=3"]),
        (vec![format!("{own}; xhoming-web=1; homing-web2=2")], vec!["xhoming-web=1; homing-web2=2"]),
        (vec!["a=1; b=homing-web".into()], vec!["a=1; b=homing-web"]),
        // Another proxy behind this one may use the name too.
        (vec![format!("homing-web=theirs; {own}; a=1")], vec!["homing-web=theirs; a=1"]),
        (vec!["a=1; homing-web=theirs".into(), own.clone()], vec!["a=1; homing-web=theirs"]),
        // The name in earlier versions.
        (vec![format!("{}; a=1", own.replace("homing-web=", "homing="))], vec!["a=1"]),
        (vec!["homing=theirs; a=1".into()], vec!["homing=theirs; a=1"]),
    ] {
        let lines: Vec<_> = sent.iter().map(|line| format!("Cookie: {line}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        let reply = raw.get("/", &lines).await;
        let backend = backends.iter().find(|b| b.name == reply.backend()).expect("a known backend");
        assert_eq!(backend.last().fields.all("cookie"), expected, "{sent:?}");
    }
}

#[tokio::test]
async fn forged_cookie_is_ignored_counted_and_replaced() {
    let backends = three().await;
    let (_directory, keys) = keys(&[KEY]);
    let proxy = sealed(&backends, &keys, "").start().await;
    let mut client = proxy.session("s");
    client.get("/").await;
    let good = client.cookie_value("homing-web").expect("the cookie").to_owned();
    let mut flipped = good.clone().into_bytes();
    let middle = flipped.len() / 2;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).expect("ASCII");
    let mut count = 0.0;
    for forged in [flipped.as_str(), "x", "AAAA", &good[..good.len() - 4], &format!("{good}AAAA")] {
        let reply = proxy.session(&format!("forged-{count}")).cookie("homing-web", forged).get("/").await;
        assert!(reply.outcome().starts_with("new; reason=forged"), "{forged}: {}", reply.outcome());
        assert!(reply.fields.has("set-cookie"));
        count += 1.0;
    }
    proxy.metric_becomes("homing_requests_total", &[("reason", "forged")], count).await;
}

#[tokio::test]
async fn cookie_has_the_configured_attributes() {
    let backends = three().await;
    let (_directory, keys) = keys(&[KEY]);
    for (cookie, expected) in [
        (
            r#"name = "__Host-stick", secure = "always", same_site = "strict""#,
            "; Path=/; Secure; HttpOnly; SameSite=Strict",
        ),
        (
            r#"name = "stick", path = "/app", domain = "example.com", http_only = false"#,
            "; Path=/app; Domain=example.com; SameSite=Lax",
        ),
        (
            r#"secure = "always", same_site = "none", partitioned = true"#,
            "; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
        ),
    ] {
        let proxy = sealed(&backends, &keys, cookie).start().await;
        let reply = proxy.session("s").get("/").await;
        let set = reply.field("set-cookie").expect("a cookie");
        assert!(set.ends_with(expected), "{cookie}: {set}");
    }
}

#[tokio::test]
async fn secure_follows_x_forwarded_proto_from_trusted_proxies() {
    let backends = three().await;
    let (_directory, keys) = keys(&[KEY]);
    let wary = sealed(&backends, &keys, "").start().await;
    let trusting =
        sealed(&backends, &keys, "").raw_toml("[client_ip]\ntrusted = [\"127.0.0.1\"]").start().await;
    for (proxy, proto, expected) in
        [(&wary, "https", false), (&trusting, "https", true), (&trusting, "http", false)]
    {
        let mut client = proxy.session(proto).field(&format!("X-Forwarded-Proto: {proto}"));
        let reply = client.get("/").await;
        assert_eq!(reply.field("set-cookie").expect("a cookie").contains("; Secure"), expected, "{proto}");
    }
}

#[tokio::test]
async fn cookie_is_not_set_on_publicly_cacheable_responses() {
    let backends = three().await;
    let (_directory, keys) = keys(&[KEY]);
    let skip = sealed(&backends, &keys, "").start().await;
    let private = sealed(&backends, &keys, r#"on_cacheable = "private""#).start().await;
    let set = sealed(&backends, &keys, r#"on_cacheable = "set""#).start().await;
    for backend in &backends {
        backend.set_fields(&["Cache-Control: public, max-age=60"]);
    }
    assert!(!skip.session("s").get("/style.css").await.fields.has("set-cookie"));
    assert!(
        skip.session("s").post("/style.css", b"x").await.fields.has("set-cookie"),
        "a response to POST is not cacheable"
    );
    let reply = private.session("s").get("/style.css").await;
    assert!(reply.fields.has("set-cookie"));
    assert_eq!(reply.fields.all("cache-control"), ["public, max-age=60", "private"]);
    let reply = set.session("s").get("/style.css").await;
    assert!(reply.fields.has("set-cookie"));
    assert_eq!(reply.fields.all("cache-control"), ["public, max-age=60"]);
    for backend in &backends {
        backend.set_fields(&[
            "Cache-Control: private",
            "CDN-Cache-Control: max-age=60",
            "X-Accel-Expires: 60",
        ]);
    }
    assert!(
        !skip.session("s").get("/style.css").await.fields.has("set-cookie"),
        "a CDN obeys its own header"
    );
    let reply = private.session("s").get("/style.css").await;
    assert!(reply.fields.has("set-cookie"));
    for overrides in ["cdn-cache-control", "x-accel-expires"] {
        assert!(!reply.fields.has(overrides), "{overrides} would override `private`");
    }
    assert!(set.session("s").get("/style.css").await.fields.has("cdn-cache-control"));
    for backend in &backends {
        backend.set_fields(&["Cache-Control: no-store"]);
    }
    assert!(skip.session("s").get("/").await.fields.has("set-cookie"));
}

#[tokio::test]
async fn key_rotation_keeps_sessions() {
    let backends = three().await;
    let (_directory, path) = keys(&[KEY]);
    let builder = sealed(&backends, &path, "");
    let proxy = builder.clone().start().await;
    let (mut client, heir) = away_from_home(&proxy, &backends).await;

    std::fs::write(&path, format!("{NEWER}\n{KEY}\n")).expect("write");
    proxy.reload(&builder).await;
    let reply = client.get("/").await;
    assert_eq!(reply.backend(), heir, "the older key must still open cookies");
    assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());

    let (mut newcomer, place) = away_from_home(&proxy, &backends).await;
    std::fs::write(&path, format!("{NEWER}\n")).expect("write");
    proxy.reload(&builder).await;
    assert_eq!(newcomer.get("/").await.backend(), place, "the newer key must seal cookies");
    // Another proxy, which does not know the sessions.
    let other = sealed(&backends, &path, "").start().await;
    let reply = client.at(other.addr()).get("/").await;
    assert!(
        reply.outcome().starts_with("new; reason=forged"),
        "a removed key opened a cookie: {}",
        reply.outcome()
    );
}

#[tokio::test]
async fn another_proxy_with_the_same_keys_keeps_the_session() {
    let backends = three().await;
    let (_directory, same) = keys(&[KEY]);
    let (_other_directory, other) = keys(&[NEWER]);
    let first = sealed(&backends, &same, "").start().await;
    let second = sealed(&backends, &same, "").start().await;
    let stranger = sealed(&backends, &other, "").start().await;
    let (client, heir) = away_from_home(&first, &backends).await;
    let reply = client.at(second.addr()).get("/").await;
    assert_eq!(reply.backend(), heir);
    assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
    let reply = client.at(stranger.addr()).get("/").await;
    assert!(reply.outcome().starts_with("new; reason=forged"), "{}", reply.outcome());
}

#[tokio::test]
async fn cookie_of_one_upstream_counts_as_forged_at_another() {
    let backends = three().await;
    let (_directory, path) = keys(&[KEY]);
    let [a, b, c] = &backends;
    let web = sealed(&backends, &path, r#"name = "stick""#).start().await;
    let affinity = format!(
        r#"remember = "cookie", report = true, cookie = {{ name = "stick", keys_file = "{}" }}"#,
        path.display()
    );
    let shop = Proxy::builder().upstream("shop", &[a, b, c]).affinity(&affinity).start().await;
    let mut client = web.session("s");
    client.get("/").await;
    let reply = client.at(shop.addr()).get("/").await;
    assert!(reply.outcome().starts_with("new; reason=forged"), "{}", reply.outcome());
}

#[tokio::test]
async fn session_of_a_removed_backend_moves_and_gets_a_new_cookie() {
    let backends = three().await;
    let (_directory, path) = keys(&[KEY]);
    let builder = sealed(&backends, &path, "");
    let proxy = builder.clone().start().await;
    let mut client = proxy.session("s");
    let first = client.get("/").await.backend().to_owned();
    proxy.reload(&builder.without(&first)).await;
    let reply = client.get("/").await;
    assert!(reply.outcome().starts_with("moved; reason=removed"), "{}", reply.outcome());
    assert!(reply.fields.has("set-cookie"));
    let place = reply.backend().to_owned();
    let reply = client.get("/").await;
    assert_eq!(reply.backend(), place);
    assert!(reply.outcome().starts_with("kept") && !reply.fields.has("set-cookie"));
}

#[tokio::test]
async fn temporary_failover_keeps_the_cookie() {
    let backends = three().await;
    let (_directory, path) = keys(&[KEY]);
    let [a, b, c] = &backends;
    let affinity = format!(
        r#"key = ["cookie:SID"], remember = "cookie", failover = "temporary", cookie = {{ keys_file = "{}" }}"#,
        path.display()
    );
    let proxy = Proxy::builder().upstream("web", &[a, b, c]).affinity(&affinity).start().await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    let stopped = backends.iter().find(|b| b.name == home).expect("a known backend");
    stopped.stop().await;
    let mut heirs = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let reply = client.get("/").await;
        assert!(!reply.fields.has("set-cookie"));
        heirs.insert(reply.backend().to_owned());
    }
    assert_eq!(heirs.len(), 1, "a session must have one heir: {heirs:?}");
    stopped.restart();
    assert_eq!(client.get("/").await.backend(), home);
}

#[tokio::test]
async fn expired_cookie_starts_a_new_session() {
    let backends = three().await;
    let (_directory, path) = keys(&[KEY]);
    let proxy = sealed(&backends, &path, r#"max_age = "1s", max_idle = "1s""#).start().await;
    let mut client = proxy.session("s");
    client.get("/").await;
    let old = client.cookie_value("homing-web").expect("the cookie").to_owned();
    let mut outcome = String::new();
    eventually("the cookie expires", async || {
        let reply = proxy.session("s").cookie("homing-web", &old).get("/").await;
        outcome = reply.outcome();
        assert!(outcome.starts_with("kept") || reply.fields.has("set-cookie"), "{outcome}");
        !outcome.starts_with("kept")
    })
    .await;
    assert!(outcome.starts_with("new; reason=expired"), "{outcome}");
}
