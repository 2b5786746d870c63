//! HTTP/1.1 on both sides: connections, order, versions, interim responses.

use crate::harness::{Backend, Gate, Proxy, ProxyBuilder, Script, Step, eventually};

/// One worker, so that connections can be counted, before this backend.
fn before(backend: &Backend) -> ProxyBuilder {
    Proxy::builder().workers(1).upstream("web", &[backend])
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
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
async fn pipelined_requests_are_answered_in_order() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(
        "GET /1 HTTP/1.1\r\nHost: t\r\n\r\nPOST /2 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello\
         POST /3 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
         HEAD /4 HTTP/1.1\r\nHost: t\r\n\r\n\r\nGET /5 HTTP/1.1\r\nHost: t\r\n\r\n",
    )
    .await;
    for method in ["GET", "POST", "POST", "HEAD", "GET"] {
        assert_eq!(raw.response_to(method).await.status, 200);
    }
    raw.assert_quiet();
    let seen: Vec<_> = a.seen().iter().map(|s| (s.line.clone(), s.body.clone())).collect();
    let expected: [(&str, &[u8]); 5] =
        [("GET /1", b""), ("POST /2", b"hello"), ("POST /3", b"abc"), ("HEAD /4", b""), ("GET /5", b"")];
    let expected: Vec<_> = expected.map(|(l, b)| (format!("{l} HTTP/1.1"), b.to_vec())).into();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn client_that_says_close_is_closed() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    for _ in 0..2 {
        let mut raw = proxy.raw().await;
        let reply = raw.get("/", &["Connection: close"]).await;
        assert_eq!((reply.backend(), reply.field("connection")), ("a", Some("close")));
        raw.assert_closed().await;
    }
    assert_eq!(a.connections(), 1, "what the client says is not the backend's business");
    assert!(!a.last().fields.has("connection"));
}

#[tokio::test]
async fn backend_that_says_close_is_not_used_again_and_the_client_does_not_notice() {
    let close = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let a = Backend::named("a").script(Script::raw_then(close, Step::Hang)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    for n in 1..=3 {
        let reply = raw.get("/", &[]).await;
        assert_eq!((reply.backend(), reply.field("connection")), ("a", None));
        assert_eq!(a.connections(), n);
    }
    eventually("the connections are closed", async || a.abandoned() == 3).await;
}

#[tokio::test]
async fn backend_that_closes_after_its_reply_is_connected_to_anew() {
    let a = Backend::named("a").close_after_reply().start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..5 {
        assert_eq!(raw.request("POST", "/", &[], b"x").await.backend(), "a");
        eventually("the end has come", async || a.open() == 0).await;
    }
    assert_eq!((a.connections(), a.requests()), (5, 5));
}

#[tokio::test]
async fn http10_client_is_closed_unless_it_wants_to_stay() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
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
async fn http10_client_gets_no_chunks() {
    let a = Backend::named("a").chunked(&["hello ", "world"], &["X-Number: 1"]).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.0\r\nHost: t\r\nConnection: keep-alive\r\n\r\n").await;
    let reply = raw.response().await;
    assert_eq!(reply.text(), "hello world");
    assert!(!reply.fields.has("transfer-encoding"));
    assert_eq!(reply.field("connection"), Some("close"), "only the end of the connection ends the body");
}

#[tokio::test]
async fn http10_client_sees_no_transfer_encoding_on_a_head_or_304() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
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
async fn http10_client_gets_no_interim_response() {
    let a = Backend::named("a").interim("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.0\r\nHost: t\r\n\r\n").await;
    let reply = raw.response().await;
    assert_eq!((reply.backend(), reply.interim.len()), ("a", 0));
}

#[tokio::test]
async fn responses_without_a_body_keep_the_connection_in_step() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
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
async fn http10_backend_is_understood() {
    let a = Backend::named("a")
        .script(Script::raw_then(b"HTTP/1.0 200 OK\r\nX-Backend: a\r\n\r\nold", Step::Close));
    let a = a.start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        assert_eq!(raw.get("/", &[]).await.text(), "old");
    }
}

#[tokio::test]
async fn client_waits_for_100_and_the_backend_says_it() {
    let steps =
        [Step::ReadHead, Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()), Step::ReadBody, Step::Reply];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        raw.send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
        assert_eq!(raw.one_head().await.status, 100);
        raw.send("body").await;
        assert_eq!(raw.response().await.backend(), "a");
        assert_eq!(a.last().body, b"body");
        assert_eq!(a.last().field("expect"), Some("100-continue"));
    }
}

#[tokio::test]
async fn client_that_waits_for_100_may_be_refused() {
    let steps = [
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 401 No\r\nX-Backend: a\r\nContent-Length: 0\r\n\r\n".to_vec()),
    ];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 401);
    // Whether the body still comes nobody can know: the connection is of no more use.
    raw.assert_closed().await;
}

#[tokio::test]
async fn early_hints_pass_before_the_response() {
    let gate = Gate::closed();
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
    let steps = [
        Step::ReadHead,
        Step::Send(hints.into()),
        Step::Send(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()),
        Step::Pause(gate.clone()),
        Step::Reply,
    ];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let early = raw.one_head().await;
    assert_eq!((early.status, early.field("link")), (103, Some("</a.css>; rel=preload")));
    assert_eq!(raw.one_head().await.status, 102);
    gate.open();
    assert_eq!(raw.response().await.backend(), "a");
}

#[tokio::test]
async fn interim_responses_without_end_are_cut_off() {
    let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
    let a = Backend::named("a").script(Script::raw_then(many, Step::Hang)).start().await;
    let proxy = before(&a).start().await;
    proxy.raw().await.get("/", &[]).await.assert_own(502, "too_many_interim");
}

#[tokio::test]
async fn heads_that_drip_in_are_read() {
    let reply = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let steps = [Step::ReadHead, Step::ReadBody, Step::Drip(reply.to_vec())];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        for byte in b"POST /drip HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nxyz" {
            raw.send([*byte]).await;
        }
        assert_eq!(raw.response().await.text(), "abcde");
        assert_eq!(a.last().body, b"xyz");
    }
}

/// Memory is a process's: the test that looks at it gets one of its own.
#[tokio::test]
async fn interim_and_final_response_may_come_in_one_piece() {
    let bytes = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
                 HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 2\r\n\r\nok";
    let a = Backend::named("a").script(Script::raw(bytes)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..3 {
        let reply = raw.get("/", &[]).await;
        assert_eq!(reply.interim.iter().map(|r| r.status).collect::<Vec<_>>(), [103, 100]);
        assert_eq!((reply.backend(), reply.text().as_str()), ("a", "ok"));
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn hundreds_of_pipelined_requests_are_answered() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let requests: Vec<_> = (0..300).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: t\r\n\r\n")).collect();
    raw.send(requests.concat()).await;
    for _ in 0..300 {
        assert_eq!(raw.response().await.backend(), "a");
    }
    let lines: Vec<_> = a.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines, (0..300).map(|n| format!("GET /{n} HTTP/1.1")).collect::<Vec<_>>());
}

#[tokio::test]
async fn nothing_is_served_behind_a_close() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /1 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    assert_eq!(raw.response().await.backend(), "a");
    raw.assert_closed().await;
    assert_eq!(a.requests(), 1);
}

#[tokio::test]
async fn idle_backend_connections_are_closed_in_time() {
    let a = Backend::start("a").await;
    let proxy = before(&a).lines("pool = { idle_timeout = \"100ms\" }").start().await;
    let mut raw = proxy.raw().await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    eventually("it is closed", async || a.open() == 0).await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    let none = before(&a).lines("pool = { max_idle = 0 }").start().await;
    let (mut raw, connections) = (none.raw().await, a.connections());
    for _ in 0..3 {
        assert_eq!(raw.get("/", &[]).await.backend(), "a");
    }
    assert_eq!(a.connections(), connections + 3);
}

#[tokio::test]
async fn half_closing_client_gets_its_response_where_requests_are_finished() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = before(&a).server("on_client_close = \"finish\"").start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    raw.half_close().await;
    eventually("the request is there", async || a.requests() == 1).await;
    gate.open();
    assert_eq!(raw.response().await.backend(), "a");
    raw.assert_closed().await;
}
