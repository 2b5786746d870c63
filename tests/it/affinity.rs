//! Which backend gets a request, and that later requests of its session go there too.

use crate::harness::{Backend, Client, Proxy, RawClient, eventually, three};

#[tokio::test]
async fn requests_with_the_same_cookie_go_to_the_same_backend() {
    let [a, b, c] = three().await;
    let proxy =
        Proxy::builder().upstream("web", &[&a, &b, &c]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let mut met = std::collections::BTreeSet::new();
    for n in 0..24 {
        // One connection per request: both workers must agree.
        let mut client = proxy.session(&format!("s{n}")).reconnecting();
        let home = client.get("/").await.backend().to_owned();
        for _ in 0..4 {
            assert_eq!(client.get("/").await.backend(), home);
        }
        met.insert(home);
    }
    assert_eq!(met.len(), 3, "24 sessions must use all backends");
}

#[tokio::test]
async fn same_id_in_cookie_and_path_param_is_the_same_session() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID", "path_param:sid", "query:sid", "header:X-Sid"]"#)
        .start()
        .await;
    let mut raw = proxy.raw().await;
    for n in 0..12 {
        let id = format!("id-{n}");
        let home = raw.get("/", &[&format!("Cookie: SID={id}")]).await.backend().to_owned();
        assert_eq!(raw.get(&format!("/app;sid={id}/x"), &[]).await.backend(), home);
        assert_eq!(raw.get(&format!("/app?a=b&sid={id}"), &[]).await.backend(), home);
        assert_eq!(raw.get("/", &[&format!("X-Sid: {id}")]).await.backend(), home);
    }
}

#[tokio::test]
async fn cookie_is_found_in_any_cookie_header() {
    let [a, b, c] = three().await;
    let proxy =
        Proxy::builder().upstream("web", &[&a, &b, &c]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let mut raw = proxy.raw().await;
    for n in 0..12 {
        let home = raw.get("/", &[&format!("Cookie: SID=x{n}")]).await.backend().to_owned();
        let lines = ["Cookie: theme=dark", &format!("cookie: a=b; SID=x{n}; c=d"), "Cookie: XSID=other"];
        assert_eq!(raw.get("/", &lines).await.backend(), home);
    }
}

#[tokio::test]
async fn ip_key_uses_forwarded_addresses_from_trusted_proxies_only() {
    let [a, b, c] = three().await;
    let builder = Proxy::builder().upstream("web", &[&a, &b, &c]).affinity(r#"key = ["ip"], report = true"#);
    let trusting = builder.clone().raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]").start().await;
    let wary = builder.start().await;
    let mut homes = std::collections::BTreeSet::new();
    let mut raw = trusting.raw().await;
    for n in 0..24 {
        let field = format!("X-Forwarded-For: 203.0.113.{n}");
        let home = raw.get("/", &[&field]).await.backend().to_owned();
        let spoofed = format!("X-Forwarded-For: 198.51.100.{n}, 203.0.113.{n}");
        assert_eq!(
            raw.get("/", &[&spoofed]).await.backend(),
            home,
            "an entry that the client forged changed the key"
        );
        homes.insert(home);
    }
    assert_eq!(homes.len(), 3);
    let mut raw = wary.raw().await;
    let home = raw.get("/", &[]).await.backend().to_owned();
    for n in 0..24 {
        assert_eq!(raw.get("/", &[&format!("X-Forwarded-For: 203.0.113.{n}")]).await.backend(), home);
    }
}

#[tokio::test]
async fn ip_key_distinguishes_addresses() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder().upstream("web", &[&a, &b, &c]).start().await;
    let mut homes = std::collections::BTreeSet::new();
    for n in 1..24u8 {
        let from = std::net::IpAddr::from([127, 0, 1, n]);
        let mut first = RawClient::connect_from(from, proxy.addr()).await;
        let home = first.get("/", &[]).await.backend().to_owned();
        let mut second = RawClient::connect_from(from, proxy.addr()).await;
        assert_eq!(second.get("/", &[]).await.backend(), home);
        homes.insert(home);
    }
    assert_eq!(homes.len(), 3);
}

#[tokio::test]
async fn requests_without_a_key_are_balanced() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"], report = true"#)
        .start()
        .await;
    let mut client = proxy.client();
    for _ in 0..60 {
        assert!(client.get("/").await.outcome().starts_with("unkeyed"));
    }
    for backend in [&a, &b, &c] {
        assert!(
            backend.requests() >= 5,
            "only {} of 60 requests went to {}",
            backend.requests(),
            backend.name
        );
    }
}

#[tokio::test]
async fn session_id_set_by_a_backend_binds_to_that_backend() {
    let a = Backend::named("a").sessions("SID").start().await;
    let b = Backend::named("b").sessions("SID").start().await;
    let c = Backend::named("c").sessions("SID").start().await;
    let proxy =
        Proxy::builder().upstream("web", &[&a, &b, &c]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    for _ in 0..24 {
        let mut client = proxy.client().reconnecting();
        let first = client.get("/").await;
        assert_eq!(first.field("x-session-state"), Some("new"));
        for _ in 0..3 {
            let next = client.get("/").await;
            assert_eq!(next.backend(), first.backend());
            assert_eq!(next.field("x-session-state"), Some("known"));
        }
    }
}

#[tokio::test]
async fn session_id_is_learned_for_any_order_of_cookie_attributes() {
    let [a, b, c] = three().await;
    let proxy =
        Proxy::builder().upstream("web", &[&a, &b, &c]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let mut number = 0;
    for attributes in [
        "Path=/; HttpOnly",
        "HttpOnly; Path=/; Secure; SameSite=None; Partitioned",
        "Expires=Thu, 01 Dec 2095 16:00:00 GMT; Path=/",
        "secure;path=/;max-age=3600",
        "Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
    ] {
        // If ids were not learned, some of these would hash to another backend.
        for _ in 0..6 {
            number += 1;
            for backend in [&a, &b, &c] {
                backend.set_fields(&[
                    "Set-Cookie: other=1; Path=/",
                    &format!("Set-Cookie: SID=minted-{number}; {attributes}"),
                ]);
            }
            let minting = proxy.client().get("/").await.backend().to_owned();
            for backend in [&a, &b, &c] {
                backend.set_fields(&[]);
            }
            let next = proxy.session(&format!("minted-{number}")).get("/").await;
            assert_eq!(next.backend(), minting, "{attributes}");
        }
    }
}

#[tokio::test]
async fn session_id_is_learned_from_a_response_header() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["header:X-Session"]"#)
        .start()
        .await;
    let mut client = proxy.client();
    for n in 0..12 {
        for backend in [&a, &b, &c] {
            backend.set_fields(&[&format!("X-Session: mcp-{n}")]);
        }
        let minting = client.get("/").await.backend().to_owned();
        let mut session = proxy.client().field(&format!("X-Session: mcp-{n}"));
        assert_eq!(session.get("/").await.backend(), minting);
    }
}

/// Returns the number of table entries.
fn entries(proxy: &Proxy) -> f64 {
    proxy.metric("homing_table_entries", &[("upstream", "web")])
}

#[tokio::test]
async fn deleting_the_cookie_forgets_the_session() {
    let [a, b, c] = three().await;
    let proxy =
        Proxy::builder().upstream("web", &[&a, &b, &c]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    for (n, deletion) in [
        "Set-Cookie: SID=gone; Max-Age=0",
        "Set-Cookie: SID=; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/",
        "Set-Cookie: SID=x; Path=/; expires=Wed, 21-Oct-2015 07:28:00 GMT",
        "X-Affinity-Release: 1",
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = proxy.session(&format!("session-{n}"));
        client.get("/").await;
        eventually("the session is bound", async || entries(&proxy) >= 1.0).await;
        for backend in [&a, &b, &c] {
            backend.set_fields(&[deletion]);
        }
        client.get("/logout").await;
        eventually(format!("the session is forgotten after {deletion}"), async || entries(&proxy) < 1.0)
            .await;
        for backend in [&a, &b, &c] {
            backend.set_fields(&[]);
        }
    }
}

#[tokio::test]
async fn deleting_another_cookie_keeps_the_session() {
    let [a, b, c] = three().await;
    let proxy =
        Proxy::builder().upstream("web", &[&a, &b, &c]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    for backend in [&a, &b, &c] {
        backend.set_fields(&["Set-Cookie: SIDE=; Max-Age=0", "Set-Cookie: sid=; Max-Age=0"]);
    }
    let mut client = proxy.session("kept");
    client.get("/").await;
    client.get("/").await;
    assert!((entries(&proxy) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn without_memory_sessions_return_to_their_home() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"], remember = "none", report = true"#)
        .start()
        .await;
    let mut homes = Vec::new();
    for n in 0..12 {
        let sid = format!("s{n}");
        homes.push((proxy.session(&sid).get("/").await.backend().to_owned(), sid));
    }
    b.stop().await;
    for (home, sid) in &homes {
        let reply = proxy.session(sid).get("/").await;
        if home == "b" {
            assert!(reply.outcome().starts_with("moved; reason=backend_down"), "{}", reply.outcome());
        } else {
            assert_eq!(reply.backend(), home, "a session of another backend moved");
            assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
        }
    }
    b.restart();
    for (home, sid) in &homes {
        assert_eq!(proxy.session(sid).get("/").await.backend(), home);
    }
    assert!(homes.iter().any(|(home, _)| home == "b"), "no session was at b, so nothing was tested");
}

#[tokio::test]
async fn report_header_has_outcome_reason_and_backend() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"], report = true"#)
        .start()
        .await;
    let mut client = proxy.session("one");
    let first = client.get("/").await;
    assert_eq!(first.outcome(), format!("new; backend={}", first.backend()));
    let second = client.get("/").await;
    assert_eq!(second.outcome(), format!("kept; backend={}", first.backend()));
    let home = [&a, &b, &c].into_iter().find(|x| x.name == first.backend()).expect("a known backend");
    home.stop().await;
    let third = client.get("/").await;
    assert_eq!(third.outcome(), format!("moved; reason=backend_down; backend={}", third.backend()));
    assert_eq!(client.get("/").await.outcome(), format!("kept; backend={}", third.backend()));
}

#[tokio::test]
async fn report_header_is_off_by_default_and_cannot_be_forged() {
    let a = Backend::named("a").field("X-Affinity-Outcome: forged").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let reply = proxy.client().field("X-Affinity-Outcome: forged").get("/").await;
    assert_eq!(reply.outcome(), "");
    assert!(!a.last().fields.has("x-affinity-outcome"));
}

#[tokio::test]
async fn announced_successor_takes_over_and_clients_cannot_forge_announcements() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"], announce = true"#)
        .start()
        .await;
    let mut clients = Vec::new();
    for n in 0..9 {
        let mut client = proxy
            .session(&format!("s{n}"))
            .field("X-Affinity-Backend: evil")
            .field("X-Affinity-Successor: evil")
            .field("X-Affinity-Anything: evil");
        let home = client.get("/").await.backend().to_owned();
        let seen = [&a, &b, &c].into_iter().find(|x| x.name == home).expect("a known backend").last();
        assert_eq!(seen.field("x-affinity-backend"), Some(home.as_str()));
        assert!(!seen.fields.has("x-affinity-anything"));
        let successor = seen.field("x-affinity-successor").expect("a successor").to_owned();
        assert_ne!(successor, home);
        clients.push((client, home, successor));
    }
    a.stop().await;
    for (client, home, successor) in &mut clients {
        let expected = if home == "a" { successor } else { home };
        assert_eq!(client.get("/").await.backend(), *expected);
    }
    assert!(clients.iter().any(|(_, home, _)| home == "a"), "no session was at a, so nothing was tested");
}

#[tokio::test]
async fn proxies_agree_on_backends_only_with_the_same_seed() {
    let [a, b, c] = three().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let seed = |name: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, name).expect("write");
        format!("ring = {{ seed_file = \"{}\" }}", path.display())
    };
    let with = |seed: &str| {
        let affinity = format!(r#"key = ["cookie:SID"], remember = "none", {seed}"#);
        Proxy::builder().upstream("web", &[&a, &b, &c]).affinity(&affinity)
    };
    let (one, two) = (seed("one"), seed("two"));
    let (first, second, other) =
        (with(&one).start().await, with(&one).reversed().start().await, with(&two).start().await);
    let mut differ = 0;
    for n in 0..30 {
        let client = Client::with_sid(first.addr(), &format!("s{n}"));
        let home = client.at(first.addr()).get("/").await.backend().to_owned();
        assert_eq!(client.at(second.addr()).get("/").await.backend(), home);
        differ += u32::from(client.at(other.addr()).get("/").await.backend() != home);
    }
    assert!(differ > 5, "only {differ} of 30 sessions differ under another seed");
}

#[tokio::test]
async fn idle_session_is_forgotten_after_its_ttl() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"], table = { ttl = "1s" }"#)
        .start()
        .await;
    proxy.session("s").get("/").await;
    assert!(entries(&proxy) > 0.5);
    eventually("the session is forgotten", async || entries(&proxy) < 0.5).await;
}

#[tokio::test]
async fn table_evicts_entries_beyond_its_size() {
    let [a, b, c] = three().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"], table = { max_entries = 1000 }"#)
        .start()
        .await;
    let mut raw = proxy.raw().await;
    for n in 0..1500 {
        raw.get("/", &[&format!("Cookie: SID=s{n}")]).await;
    }
    let kept = entries(&proxy);
    assert!((500.0..=1000.0).contains(&kept), "{kept} entries");
}
