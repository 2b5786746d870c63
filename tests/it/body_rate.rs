//! `min_body_rate`: clients that send or read a body too slowly.

use std::time::Duration;

use crate::harness::{Backend, Clock, Gate, Proxy, RawClient, Script, Step, eventually};

/// 1000 bytes per second, after half a second of grace.
const PACE: &str = "min_body_rate = \"1000B\"\nbody_rate_window = \"500ms\"";

#[tokio::test]
async fn upload_below_the_rate_is_408() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts(PACE).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n").await;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let mut sent = 0;
    while proxy.metric("homing_errors_total", &[("error", "request_body_too_slow")]) < 0.5 {
        pause.tick().await;
        assert!(raw.try_send("x").await && sent < 500, "no 408 after {sent} bytes");
        sent += 1;
    }
    raw.response().await.assert_own(408, "request_body_too_slow");
    raw.assert_closed().await;
    eventually("the backend connection is closed", async || a.open() == 0).await;
    assert_eq!(a.seen().len(), 0);
}

#[tokio::test]
async fn upload_at_the_rate_may_take_any_time() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts(PACE).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4000\r\n\r\n").await;
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..20 {
        pause.tick().await;
        raw.send([b'x'; 200]).await;
    }
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(a.last().body_len, 4000);
}

#[tokio::test]
async fn rate_can_be_off_for_one_upstream() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .timeouts(PACE)
        .upstream("web", &[&a])
        .lines("timeouts = { min_body_rate = \"off\" }")
        .start()
        .await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n").await;
    let mut pause = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..10 {
        pause.tick().await;
        raw.send("x").await;
    }
    assert_eq!(raw.response().await.backend(), "a");
}

#[tokio::test]
async fn slow_backend_does_not_count_against_the_client() {
    let (taking, saying) = (Gate::closed(), Gate::closed());
    let head = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 2\r\n\r\n";
    let steps = [
        Step::ReadHead,
        Step::Pause(taking.clone()),
        Step::ReadBody,
        Step::Send(head.into()),
        Step::Send(b"x".to_vec()),
        Step::Pause(saying.clone()),
        Step::Send(b"y".to_vec()),
    ];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder()
        .timeouts("min_body_rate = \"100KiB\"\nbody_rate_window = \"200ms\"")
        .upstream("web", &[&a])
        .start()
        .await;
    let clock = Clock::start().await;
    let mut raw = proxy.raw().await;
    // More than the sockets can buffer, so that the upload waits for the backend.
    let body = vec![b'x'; 32 << 20];
    let patience = Duration::from_millis(1500);
    let sending = async {
        raw.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        raw.send(&body).await;
    };
    let opening = async {
        clock.pass(patience).await;
        taking.open();
    };
    tokio::join!(sending, opening);
    assert_eq!(raw.head().await.backend(), "a");
    assert_eq!(raw.exactly(1).await, b"x");
    clock.pass(patience).await;
    saying.open();
    assert_eq!(raw.exactly(1).await, b"y");
}

#[tokio::test]
async fn client_that_reads_too_slowly_is_disconnected() {
    let head = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4000000000\r\n\r\n";
    let steps = [Step::ReadHead, Step::Send(head.into()), Step::Zeros(4_000_000_000)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder()
        .timeouts("body_idle = \"1h\"\nmin_body_rate = \"1MiB\"\nbody_rate_window = \"300ms\"")
        .upstream("web", &[&a])
        .start()
        .await;
    let mut raw = RawClient::connect_narrow(proxy.addr()).await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(raw.head().await.backend(), "a");
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let mut taken = 0;
    while proxy.metric("homing_errors_total", &[("error", "client_too_slow")]) < 0.5 {
        pause.tick().await;
        if a.open() > 0 {
            raw.discard(1).await;
        }
        taken += 1;
        assert!(taken < 1000, "still served after {taken} bytes");
    }
    eventually("the backend connection is closed", async || a.open() == 0).await;
}
