//! Malformed and truncated messages: they are rejected, and no leftover bytes are taken for another
//! message. `conformance` has the tables of single messages.

use crate::harness::{Backend, Proxy, Script, Step, eventually, in_front_of};

#[tokio::test]
async fn valid_request_before_a_malformed_one_is_answered() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /good HTTP/1.1\r\nHost: t\r\n\r\nGET /bad HTTP/1.1\r\nHost : t\r\n\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    raw.response().await.assert_own(400, "bad_field_name");
    raw.assert_closed().await;
    assert_eq!(a.requests(), 1);
}

#[tokio::test]
async fn truncated_upload_never_looks_complete() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for head in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        for half in [true, false] {
            let mut raw = proxy.raw().await;
            let before = a.received();
            raw.send(format!("POST / HTTP/1.1\r\nHost: t\r\n{head}")).await;
            eventually("the backend has the first bytes", async || a.received() == before + 5).await;
            if half {
                raw.half_close().await;
                eventually("the backend connection is closed", async || a.open() == 0).await;
            }
            drop(raw);
            eventually("the backend connection is closed", async || a.open() == 0).await;
        }
    }
    assert_eq!(a.seen().len(), 0);
}

#[tokio::test]
async fn incomplete_response_head_is_502() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for (script, code) in [
        (Script::raw_then("", Step::Close), "backend_closed"),
        (Script::raw_then("", Step::Reset), "backend_closed"),
        (Script::raw_then("HTTP/1.1 200 OK\r\nX-App: ", Step::Close), "response_truncated"),
        (Script::raw_then("HTTP/1.1 103 Hints\r\n\r\n", Step::Close), "response_truncated"),
    ] {
        a.set(script);
        let mut raw = proxy.raw().await;
        raw.get("/", &[]).await.assert_own(502, code);
    }
    // An immediate reset may already fail the connect.
    a.set(Script::new([Step::Reset]));
    let status = proxy.raw().await.get("/", &[]).await.status;
    assert!([502, 503].contains(&status), "{status}");
}

#[tokio::test]
async fn truncated_response_is_truncated_for_the_client() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let length = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 10\r\n\r\nhello";
    let chunked = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (bytes, last) in [
        (length.to_owned(), Step::Close),
        (length.to_owned(), Step::Reset),
        (format!("{chunked}5\r\nhello\r\n"), Step::Close),
        (format!("{chunked}5\r\nhello\r\n0\r\n"), Step::Close),
        (format!("{chunked}5\r\nhello\r\nZZ\r\n"), Step::Hang),
        (format!("{chunked}5\r\nhelloworld"), Step::Hang),
        (format!("{chunked}5\r\nhello\r\n0\r\nno trailer\r\n\r\n"), Step::Hang),
        // Close-delimited, but a reset is not a valid end.
        ("HTTP/1.1 200 OK\r\nX-Backend: a\r\n\r\nhello".to_owned(), Step::Reset),
    ] {
        a.set(Script::raw_then(&bytes, last));
        let mut raw = proxy.raw().await;
        raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        // A response that is invalid from the start may also be a 502.
        let head = raw.head().await;
        if head.status == 502 {
            head.fields.get("content-length").expect("a complete response");
        } else {
            assert_eq!(head.backend(), "a", "{bytes:?}");
            raw.assert_broken().await;
        }
        eventually("the backend connection is closed", async || a.open() == 0).await;
    }
}

#[tokio::test]
async fn bytes_after_a_response_are_never_used_as_a_response() {
    let evil = "HTTP/1.1 200 OK\r\nX-Backend: evil\r\nContent-Length: 4\r\n\r\nevil";
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    for (method, response) in [
        ("GET", "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\nX-Backend: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\nX-Backend: a\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nX-Backend: a\r\nContent-Length: 2\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 2\r\n\r\n"),
    ] {
        let together = [Step::ReadHead, Step::Send(format!("{response}{evil}").into()), Step::Hang];
        let later = [Step::ReadHead, Step::Send(response.into()), Step::Send(evil.into()), Step::Hang];
        for steps in [together.to_vec(), later.to_vec()] {
            let (connections, abandoned) = (a.connections(), a.abandoned());
            a.set(Script::new(steps));
            let mut raw = proxy.raw().await;
            assert_eq!(raw.request(method, "/", &[], b"").await.backend(), "a");
            eventually("the backend connection is closed", async || a.abandoned() == abandoned + 1).await;
            a.set(Script::reply());
            for _ in 0..2 {
                assert_eq!(raw.get("/", &[]).await.text(), "hello from a\n", "{method} {response:?}");
            }
            assert!(a.connections() > connections, "the connection was reused");
        }
    }
}

#[tokio::test]
async fn truncated_large_response_is_truncated_for_the_client() {
    let a = Backend::named("a").die_mid_body(300_000).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(raw.head().await.backend(), "a");
    raw.assert_broken().await;
    proxy.metric_becomes("homing_errors_total", &[("error", "response_truncated")], 1.0).await;
}

#[tokio::test]
async fn malformed_first_chunk_leaks_no_backend_connection() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).limits("body_bytes = 4").start().await;
    let head = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, status) in [("zz\r\n", 400), ("5\r\nhello\r\n0\r\n\r\n", 413)] {
        let mut raw = proxy.raw().await;
        raw.send(format!("{head}{body}")).await;
        assert_eq!(raw.response().await.status, status);
    }
    eventually("the backend connection is closed", async || a.open() == 0).await;
    proxy.metric_becomes("homing_backend_connections", &[], 0.0).await;
}
