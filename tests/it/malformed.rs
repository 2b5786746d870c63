//! What is not right is refused, and leaves nothing behind that could be taken
//! for something else.

use crate::harness::{Backend, Proxy, Script, Step, eventually};

/// Requests whose head is wrong, the status that they get and a word in it.
const BAD_REQUESTS: &[(&str, u16, &str)] = &[
    ("GET / HTTP/1.1\nHost: t\n\n", 400, "bare_lf"),
    ("GET / HTTP/1.1\r\nHost: t\n\r\n", 400, "bare_lf"),
    ("GET / HTTP/1.1\r\nHost: t\r\nX: a\rb\r\n\r\n", 400, ""),
    ("GET / HTTP/1.1\r\n\r\n", 400, "host_missing"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "host_repeated"),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "bad_host"),
    ("GET / HTTP/1.1\r\nHost: user@t\r\n\r\n", 400, "bad_host"),
    ("GET / HTTP/1.1\r\nHost: t/../x\r\n\r\n", 400, "bad_host"),
    ("GET http://user@t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, ""),
    ("GET /\r\n\r\n", 400, ""),
    ("GET  / HTTP/1.1\r\nHost: t\r\n\r\n", 400, ""),
    (" GET / HTTP/1.1\r\nHost: t\r\n\r\n", 400, ""),
    ("GET / HTTP/1.1 x\r\nHost: t\r\n\r\n", 400, ""),
    ("GET\t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, ""),
    ("G(T / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_method"),
    ("AMETHODTHATISFARTOOLONGFORANYBODY / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_method"),
    ("GET /a b HTTP/1.1\r\nHost: t\r\n\r\n", 400, ""),
    ("GET /#fragment HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_target"),
    ("GET relative HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_target"),
    ("GET /\u{e9} HTTP/1.1\r\nHost: t\r\n\r\n", 400, ""),
    ("GET ftp://t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_target"),
    ("GET * HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_target"),
    ("CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n\r\n", 501, "connect_not_supported"),
    ("GET / HTTP/1.2\r\nHost: t\r\n\r\n", 505, "unsupported_version"),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "unsupported_version"),
    ("GET / http/1.1\r\nHost: t\r\n\r\n", 400, ""),
    ("\u{16}\u{3}\u{1}\u{0}\u{c8}\u{1}", 400, ""),
    ("GET / HTTP/1.1\r\nHost: t\r\nX : y\r\n\r\n", 400, "bad_field_name"),
    ("GET / HTTP/1.1\r\nHost: t\r\nNo colon\r\n\r\n", 400, "bad_field_name"),
    ("GET / HTTP/1.1\r\nHost: t\r\nX: a\r\n folded\r\n\r\n", 400, "folded_field"),
    ("GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n", 400, ""),
    ("GET / HTTP/1.1\r\n Host: t\r\n\r\n", 400, ""),
    ("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400, "repeated"),
    ("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5, 5\r\n\r\nhello", 400, "bad_content_length"),
    ("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: +5\r\n\r\nhello", 400, "bad_content_length"),
    ("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0x5\r\n\r\nhello", 400, "bad_content_length"),
    ("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 18446744073709551616\r\n\r\n", 400, "bad_content_length"),
    (
        "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        400,
        "length_and_coding",
    ),
    ("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "unknown_coding"),
    ("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, "unknown_coding"),
    ("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", 400, ""),
    (
        "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked, chunked\r\n\r\n",
        400,
        "bad_transfer_encoding",
    ),
    (
        "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
        400,
        "bad_transfer_encoding",
    ),
    ("POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "coding_not_allowed"),
    ("GET / HTTP/1.1\r\nHost: t\r\nConnection: Cookie\r\nCookie: SID=x\r\n\r\n", 400, "bad_connection"),
    ("GET / HTTP/1.1\r\nHost: t\r\nConnection: X-Forwarded-For\r\n\r\n", 400, "bad_connection"),
];

#[tokio::test]
async fn bad_request_is_refused_closed_and_reaches_nobody() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for (request, status, code) in BAD_REQUESTS {
        // What is sent behind must not be read as a request.
        for behind in ["", "GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n"] {
            let mut raw = proxy.raw().await;
            raw.send(format!("{request}{behind}")).await;
            let reply = raw.response().await;
            assert_eq!(reply.status, *status, "{request:?}: {}", reply.text());
            assert!(reply.text().contains(code), "{request:?}: {}", reply.text());
            assert_eq!(reply.field("connection"), Some("close"), "{request:?}");
            raw.assert_closed().await;
        }
    }
    assert_eq!((a.connections(), a.requests()), (0, 0));
}

#[tokio::test]
async fn bad_request_is_refused_just_so_when_it_drips_in() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for (request, status, _) in BAD_REQUESTS {
        let mut raw = proxy.raw().await;
        for byte in request.bytes() {
            // It may be refused before it is whole.
            if !raw.try_send([byte]).await {
                break;
            }
        }
        assert_eq!(raw.response().await.status, *status, "{request:?}");
    }
    assert_eq!((a.connections(), a.requests()), (0, 0));
}

#[tokio::test]
async fn good_request_before_a_bad_one_is_answered() {
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
async fn bad_chunks_are_refused_and_the_backend_never_has_a_whole_request() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for body in [
        "ZZ\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "-1\r\nx\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "5;\x01\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nno trailer\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    ] {
        for pause in [false, true] {
            let mut raw = proxy.raw().await;
            let before = a.requests();
            raw.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            if pause {
                // The head is at the backend before the body is wrong.
                eventually("the head is there", async || a.requests() > before).await;
            }
            raw.send(body).await;
            raw.response().await.assert_own(400, "request_body_malformed");
            raw.assert_closed().await;
            eventually("the backend is let go", async || a.open() == 0).await;
        }
    }
    assert_eq!(a.seen().len(), 0);
}

#[tokio::test]
async fn upload_that_is_broken_off_never_looks_whole() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for head in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        for half in [true, false] {
            let mut raw = proxy.raw().await;
            let before = a.received();
            raw.send(format!("POST / HTTP/1.1\r\nHost: t\r\n{head}")).await;
            eventually("the beginning is there", async || a.received() == before + 5).await;
            if half {
                raw.half_close().await;
                eventually("the backend is let go", async || a.open() == 0).await;
            }
            drop(raw);
            eventually("the backend is let go", async || a.open() == 0).await;
        }
    }
    assert_eq!(a.seen().len(), 0);
}

/// Responses whose head is wrong.
fn bad_responses() -> Vec<Vec<u8>> {
    let mut list: Vec<Vec<u8>> = [
        "garbage\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    list.push(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "v".repeat(20_000)).into());
    list.push(format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(120)).into());
    list
}

#[tokio::test]
async fn bad_response_is_502_and_the_client_stays_in_step() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).lines("pool = { max_idle = 0 }").start().await;
    for bytes in bad_responses() {
        let shown = format!("{:.120}", bytes.escape_ascii());
        for last in [Step::Hang, Step::Close] {
            a.set(Script::raw_then(&bytes, last));
            let mut raw = proxy.raw().await;
            let reply = raw.get("/", &[]).await;
            assert_eq!(reply.status, 502, "{shown}");
            reply.assert_own(502, "response_head_malformed");
            eventually("the connection is not kept", async || a.open() == 0).await;
            a.set(Script::reply());
            if reply.field("connection") == Some("close") {
                raw.assert_closed().await;
            } else {
                assert_eq!(raw.get("/", &[]).await.text(), "hello from a\n", "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn backend_without_a_whole_head_is_502() {
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
    // Reset at once: with luck the connecting itself fails.
    a.set(Script::new([Step::Reset]));
    let status = proxy.raw().await.get("/", &[]).await.status;
    assert!([502, 503].contains(&status), "{status}");
}

#[tokio::test]
async fn response_that_breaks_off_breaks_off_at_the_client() {
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
        // Until the end of the connection, but that end is none.
        ("HTTP/1.1 200 OK\r\nX-Backend: a\r\n\r\nhello".to_owned(), Step::Reset),
    ] {
        a.set(Script::raw_then(&bytes, last));
        let mut raw = proxy.raw().await;
        raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        // If it is wrong from the start, the client may as well be told so.
        let head = raw.head().await;
        if head.status == 502 {
            head.fields.get("content-length").expect("a whole response");
        } else {
            assert_eq!(head.backend(), "a", "{bytes:?}");
            raw.assert_broken().await;
        }
        eventually("the connection is not kept", async || a.open() == 0).await;
    }
}

#[tokio::test]
async fn bytes_behind_a_response_are_never_anybodys_response() {
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
            eventually("the connection is not kept", async || a.abandoned() == abandoned + 1).await;
            a.set(Script::reply());
            for _ in 0..2 {
                assert_eq!(raw.get("/", &[]).await.text(), "hello from a\n", "{method} {response:?}");
            }
            assert!(a.connections() > connections, "a new connection");
        }
    }
}

#[tokio::test]
async fn large_response_that_breaks_off_breaks_off_at_the_client() {
    let a = Backend::named("a").die_mid_body(300_000).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(raw.head().await.backend(), "a");
    raw.assert_broken().await;
    proxy.metric_becomes("homing_errors_total", &[("error", "response_truncated")], 1.0).await;
}
