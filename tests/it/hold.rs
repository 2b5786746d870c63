//! Requests that are held while their session's backend is down.

use std::time::Duration;

use crate::harness::{Backend, Proxy, eventually, session_and_heir};

#[tokio::test]
async fn held_request_is_served_when_its_backend_returns() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "60s", report = true"#)
        .start()
        .await;
    let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    let mut bystander = proxy.client();
    let before = heir.requests();
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET /held HTTP/1.1\r\nHost: test\r\nCookie: SID=the-session\r\n\r\n").await;
    // Once the only worker has answered these, it has seen the held request.
    for _ in 0..3 {
        assert_eq!(bystander.get("/").await.backend(), heir.name);
    }
    held.assert_quiet();
    home.restart();
    let reply = held.response().await;
    assert_eq!(reply.backend(), home.name);
    assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
    assert_eq!(heir.requests(), before + 3);
    assert_eq!(client.get("/").await.backend(), home.name);
}

#[tokio::test]
async fn held_request_fails_over_after_the_hold_time() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "300ms""#)
        .start()
        .await;
    let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    let began = tokio::time::Instant::now();
    assert_eq!(client.get("/").await.backend(), heir.name);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn held_request_moves_at_once_when_its_backend_is_removed() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let builder = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "60s""#);
    let proxy = builder.clone().start().await;
    let (_client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET / HTTP/1.1\r\nHost: t\r\nCookie: SID=the-session\r\n\r\n").await;
    let mut bystander = proxy.client();
    for _ in 0..3 {
        assert_eq!(bystander.get("/").await.backend(), heir.name);
    }
    held.assert_quiet();
    proxy.reload(&builder.without(&home.name)).await;
    assert_eq!(held.response().await.backend(), heir.name);
}

#[tokio::test]
async fn held_request_ends_when_its_client_disconnects() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "60s""#)
        .start()
        .await;
    let (client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    drop(client);
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET / HTTP/1.1\r\nHost: t\r\nCookie: SID=the-session\r\n\r\n").await;
    let mut bystander = proxy.client();
    for _ in 0..3 {
        assert_eq!(bystander.get("/").await.backend(), heir.name);
    }
    held.reset();
    drop(bystander);
    proxy.metric_becomes("homing_connections", &[], 0.0).await;
}

#[tokio::test]
async fn held_request_gets_404_when_a_reload_removes_its_route() {
    let (a, b, z) = (Backend::start("a").await, Backend::start("b").await, Backend::start("z").await);
    let routes = |upstreams: &[(&str, &str)]| {
        let route = |(host, upstream): &(&str, &str)| {
            format!("[[route]]\nhost = \"{host}\"\npath = \"/\"\nupstream = \"{upstream}\"\n")
        };
        upstreams.iter().map(route).collect::<String>()
    };
    let plain = || Proxy::builder().workers(1).upstream("app", &[&z]);
    let proxy = plain()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "60s""#)
        .raw_toml(&routes(&[("test", "web"), ("other", "app")]))
        .start()
        .await;
    let (_client, home, _) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET /held HTTP/1.1\r\nHost: test\r\nCookie: SID=the-session\r\n\r\n").await;
    eventually("the request is held", async || {
        proxy.metric("homing_backend_requests_total", &[("upstream", "web")]) >= 2.0
    })
    .await;
    // This leaves one upstream, and no route for this host.
    proxy.reload(&plain().raw_toml(&routes(&[("other", "app")]))).await;
    held.response().await.assert_own(404, "no_route");
    held.send("GET / HTTP/1.1\r\nHost: other\r\n\r\n").await;
    assert_eq!(held.response().await.backend(), "z", "the connection must stay open");
}

#[tokio::test]
async fn held_request_follows_its_session_to_another_backend() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let builder = |hold: &str| {
        Proxy::builder()
            .workers(1)
            .upstream("web", &[&a, &b])
            .affinity(&format!(r#"key = ["cookie:SID"], hold = "{hold}""#))
    };
    let proxy = builder("60s").start().await;
    let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET /held HTTP/1.1\r\nHost: test\r\nCookie: SID=the-session\r\n\r\n").await;
    eventually("the request is held", async || {
        proxy.metric("homing_backend_requests_total", &[("backend", &home.name)]) >= 2.0
    })
    .await;
    // Without `hold`, another request of the session fails over.
    proxy.reload(&builder("0s")).await;
    assert_eq!(client.get("/").await.backend(), heir.name);
    home.restart();
    assert_eq!(held.response().await.backend(), heir.name, "the session has moved there");
}

#[tokio::test]
async fn held_request_counts_as_one_failure() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "9s""#)
        .passive(r#"max_fails = 1, penalty = "60s", max_penalty = "60s""#)
        .start()
        .await;
    let (_, home, _) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET /held HTTP/1.1\r\nHost: test\r\nCookie: SID=the-session\r\n\r\n").await;
    // The proxy keeps trying to connect, more often than it takes to shun a backend.
    eventually("the request is held", async || {
        proxy.metric("homing_backend_requests_total", &[("backend", &home.name)]) >= 6.0
    })
    .await;
    home.restart();
    assert_eq!(held.response().await.backend(), home.name);
    assert!(!proxy.standing("web", &home.name).0.shunned);
}
