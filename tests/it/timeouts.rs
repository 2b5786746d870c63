//! Timeouts, each with the response that the client gets.

use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{Backend, Gate, Proxy, RawClient, Script, Step, eventually, in_front_of};

#[tokio::test]
async fn incomplete_request_head_is_408() {
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
async fn dripping_does_not_extend_the_request_head_timeout() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("request_head = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\nX-Slow: ").await;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    // Sending fails eventually: after the 408, the proxy reads for at most two seconds.
    let mut sent = 0;
    while proxy.metric("homing_errors_total", &[("error", "request_head_timeout")]) < 0.5 {
        pause.tick().await;
        assert!(raw.try_send("x").await && sent < 200, "no 408 after {sent} bytes");
        sent += 1;
    }
    raw.response().await.assert_own(408, "request_head_timeout");
}

#[tokio::test]
async fn idle_connection_is_closed_without_a_response() {
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

/// A listener that never accepts and has a full backlog, so that connecting to it hangs. The
/// connections that fill the backlog must be kept.
pub(crate) async fn full() -> (Socket, std::net::SocketAddr, Vec<TcpStream>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
    socket.listen(0).expect("listen");
    let address = socket.local_addr().expect("address").as_socket().expect("an IP address");
    let mut queue = Vec::new();
    // With a backlog of 0, Linux queues one connection and drops further SYNs.
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        queue.push(stream);
    }
    (socket, address, queue)
}

#[tokio::test]
async fn connect_timeout_is_504_or_moves_on_to_the_next_backend() {
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
    assert!(both.metric("homing_retries_total", &[]) >= 1.0, "no session had its home at the full backend");
}

#[tokio::test]
async fn missing_response_is_504() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().timeouts("response_head = \"150ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        raw.get("/", &[]).await.assert_own(504, "response_head_timeout");
    }
    eventually("the backend connection is closed", async || a.abandoned() == 2).await;
    assert_eq!(a.requests(), 2, "a request that may be in progress was retried");
}

#[tokio::test]
async fn incomplete_response_head_is_504() {
    let a =
        Backend::named("a").script(Script::raw_then("HTTP/1.1 200 OK\r\nX-App: ", Step::Hang)).start().await;
    let proxy = Proxy::builder().timeouts("response_head = \"150ms\"").upstream("web", &[&a]).start().await;
    proxy.client().get("/").await.assert_own(504, "response_head_timeout");
}

#[tokio::test]
async fn stalled_response_body_is_truncated() {
    let half = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 10\r\n\r\nhello";
    let a = Backend::named("a").script(Script::raw_then(half, Step::Hang)).start().await;
    let proxy = Proxy::builder().timeouts("body_idle = \"150ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(raw.head().await.backend(), "a");
    raw.assert_broken().await;
    eventually("the backend connection is closed", async || a.abandoned() == 1).await;
    proxy.metric_becomes("homing_errors_total", &[("error", "response_body_timeout")], 1.0).await;
}

#[tokio::test]
async fn stalled_upload_is_408() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("body_idle = \"150ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhello").await;
    raw.response().await.assert_own(408, "request_body_timeout");
    raw.assert_closed().await;
    eventually("the backend connection is closed", async || a.open() == 0).await;
    assert_eq!(a.seen().len(), 0);
}

#[tokio::test]
async fn client_that_does_not_read_is_disconnected() {
    let head = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4000000000\r\n\r\n";
    let steps = [Step::ReadHead, Step::Send(head.into()), Step::Zeros(4_000_000_000)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().timeouts("body_idle = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = RawClient::connect_narrow(proxy.addr()).await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("the response starts", async || a.sent() > 0).await;
    eventually("the backend connection is closed", async || a.open() == 0).await;
    proxy.metric_becomes("homing_errors_total", &[("error", "client_stalled")], 1.0).await;
}

#[tokio::test]
async fn slow_but_steady_body_does_not_time_out() {
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
async fn pause_in_an_early_response_is_limited_by_body_idle() {
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
    eventually("the backend has the upload", async || a.received() == 4).await;
    // Well beyond the response head timeout.
    let began = Instant::now();
    eventually("time passes", async || began.elapsed() > Duration::from_millis(900)).await;
    gate.open();
    assert_eq!(raw.exactly(2).await, b"cd");
}

#[tokio::test]
async fn stalled_upload_does_not_count_against_the_backend() {
    let begin = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nab";
    let steps = [Step::ReadHead, Step::Send(begin.to_vec()), Step::ReadBody, Step::Send(b"cd".to_vec())];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).timeouts("body_idle = \"150ms\"").passive("max_fails = 1").start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n12").await;
    assert_eq!(raw.head().await.status, 200);
    raw.assert_broken().await;
    proxy.metric_becomes("homing_errors_total", &[("error", "request_body_timeout")], 1.0).await;
    // One failure would make the proxy shun the backend, but this was none.
    a.set(Script::reply());
    assert_eq!(proxy.client().get("/").await.backend(), "a");
    assert!(!proxy.standing("web", "a").0.shunned);
}
