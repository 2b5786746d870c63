//! HTTP/1.1 on both sides: persistent connections, HTTP/1.0 and bodiless responses.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Backend, Script, Step, eventually, in_front_of};

#[tokio::test]
async fn connections_are_reused_on_both_sides() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..10 {
        assert_eq!(raw.get("/", &[]).await.backend(), "a");
        assert_eq!(raw.request("POST", "/", &[], b"some body").await.backend(), "a");
    }
    let mut other = proxy.raw().await;
    assert_eq!(other.get("/", &[]).await.backend(), "a");
    assert_eq!((a.connections(), a.requests()), (1, 21));
}

#[tokio::test]
async fn client_that_sends_close_is_closed() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    for _ in 0..2 {
        let mut raw = proxy.raw().await;
        let reply = raw.get("/", &["Connection: close"]).await;
        assert_eq!((reply.backend(), reply.field("connection")), ("a", Some("close")));
        raw.assert_closed().await;
    }
    assert_eq!(a.connections(), 1, "the client's close must not reach the backend");
    assert!(!a.last().fields.has("connection"));
}

#[tokio::test]
async fn backend_that_sends_close_is_not_reused_and_the_client_stays_connected() {
    let close = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let a = Backend::named("a").script(Script::raw_then(close, Step::Hang)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for n in 1..=3 {
        let reply = raw.get("/", &[]).await;
        assert_eq!((reply.backend(), reply.field("connection")), ("a", None));
        assert_eq!(a.connections(), n);
    }
    eventually("the backend connections are closed", async || a.abandoned() == 3).await;
}

#[tokio::test]
async fn closed_backend_connection_is_replaced() {
    let a = Backend::named("a").close_after_reply().start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..5 {
        assert_eq!(raw.request("POST", "/", &[], b"x").await.backend(), "a");
        eventually("the backend connection is closed", async || a.open() == 0).await;
    }
    assert_eq!((a.connections(), a.requests()), (5, 5));
}

#[tokio::test]
async fn http10_connection_closes_without_keep_alive() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /old HTTP/1.0\r\n\r\n").await;
    let reply = raw.response().await;
    assert_eq!((reply.backend(), reply.field("connection")), ("a", Some("close")));
    raw.assert_closed().await;
    assert_eq!(a.last().line, "GET /old HTTP/1.1");
    let own = a.address.to_string();
    assert_eq!(a.last().field("host"), Some(own.as_str()), "HTTP/1.1 needs a Host");

    let mut raw = proxy.raw().await;
    for _ in 0..3 {
        raw.send("GET /old HTTP/1.0\r\nHost: t\r\nConnection: Keep-Alive\r\n\r\n").await;
        let reply = raw.response().await;
        assert_eq!((reply.backend(), reply.field("connection")), ("a", Some("keep-alive")));
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn http10_connection_closes_after_an_error() {
    let a = Backend::named("a").refuse().start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.0\r\nHost: t\r\nConnection: keep-alive\r\n\r\n").await;
    let reply = raw.response().await;
    reply.assert_own(503, "connect_failed");
    assert_eq!(reply.field("connection"), Some("close"));
    raw.assert_closed().await;
}

#[tokio::test]
async fn http10_client_gets_no_chunks() {
    let a = Backend::named("a").chunked(&["hello ", "world"], &["X-Number: 1"]).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.0\r\nHost: t\r\nConnection: keep-alive\r\n\r\n").await;
    let reply = raw.response().await;
    assert_eq!(reply.text(), "hello world");
    assert!(!reply.fields.has("transfer-encoding"));
    assert_eq!(reply.field("connection"), Some("close"), "the body must end with the connection");
}

#[tokio::test]
async fn http10_client_gets_no_transfer_encoding_on_head_or_304() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    for (method, status) in [("HEAD", "200 OK"), ("GET", "304 Not Modified")] {
        a.set(Script::raw(format!(
            "HTTP/1.1 {status}\r\nX-Backend: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        )));
        let mut raw = proxy.raw().await;
        raw.send(format!("{method} / HTTP/1.0\r\nHost: t\r\n\r\n")).await;
        let reply = raw.response_to(method).await;
        assert!(!reply.fields.has("transfer-encoding"), "{method} {status}: {:?}", reply.fields);
        raw.assert_closed().await;
    }
}

#[tokio::test]
async fn connection_stays_usable_after_bodiless_responses() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for (method, status, fields) in [
        ("HEAD", "200 OK", "Content-Length: 1000\r\n"),
        ("HEAD", "200 OK", "Transfer-Encoding: chunked\r\n"),
        ("HEAD", "404 Not Found", ""),
        ("GET", "204 No Content", ""),
        ("GET", "304 Not Modified", "Content-Length: 1000\r\nETag: \"x\"\r\n"),
        ("POST", "200 OK", "Content-Length: 0\r\n"),
    ] {
        a.set(Script::raw(format!("HTTP/1.1 {status}\r\nX-Backend: a\r\n{fields}\r\n")));
        let reply = raw.request(method, "/", &[], b"").await;
        assert_eq!(format!("{}", reply.status), status[..3]);
        for (name, value) in fields.lines().filter_map(|l| l.split_once(": ")) {
            assert_eq!(reply.field(&name.to_lowercase()), Some(value), "{method} {status}");
        }
        a.set(Script::reply());
        assert_eq!(raw.get("/", &[]).await.text(), "hello from a\n", "after {method} {status} {fields}");
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn http10_backend_works() {
    let a = Backend::named("a")
        .script(Script::raw_then(b"HTTP/1.0 200 OK\r\nX-Backend: a\r\n\r\nold", Step::Close));
    let a = a.start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        assert_eq!(raw.get("/", &[]).await.text(), "old");
    }
}

#[tokio::test]
async fn heads_that_arrive_byte_by_byte_are_read() {
    let reply = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let steps = [Step::ReadHead, Step::ReadBody, Step::Drip(reply.to_vec())];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        for byte in b"POST /drip HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nxyz" {
            raw.send([*byte]).await;
        }
        assert_eq!(raw.response().await.text(), "abcde");
        assert_eq!(a.last().body, b"xyz");
    }
}

#[tokio::test]
async fn idle_backend_connections_are_closed_after_a_timeout() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).lines("pool = { idle_timeout = \"100ms\" }").start().await;
    let mut raw = proxy.raw().await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    eventually("the backend connection is closed", async || a.open() == 0).await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    let none = in_front_of(&a).lines("pool = { max_idle = 0 }").start().await;
    let (mut raw, connections) = (none.raw().await, a.connections());
    for _ in 0..3 {
        assert_eq!(raw.get("/", &[]).await.backend(), "a");
    }
    assert_eq!(a.connections(), connections + 3);
}

#[tokio::test]
async fn empty_line_after_a_request_does_not_start_another() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).timeouts("request_head = \"200ms\"\nkeep_alive = \"60s\"").start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nok\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    let began = Instant::now();
    eventually("time passes", async || began.elapsed() > Duration::from_millis(700)).await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a", "the empty line must not cause a 408");
    raw.send("\r\n").await;
    assert!(proxy.shutdown(Duration::from_secs(9)).await);
    raw.assert_closed().await;
}
