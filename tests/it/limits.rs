//! Limits, each with the response that the client gets.

use std::net::IpAddr;

use crate::harness::{
    Authority, Backend, Gate, H2Client, PemFiles, Proxy, RawClient, Script, Step, TlsClient, eventually,
};
use crate::tunnel;

#[tokio::test]
async fn head_beyond_the_limits_is_rejected() {
    let a = Backend::start("a").await;
    let limits = "head_bytes = \"4KiB\"\nfields = 20\nuri_bytes = \"1KiB\"";
    let proxy = Proxy::builder().limits(limits).upstream("web", &[&a]).start().await;
    let large = format!("X-Large: {}\r\n", "v".repeat(4096));
    let many = "X: y\r\n".repeat(20);
    let long = format!("/{}", "p".repeat(1024));
    for (request, status, code) in [
        (format!("GET / HTTP/1.1\r\nHost: t\r\n{large}\r\n"), 431, "head_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: t\r\n{large}"), 431, "head_too_large"),
        (format!("GET / HTTP/1.1\r\nHost: t\r\n{many}\r\n"), 431, "too_many_fields"),
        (format!("GET {long} HTTP/1.1\r\nHost: t\r\n\r\n"), 414, "target_too_long"),
        (format!("GET /{}", "p".repeat(8192)), 414, "target_too_long"),
    ] {
        let mut raw = proxy.raw().await;
        raw.send(request).await;
        raw.response().await.assert_own(status, code);
        raw.assert_closed().await;
    }
    assert_eq!(a.connections(), 0);
    // Within the limits: 19 headers and Host, and a target of 1024 bytes.
    let mut raw = proxy.raw().await;
    raw.send(format!("GET {} HTTP/1.1\r\nHost: t\r\n{}\r\n", &long[..1024], "X: y\r\n".repeat(19))).await;
    assert_eq!(raw.response().await.backend(), "a");
}

#[tokio::test]
async fn body_beyond_the_limit_is_413() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("body_bytes = \"1KiB\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    assert_eq!(raw.request("POST", "/", &[], &[b'x'; 1024]).await.backend(), "a");
    let chunked = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |n: usize| format!("{n:x}\r\n{}\r\n", "x".repeat(n));
    raw.send(format!("{chunked}{}{}0\r\n\r\n", chunk(1000), chunk(24))).await;
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(a.last().body_len, 1024);

    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1025\r\n\r\n").await;
    raw.response().await.assert_own(413, "request_body_too_large");
    raw.assert_closed().await;
    assert_eq!(a.requests(), 2, "an excessive Content-Length must be rejected at once");

    let mut raw = proxy.raw().await;
    raw.send(format!("{chunked}{}{}0\r\n\r\n", chunk(1000), chunk(25))).await;
    raw.response().await.assert_own(413, "request_body_too_large");
    raw.assert_closed().await;
    let mut raw = proxy.raw().await;
    raw.send(format!("{chunked}{}", chunk(1000))).await;
    eventually("the backend has the first bytes", async || a.received() >= 3048).await;
    raw.send(chunk(25)).await;
    raw.response().await.assert_own(413, "request_body_too_large");
    raw.assert_closed().await;
    assert_eq!(a.seen().len(), 2, "the backend got a complete request that is too large");
}

#[tokio::test]
async fn connection_beyond_the_limit_gets_503() {
    for workers in [1, 2] {
        let gate = Gate::closed();
        let a = Backend::named("a").reply_after(&gate).start().await;
        let proxy = Proxy::builder().workers(workers).limits("connections = 2").upstream("web", &[&a]);
        let proxy = proxy.start().await;
        let (mut one, mut two) = (proxy.raw().await, proxy.raw().await);
        one.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        two.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        eventually("both are in flight", async || a.requests() == 2).await;
        let mut three = proxy.raw().await;
        let reply = three.response().await;
        reply.assert_own(503, "too_many_connections");
        assert_eq!(reply.field("retry-after"), Some("1"));
        three.assert_closed().await;
        proxy.metric_becomes("homing_connections_refused_total", &[], 1.0).await;
        gate.open();
        assert_eq!(two.response().await.backend(), "a");
        assert_eq!(one.response().await.backend(), "a");
        drop(one);
        proxy.metric_becomes("homing_connections", &[], 1.0).await;
        let mut four = proxy.raw().await;
        assert_eq!(four.get("/", &[]).await.backend(), "a");
    }
}

#[tokio::test]
async fn longest_idle_connection_of_the_largest_client_makes_room() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().workers(1).limits("connections = 4").upstream("web", &[&a]);
    let proxy = proxy.start().await;
    let greedy: IpAddr = [127, 0, 0, 7].into();
    let mut honest = proxy.raw().await;
    assert_eq!(honest.get("/", &[]).await.backend(), "a");
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut raw = RawClient::connect_from(greedy, proxy.addr()).await;
        assert_eq!(raw.get("/", &[]).await.backend(), "a");
        held.push(raw);
    }
    let mut new = RawClient::connect_from([127, 0, 0, 8].into(), proxy.addr()).await;
    assert_eq!(new.get("/", &[]).await.backend(), "a", "idle connections kept a new client out");
    proxy.metric_becomes("homing_connections", &[], 4.0).await;
    let mut left = Vec::new();
    for mut raw in held {
        if raw.try_send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await && raw.try_head().await.is_some() {
            left.push(raw);
        }
    }
    assert_eq!(left.len(), 2, "the greedy client did not make room");
    assert_eq!(honest.get("/", &[]).await.backend(), "a", "another client made room");
    assert!(proxy.metric("homing_connections_refused_total", &[]) < 0.5);
}

#[tokio::test]
async fn connections_that_send_nothing_make_room_after_a_second() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().workers(1).limits("connections = 3");
    let proxy = proxy.timeouts("request_head = \"1h\"").upstream("web", &[&a]).start().await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(proxy.raw().await);
    }
    eventually("a silent connection makes room", async || {
        let mut new = RawClient::connect_from([127, 0, 0, 8].into(), proxy.addr()).await;
        new.get("/", &[]).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn one_client_cannot_take_all_connections() {
    let a = Backend::start("a").await;
    let builder = Proxy::builder().limits("connections_per_client = 2").upstream("web", &[&a]);
    let proxy = builder.clone().start().await;
    let greedy: IpAddr = [127, 0, 0, 7].into();
    let (mut one, mut two) = (
        RawClient::connect_from(greedy, proxy.addr()).await,
        RawClient::connect_from(greedy, proxy.addr()).await,
    );
    assert_eq!(one.get("/", &[]).await.backend(), "a");
    assert_eq!(two.get("/", &[]).await.backend(), "a");
    let mut three = RawClient::connect_from(greedy, proxy.addr()).await;
    let reply = three.response().await;
    reply.assert_own(503, "too_many_connections");
    assert!(reply.fields.has("retry-after"));
    three.assert_closed().await;
    let limit = [("limit", "connections_per_client")];
    assert!(proxy.metric("homing_connections_refused_total", &limit) > 0.5);
    assert_eq!(proxy.raw().await.get("/", &[]).await.backend(), "a", "other clients must be served");
    drop(one);
    proxy.metric_becomes("homing_connections", &[], 1.0).await;
    let mut four = RawClient::connect_from(greedy, proxy.addr()).await;
    assert_eq!(four.get("/", &[]).await.backend(), "a", "the closed connection must make room");

    let behind = builder.raw_toml("[client_ip]\ntrusted = [\"127.0.0.7\"]").start().await;
    let mut many = Vec::new();
    for _ in 0..8 {
        let mut raw = RawClient::connect_from(greedy, behind.addr()).await;
        assert_eq!(raw.get("/", &[]).await.backend(), "a", "a trusted proxy must be exempt");
        many.push(raw);
    }
}

/// Starts a proxy with one worker and four handshake slots.
async fn four_handshakes(a: &Backend, files: &PemFiles, authority: &Authority) -> Proxy {
    let certificate = files.write("a.pem", authority.server(&["test"]).pem());
    Proxy::builder()
        .workers(1)
        .limits("handshakes = 4")
        .timeouts("tls_handshake = \"1h\"")
        .tls(&format!("certs = [\"{certificate}\"]"))
        .upstream("web", &[a])
        .start()
        .await
}

#[tokio::test]
async fn unfinished_client_hello_takes_no_handshake_slot() {
    let (a, authority, files) = (Backend::start("a").await, Authority::new(), PemFiles::new());
    let proxy = four_handshakes(&a, &files, &authority).await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut raw = RawClient::connect_from([127, 0, 0, 7].into(), proxy.addr()).await;
        raw.send([22, 3, 1, 2, 0, 1]).await;
        stalled.push(raw);
    }
    proxy.metric_becomes("homing_connections", &[], 8.0).await;
    let mut honest = TlsClient::new(&authority).connect(proxy.addr(), "test").await;
    assert_eq!(honest.get("/", &[]).await.backend(), "a");
    stalled[0].half_close().await;
    // A client that sends no more is not waited for.
    stalled.remove(0).read_to_any_end().await;
    assert!(!proxy.metrics().contains("result=\"shed\""), "a handshake was turned away");
}

#[tokio::test]
async fn client_with_the_most_handshakes_makes_room() {
    let (a, authority, files) = (Backend::start("a").await, Authority::new(), PemFiles::new());
    let proxy = four_handshakes(&a, &files, &authority).await;
    let client = TlsClient::new(&authority);
    let hello = client.hello("test");
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut raw = RawClient::connect_from([127, 0, 0, 7].into(), proxy.addr()).await;
        raw.send(&hello).await;
        // The server's flight: the handshake has its slot.
        raw.exactly(1).await;
        stalled.push(raw);
    }
    let mut fifth = RawClient::connect_from([127, 0, 0, 7].into(), proxy.addr()).await;
    fifth.send(&hello).await;
    eventually("the fifth is shed", async || proxy.metrics().contains("result=\"shed\"")).await;
    let mut honest = client.connect(proxy.addr(), "test").await;
    assert_eq!(honest.get("/", &[]).await.backend(), "a");
    proxy.metric_becomes("homing_tls_handshakes_total", &[("result", "displaced")], 1.0).await;
}

#[tokio::test]
async fn without_a_line_saturated_backend_rejects_its_sessions_and_new_ones_go_elsewhere() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], report = true"#)
        .lines("retry = { retry_after = \"3s\" }\nqueue = { max = 0 }")
        .backend("a", "max_connections = 1")
        .start()
        .await;
    let mut at_a = Vec::new();
    for n in 0.. {
        let mut client = proxy.session(&format!("s{n}"));
        if client.get("/").await.backend() == "a" {
            at_a.push(client);
        }
        if at_a.len() == 2 {
            break;
        }
    }
    // A response may arrive a moment before it leaves the in-flight count.
    proxy.metric_becomes("homing_backend_in_flight", &[], 0.0).await;
    let gate = Gate::closed();
    a.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    let before = a.requests();
    let (mut busy, mut waiting) = (at_a.remove(0), at_a.remove(0));
    let busy = tokio::spawn(async move { busy.get("/").await });
    eventually("the backend has the request", async || a.requests() > before).await;

    let refused = waiting.get("/").await;
    refused.assert_own(503, "saturated");
    assert_eq!(refused.field("retry-after"), Some("3"));
    assert!(refused.outcome().starts_with("kept; backend=a"), "Homing's own responses must carry the report");
    let mut passed_over = 0;
    for n in 0..20 {
        let reply = proxy.session(&format!("new-{n}")).get("/").await;
        assert_eq!(reply.backend(), "b");
        passed_over += u32::from(reply.outcome().starts_with("new; reason=capacity"));
    }
    assert!(passed_over > 2, "only {passed_over} of 20 sessions had their home at a");
    gate.open();
    assert_eq!(busy.await.expect("the request").backend(), "a");
    assert_eq!(waiting.get("/").await.backend(), "a", "the session must stay at its backend");
}

#[tokio::test]
async fn tunnel_counts_toward_max_connections() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = Proxy::builder()
        .upstream("web", &[&a])
        .lines("queue = { max = 0 }")
        .backend("a", "max_connections = 1")
        .start()
        .await;
    let (raw, _) = tunnel::open(&proxy, "").await;
    assert!(proxy.metric("homing_backend_in_flight", &[]) > 0.5);
    let refused = proxy.client().get("/").await;
    assert_eq!((refused.status, refused.fields.has("retry-after")), (503, true));
    drop(raw);
    eventually("the closed tunnel is no longer counted", async || {
        proxy.metric("homing_backend_in_flight", &[]) < 0.5
    })
    .await;
    a.set(Script::reply());
    assert_eq!(proxy.client().get("/").await.backend(), "a");
}

#[tokio::test]
async fn http2_requests_of_one_client_are_limited_over_all_its_connections() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder().limits("streams_per_client = 3").upstream("web", &[&a]).start().await;
    let (one, two) = (proxy.http2().await, proxy.http2().await);
    let mut open = Vec::new();
    for connection in [&one, &two, &one] {
        open.push(connection.open(connection.request("GET", "/"), true).await);
    }
    eventually("three are in flight", async || a.requests() == 3).await;
    let refused = two.open(two.request("GET", "/"), true).await.try_response().await;
    assert_eq!(refused.expect_err("a fourth request").reason(), Some(h2::Reason::REFUSED_STREAM));
    proxy.metric_becomes("homing_http2_streams_total", &[("result", "refused")], 1.0).await;
    let other = RawClient::connect_from([127, 0, 0, 9].into(), proxy.addr()).await;
    let other = H2Client::over(other, "http://test", &H2Client::builder()).await;
    let served = other.open(other.request("GET", "/"), true).await;
    gate.open();
    assert_eq!(served.response().await.backend(), "a", "another client must be served");
    for stream in open {
        assert_eq!(stream.response().await.backend(), "a");
    }
    assert_eq!(two.get("/", &[]).await.backend(), "a", "finished requests must not count");
}

#[tokio::test]
async fn client_that_holds_the_most_memory_makes_room() {
    let body = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 10000000\r\n\r\n";
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    a.set(Script::new([Step::ReadHead, Step::Send(body.into()), Step::Zeros(10_000_000)]));
    let proxy = Proxy::builder()
        .workers(1)
        .limits("memory = \"16MiB\"\nstreams = 1000")
        .raw_toml("[[route]]\npath = \"/large\"\nupstream = \"large\"\n[[route]]\nupstream = \"web\"")
        .upstream("large", &[&a])
        .upstream("web", &[&b])
        .start()
        .await;
    let mut honest = RawClient::connect_from([127, 0, 0, 9].into(), proxy.addr()).await;
    honest.send("GET /large HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(honest.head().await.backend(), "a");
    let (greedy, mut unread) = (proxy.http2().await, Vec::new());
    for _ in 0..500 {
        unread.push(greedy.open(greedy.request("GET", "/large"), true).await);
    }
    eventually("some make room", async || proxy.metrics().contains("error=\"memory_limit\"")).await;
    assert_eq!(proxy.raw().await.get("/", &[]).await.backend(), "b");
    let held = proxy.metric("homing_waiting_memory_bytes", &[]);
    assert!(held <= f64::from(17 << 20), "{held} bytes are held");
    // The honest client is as slow, but holds little.
    honest.discard(10_000_000).await;
    drop(unread);
}
