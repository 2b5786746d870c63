//! Timeouts, each with what the client is told.

use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{Backend, Gate, Proxy, RawClient, Script, Step, eventually, in_front_of};

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
async fn dripping_does_not_make_the_time_for_a_head_longer() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("request_head = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\nX-Slow: ").await;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
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
        tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
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
    let mut pause = tokio::time::interval(Duration::from_millis(150));
    for gate in &gates {
        pause.tick().await;
        gate.open();
        assert_eq!(raw.exactly(1).await, b"x");
    }
}

#[tokio::test]
async fn pause_in_an_early_response_is_judged_by_the_body_timeout() {
    let gate = Gate::closed();
    let begin = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nab";
    let steps = [
        Step::ReadHead,
        Step::Send(begin.to_vec()),
        Step::ReadBody,
        Step::Pause(gate.clone()),
        Step::Send(b"cd".to_vec()),
    ];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).timeouts("response_head = \"200ms\"\nbody_idle = \"30s\"").start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n12").await;
    assert_eq!(raw.head().await.status, 200);
    assert_eq!(raw.exactly(2).await, b"ab");
    raw.send("34").await;
    eventually("the upload is there", async || a.received() == 4).await;
    // Longer than the response's head may take: three times as long.
    let began = Instant::now();
    eventually("time goes by", async || began.elapsed() > Duration::from_millis(900)).await;
    gate.open();
    assert_eq!(raw.exactly(2).await, b"cd");
}

#[tokio::test]
async fn client_that_stalls_its_upload_is_not_the_backends_fault() {
    let begin = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nab";
    let steps = [Step::ReadHead, Step::Send(begin.to_vec()), Step::ReadBody, Step::Send(b"cd".to_vec())];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).timeouts("body_idle = \"150ms\"").passive("max_fails = 1").start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n12").await;
    assert_eq!(raw.head().await.status, 200);
    raw.assert_broken().await;
    proxy.metric_becomes("homing_errors_total", &[("error", "request_body_timeout")], 1.0).await;
    // Once is enough to be ejected, but this was not once.
    a.set(Script::reply());
    assert_eq!(proxy.client().get("/").await.backend(), "a");
}
