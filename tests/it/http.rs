//! HTTP/1.1 on both sides: what passes, what does not, and how it is framed.

use crate::harness::{Backend, Gate, Proxy, ProxyBuilder, Script, Step, eventually, settles};

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
async fn body_that_ends_with_its_connection_becomes_chunked() {
    let a = Backend::named("a").until_close("as long as it lasts").start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..3 {
        let reply = raw.get("/", &[]).await;
        assert_eq!(reply.text(), "as long as it lasts");
        assert_eq!(reply.field("transfer-encoding"), Some("chunked"));
    }
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
async fn chunked_upload_goes_on_without_its_extensions() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let head = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "4;name=value\r\nWiki\r\n5;q=\"a;b\"\r\npedia\r\n00A\r\n0123456789\r\n0;last\r\n\r\n";
    for piece in [1, 7, body.len()] {
        raw.send(head).await;
        for bytes in body.as_bytes().chunks(piece) {
            raw.send(bytes).await;
        }
        assert_eq!(raw.response().await.backend(), "a");
        let seen = a.last();
        assert_eq!(seen.body, b"Wikipedia0123456789");
        assert_eq!(seen.field("transfer-encoding"), Some("chunked"));
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn trailers_pass_both_ways_but_those_that_must_not_be_trailers() {
    let trailers = ["X-Number: 17", "Content-Length: 3", "Set-Cookie: a=b", "X-Affinity-Backend: x"];
    let a = Backend::named("a").chunked(&["hello"], &trailers).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(
        "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\n\
         X-Sum: 42\r\nHost: evil\r\nAuthorization: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    )
    .await;
    let reply = raw.response().await;
    assert_eq!(reply.text(), "hello");
    assert_eq!(reply.trailers.0, [("x-number".to_owned(), "17".to_owned())]);
    let seen = a.last();
    assert_eq!(seen.trailers.0, [("x-sum".to_owned(), "42".to_owned())]);
    assert_eq!(seen.field("trailer"), Some("X-Sum"));
    assert_eq!(seen.body, b"ok");
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
async fn response_may_come_before_the_upload_has_ended() {
    let refusal = b"HTTP/1.1 413 Too Large\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nstop";
    for last in [Step::Hang, Step::Close, Step::HalfClose] {
        let steps = [Step::ReadHead, Step::Send(refusal.to_vec()), last.clone()];
        let a = Backend::named("a").script(Script::new(steps)).start().await;
        let proxy = before(&a).start().await;
        let mut raw = proxy.raw().await;
        raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\nonly the beginning").await;
        let reply = raw.response().await;
        assert_eq!((reply.status, reply.text().as_str()), (413, "stop"), "{last:?}");
        raw.assert_closed().await;
        eventually("the backend's connection is not kept", async || a.open() == 0).await;
    }
}

#[tokio::test]
async fn absolute_form_decides_the_host() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET http://shop.example:8080/p/q?r=s HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    let seen = a.last();
    assert_eq!(seen.line, "GET /p/q?r=s HTTP/1.1");
    assert_eq!(seen.field("host"), Some("shop.example:8080"));
    assert_eq!(seen.field("x-forwarded-host"), Some("shop.example:8080"));
}

#[tokio::test]
async fn options_asterisk_goes_where_everything_goes() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(a.last().line, "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn hop_by_hop_fields_end_here() {
    let a = Backend::named("a")
        .field("Connection: keep-alive, X-Hop")
        .field("X-Hop: 1")
        .field("Keep-Alive: timeout=5")
        .field("Proxy-Connection: keep-alive")
        .field("X-App: stays")
        .field("Upgrade: h2c")
        .start()
        .await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let fields = [
        "Connection: X-Hop, keep-alive",
        "connection: x-second",
        "X-Hop: 1",
        "X-Second: 2",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: trailers",
        "Upgrade: websocket",
        "X-App: stays",
        "Accept: */*",
    ];
    let reply = raw.get("/", &fields).await;
    assert_eq!(reply.field("x-app"), Some("stays"));
    assert_eq!(reply.fields.names(), ["x-backend", "content-length", "x-app", "via"]);
    let mut names = a.last().fields.names().into_iter().map(str::to_owned).collect::<Vec<_>>();
    names.sort();
    let expected =
        ["accept", "host", "via", "x-app", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn end_to_end_fields_are_passed_on_as_they_are() {
    let odd = "X-Unusual:   spaces, \"quotes\"; and = signs\t tab";
    let a = Backend::named("a").field(odd).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &[odd, "x-MiXeD: Case", "X-Twice: 1", "X-Twice: 2"]).await;
    let value = "spaces, \"quotes\"; and = signs\t tab";
    assert_eq!(reply.field("x-unusual"), Some(value));
    let seen = a.last();
    assert_eq!(seen.field("x-unusual"), Some(value));
    assert_eq!(seen.fields.all("x-twice"), ["1", "2"]);
    assert!(seen.text.contains("x-MiXeD: Case\r\n"), "names keep their case: {}", seen.text);
}

#[tokio::test]
async fn untrusted_forwarding_fields_are_replaced() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let forged = [
        "X-Forwarded-For: 6.6.6.6",
        "x-forwarded-for: 7.7.7.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "Forwarded: for=6.6.6.6",
    ];
    raw.get("/", &forged).await;
    let seen = a.last();
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.field("x-forwarded-host"), Some("test"));
    assert!(!seen.fields.has("forwarded"));
}

#[tokio::test]
async fn trusted_forwarding_fields_are_added_to() {
    let a = Backend::start("a").await;
    let proxy = before(&a)
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]\n[forwarding]\nforwarded = true")
        .start()
        .await;
    let mut raw = proxy.raw().await;
    let believed = [
        "X-Forwarded-For: 203.0.113.1, 203.0.113.2",
        "X-Forwarded-For: 203.0.113.3",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: www.example",
        "Forwarded: for=203.0.113.1;proto=https",
    ];
    raw.get("/", &believed).await;
    let seen = a.last();
    assert_eq!(seen.field("x-forwarded-for"), Some("203.0.113.1, 203.0.113.2, 203.0.113.3, 127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.field("x-forwarded-host"), Some("www.example"));
    let forwarded = "for=203.0.113.1;proto=https, for=127.0.0.1;host=\"test\";proto=http";
    assert_eq!(seen.field("forwarded"), Some(forwarded));
}

#[tokio::test]
async fn forwarding_fields_can_be_turned_off() {
    let a = Backend::start("a").await;
    let proxy = before(&a).raw_toml("[forwarding]\nx_forwarded = false\nvia = \"off\"").start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &[]).await;
    assert!(!reply.fields.has("via"));
    assert_eq!(a.last().fields.names(), ["host"]);
}

#[tokio::test]
async fn via_is_appended_on_both_ways() {
    let a = Backend::named("a").field("Via: 1.1 cache").start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &["Via: 1.0 front"]).await;
    assert_eq!(reply.fields.all("via"), ["1.1 cache", "1.1 homing"]);
    assert_eq!(a.last().fields.all("via"), ["1.0 front", "1.1 homing"]);
}

#[tokio::test]
async fn upgrade_to_anything_but_websocket_is_not_passed_on() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let h2c =
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"];
    assert_eq!(raw.get("/", &h2c).await.backend(), "a");
    let seen = a.last();
    for name in ["connection", "upgrade", "http2-settings"] {
        assert!(!seen.fields.has(name), "{name}");
    }
    assert_eq!(raw.get("/", &[]).await.backend(), "a", "and the connection goes on");
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

#[tokio::test]
async fn large_heads_pass_within_the_limit() {
    let long = format!("X-App: {}", "v".repeat(15_000));
    let a = Backend::named("a").field(&long).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..3 {
        let reply = raw.get("/", &[&long]).await;
        assert_eq!(reply.field("x-app").map(str::len), Some(15_000));
        assert_eq!(a.last().field("x-app").map(str::len), Some(15_000));
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

const LARGE: usize = 64 << 20;
/// How much memory may grow while twice as much goes by.
const BOUND: u64 = 32 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_through_little_memory() {
    let head = format!("HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: {LARGE}\r\n\r\n");
    let steps = [Step::ReadHead, Step::ReadBody, Step::Send(head.into()), Step::Zeros(LARGE)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let start = resident();
    let mut most = start;

    raw.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..LARGE / piece.len() {
        raw.send(&piece).await;
        most = most.max(resident());
    }
    assert_eq!(raw.head_to("POST").await.backend(), "a");
    assert_eq!(a.last().body_len, LARGE);
    for _ in 0..LARGE / piece.len() {
        raw.discard(piece.len()).await;
        most = most.max(resident());
    }
    raw.assert_quiet();
    assert!(most - start < BOUND, "memory grew by {} MiB", (most - start) >> 20);
}

#[tokio::test]
async fn slow_reader_slows_the_backend_down() {
    let head = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4000000000\r\n\r\n";
    let steps = [Step::ReadHead, Step::Send(head.into()), Step::Zeros(4_000_000_000)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = crate::harness::RawClient::connect_narrow(proxy.addr()).await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("the response begins", async || a.sent() > 0).await;
    let stalled = settles("the backend cannot send any more", || a.sent()).await;
    assert!(stalled < 32 << 20, "{} MiB are under way", stalled >> 20);
    assert_eq!(raw.head_to("GET").await.status, 200);
    raw.discard(16 << 20).await;
    eventually("the backend goes on", async || a.sent() > stalled).await;
    drop(raw);
    eventually("the backend is let go", async || a.open() == 0).await;
}

#[tokio::test]
async fn slow_backend_slows_the_upload_down() {
    let gate = Gate::closed();
    let steps = [Step::ReadHead, Step::Pause(gate.clone()), Step::ReadBody, Step::Reply];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    eventually("the head is there", async || a.requests() == 1).await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..LARGE / piece.len() {
            raw.send(&piece).await;
            counter.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
        }
        raw
    });
    let stalled =
        settles("the client cannot send any more", || sent.load(std::sync::atomic::Ordering::Relaxed)).await;
    assert!(stalled < (LARGE as u64) / 2, "{} MiB are under way", stalled >> 20);
    gate.open();
    let mut raw = sending.await.expect("the upload");
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(a.last().body_len, LARGE);
}
