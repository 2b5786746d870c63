//! Limits and timeouts, each with what the client is told.

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

use crate::harness::{Backend, Gate, Proxy, RawClient, Script, Step, eventually};

#[tokio::test]
async fn head_that_does_not_end_in_time_is_408() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("request_head = \"150ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    raw.send("GET / HTTP/1.1\r\nHost: t\r\nX-Slow: ").await;
    raw.response().await.assert_own(408, "request_head_timeout");
    raw.assert_closed().await;
    assert_eq!(a.requests(), 1);
}

#[tokio::test]
async fn idle_connection_is_closed_without_a_word() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .timeouts("request_head = \"150ms\"\nkeep_alive = \"150ms\"")
        .upstream("web", &[&a])
        .start()
        .await;
    let mut raw = proxy.raw().await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    raw.assert_closed().await;
    let mut silent = proxy.raw().await;
    silent.assert_closed().await;
}

#[tokio::test]
async fn head_beyond_its_limits_is_refused() {
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
    // Within: 19 fields and Host; a target of 1024 bytes.
    let mut raw = proxy.raw().await;
    raw.send(format!("GET {} HTTP/1.1\r\nHost: t\r\n{}\r\n", &long[..1024], "X: y\r\n".repeat(19))).await;
    assert_eq!(raw.response().await.backend(), "a");
}

#[tokio::test]
async fn body_beyond_its_limit_is_413() {
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
    assert_eq!(a.requests(), 2, "a length too large is seen at once");

    let mut raw = proxy.raw().await;
    raw.send(format!("{chunked}{}{}0\r\n\r\n", chunk(1000), chunk(25))).await;
    raw.response().await.assert_own(413, "request_body_too_large");
    raw.assert_closed().await;
    let mut raw = proxy.raw().await;
    raw.send(format!("{chunked}{}", chunk(1000))).await;
    eventually("the beginning is there", async || a.received() >= 3048).await;
    raw.send(chunk(25)).await;
    raw.response().await.assert_own(413, "request_body_too_large");
    raw.assert_closed().await;
    assert_eq!(a.seen().len(), 2, "no backend has had a whole request that is too large");
}

/// A listener that never accepts, and whose queue is full: connecting to it
/// takes for ever. The queue's connections come along.
pub(crate) async fn full() -> (Socket, std::net::SocketAddr, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    socket.listen(0).expect("listen");
    let address = socket.local_addr().expect("address").as_socket().expect("an IP address");
    let mut queue = Vec::new();
    // With a backlog of 0 Linux queues one; a SYN beyond that is dropped.
    while let Ok(Ok(stream)) =
        tokio::time::timeout(std::time::Duration::from_millis(100), TcpStream::connect(address)).await
    {
        queue.push(stream);
    }
    (socket, address, queue)
}

#[tokio::test]
async fn backend_that_does_not_accept_is_504_or_passed_over() {
    let (_socket, address, _queue) = full().await;
    let good = Backend::start("good").await;
    let timeouts = "connect = \"150ms\"";
    let alone =
        Proxy::builder().timeouts(timeouts).upstream("web", &[]).member("full", address).start().await;
    alone.client().get("/").await.assert_own(504, "connect_timeout");
    let both = Proxy::builder()
        .timeouts(timeouts)
        .upstream("web", &[&good])
        .member("full", address)
        .affinity(r#"key = ["cookie:SID"]"#)
        .start()
        .await;
    for n in 0..6 {
        assert_eq!(both.session(&format!("s{n}")).get("/").await.backend(), "good");
    }
    assert!(both.metric("homing_retries_total", &[]) >= 1.0, "some of them had their home at the other");
}

#[tokio::test]
async fn response_that_does_not_begin_in_time_is_504() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().timeouts("response_head = \"150ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        raw.get("/", &[]).await.assert_own(504, "response_head_timeout");
    }
    eventually("the backend is let go", async || a.abandoned() == 2).await;
    assert_eq!(a.requests(), 2, "what a backend may be working on is not sent again");
}

#[tokio::test]
async fn head_of_a_response_that_stalls_half_way_is_504() {
    let a =
        Backend::named("a").script(Script::raw_then("HTTP/1.1 200 OK\r\nX-App: ", Step::Hang)).start().await;
    let proxy = Proxy::builder().timeouts("response_head = \"150ms\"").upstream("web", &[&a]).start().await;
    proxy.client().get("/").await.assert_own(504, "response_head_timeout");
}

#[tokio::test]
async fn response_that_stalls_half_way_is_broken_off() {
    let half = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 10\r\n\r\nhello";
    let a = Backend::named("a").script(Script::raw_then(half, Step::Hang)).start().await;
    let proxy = Proxy::builder().timeouts("body_idle = \"150ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(raw.head().await.backend(), "a");
    raw.assert_broken().await;
    eventually("the backend is let go", async || a.abandoned() == 1).await;
    proxy.metric_becomes("homing_errors_total", &[("error", "response_body_timeout")], 1.0).await;
}

#[tokio::test]
async fn upload_that_stalls_is_408() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("body_idle = \"150ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhello").await;
    raw.response().await.assert_own(408, "request_body_timeout");
    raw.assert_closed().await;
    eventually("the backend is let go", async || a.open() == 0).await;
    assert_eq!(a.seen().len(), 0);
}

#[tokio::test]
async fn client_that_does_not_read_is_let_go() {
    let head = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4000000000\r\n\r\n";
    let steps = [Step::ReadHead, Step::Send(head.into()), Step::Zeros(4_000_000_000)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().timeouts("body_idle = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = RawClient::connect_narrow(proxy.addr()).await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("the response begins", async || a.sent() > 0).await;
    eventually("the backend is let go", async || a.open() == 0).await;
    proxy.metric_becomes("homing_errors_total", &[("error", "client_stalled")], 1.0).await;
}

#[tokio::test]
async fn slow_but_steady_bodies_are_no_stall() {
    // Ten pauses, each well below the limit, together well above it.
    let gates: Vec<_> = (0..10).map(|_| Gate::closed()).collect();
    let mut steps = vec![Step::ReadHead];
    steps.push(Step::Send(b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 10\r\n\r\n".to_vec()));
    for gate in &gates {
        steps.extend([Step::Pause(gate.clone()), Step::Send(b"x".to_vec())]);
    }
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().timeouts("body_idle = \"1s\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(raw.head().await.backend(), "a");
    let mut pause = tokio::time::interval(std::time::Duration::from_millis(150));
    for gate in &gates {
        pause.tick().await;
        gate.open();
        assert_eq!(raw.exactly(1).await, b"x");
    }
}

#[tokio::test]
async fn client_that_goes_away_cancels_its_request() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for n in 1..=2 {
        let mut raw = proxy.raw().await;
        raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        eventually("the request is there", async || a.requests() == n).await;
        if n == 1 {
            drop(raw);
        } else {
            raw.reset();
        }
        eventually("the backend is let go", async || a.abandoned() == n).await;
    }
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 2.0).await;
}

#[tokio::test]
async fn request_of_a_client_that_went_away_is_finished_where_that_is_wished() {
    let gate = Gate::closed();
    let steps = [Step::ReadHead, Step::Wait(gate.clone()), Step::Reply];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let b = Backend::start("b").await;
    let proxy = Proxy::builder()
        .workers(1)
        .server("on_client_close = \"finish\"")
        .raw_toml("[[route]]\nupstream = \"slow\"\npath = \"/slow\"\n[[route]]\nupstream = \"web\"")
        .upstream("slow", &[&a])
        .upstream("web", &[&b])
        .start()
        .await;
    let mut raw = proxy.raw().await;
    raw.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("the request is there", async || a.requests() == 1).await;
    drop(raw);
    // The one worker has seen the end by the time it has answered these.
    let mut bystander = proxy.client();
    for _ in 0..10 {
        assert_eq!(bystander.get("/").await.backend(), "b");
    }
    assert_eq!((a.abandoned(), a.open()), (0, 1));
    gate.open();
    proxy.metric_becomes("homing_requests_total", &[("upstream", "slow")], 1.0).await;
    assert_eq!(a.abandoned(), 0);
}

#[tokio::test]
async fn connection_beyond_the_limit_is_told_so() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("connections = 2").upstream("web", &[&a]).start().await;
    let (mut one, mut two) = (proxy.raw().await, proxy.raw().await);
    assert_eq!(one.get("/", &[]).await.backend(), "a");
    assert_eq!(two.get("/", &[]).await.backend(), "a");
    let mut three = proxy.raw().await;
    let reply = three.response().await;
    reply.assert_own(503, "too_many_connections");
    assert!(reply.fields.has("retry-after"));
    three.assert_closed().await;
    proxy.metric_becomes("homing_connections_refused_total", &[], 1.0).await;
    assert_eq!(two.get("/", &[]).await.backend(), "a");
    drop(one);
    proxy.metric_becomes("homing_connections", &[], 1.0).await;
    let mut four = proxy.raw().await;
    assert_eq!(four.get("/", &[]).await.backend(), "a");
}

#[tokio::test]
async fn full_backend_refuses_its_sessions_and_new_ones_go_elsewhere() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], report = true"#)
        .lines("retry = { retry_after = \"3s\" }")
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
    // A response may be here a moment before its place is free.
    proxy.metric_becomes("homing_backend_in_flight", &[], 0.0).await;
    let gate = Gate::closed();
    a.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    let before = a.requests();
    let (mut busy, mut waiting) = (at_a.remove(0), at_a.remove(0));
    let busy = tokio::spawn(async move { busy.get("/").await });
    eventually("the request is there", async || a.requests() > before).await;

    let refused = waiting.get("/").await;
    refused.assert_own(503, "saturated");
    assert_eq!(refused.field("retry-after"), Some("3"));
    assert!(refused.outcome().starts_with("kept; backend=a"), "its own answers say it too");
    let mut passed_over = 0;
    for n in 0..20 {
        let reply = proxy.session(&format!("new-{n}")).get("/").await;
        assert_eq!(reply.backend(), "b");
        passed_over += u32::from(reply.outcome().starts_with("new; reason=capacity"));
    }
    assert!(passed_over > 2, "{passed_over} of 20 had their home at a");
    gate.open();
    assert_eq!(busy.await.expect("the request").backend(), "a");
    assert_eq!(waiting.get("/").await.backend(), "a", "and it is still its session's backend");
}

#[tokio::test]
async fn dripping_does_not_make_the_time_for_a_head_longer() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("request_head = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\nX-Slow: ").await;
    let mut pause = tokio::time::interval(std::time::Duration::from_millis(20));
    // Refused, it fails in the end: the proxy reads on for no more than two seconds.
    let mut sent = 0;
    while proxy.metric("homing_errors_total", &[("error", "request_head_timeout")]) < 0.5 {
        pause.tick().await;
        assert!(raw.try_send("x").await && sent < 200, "no 408 after {sent} bytes");
        sent += 1;
    }
    raw.response().await.assert_own(408, "request_head_timeout");
}

#[tokio::test]
async fn client_that_goes_away_is_not_the_backends_fault() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"]"#)
        .passive("max_fails = 1, penalty = \"1h\"")
        .start()
        .await;
    let hang = Script::new([Step::ReadHead, Step::Hang]);
    a.set(hang.clone());
    b.set(hang);
    for n in 1..=6 {
        let mut raw = proxy.raw().await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: t\r\nCookie: SID=s{n}\r\n\r\n")).await;
        eventually("the request is there", async || a.requests() + b.requests() == n).await;
        drop(raw);
        eventually("the backend is let go", async || a.abandoned() + b.abandoned() == n).await;
    }
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 6.0).await;
    assert!(proxy.metric("homing_backend_up", &[]) > 1.5, "both are up");
}

#[tokio::test]
async fn tunnel_takes_one_of_its_backends_places() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).backend("a", "max_connections = 1").start().await;
    let (raw, _) = crate::tunnel::open(&proxy, "").await;
    assert!(proxy.metric("homing_backend_in_flight", &[]) > 0.5);
    let refused = proxy.client().get("/").await;
    assert_eq!((refused.status, refused.fields.has("retry-after")), (503, true));
    drop(raw);
    eventually("its place is free", async || proxy.metric("homing_backend_in_flight", &[]) < 0.5).await;
    a.set(Script::reply());
    assert_eq!(proxy.client().get("/").await.backend(), "a");
}
