//! Responses converted from HTTP/1.1 to HTTP/2: complete, or visibly truncated.

use h2::Reason;

use crate::harness::http2::{exactly, rest};
use crate::harness::{Backend, Gate, H2Client, Proxy, Response, Script, Step};

/// Starts a backend with this script, a proxy in front of it, and a client.
async fn answering(script: Script) -> (Backend, Proxy, H2Client) {
    let a = Backend::named("a").script(script).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    (a, proxy, client)
}

#[tokio::test]
async fn early_hints_arrive_in_order_before_the_response() {
    let gate = Gate::closed();
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\n\
                 HTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\n\r\n";
    let steps = [Step::ReadHead, Step::Send(hints.into()), Step::Wait(gate.clone()), Step::Reply];
    let (a, _proxy, client) = answering(Script::new(steps)).await;
    let mut stream = client.open(client.request("GET", "/"), true).await;
    for link in ["</a.css>", "</b.css>"] {
        let hint = stream.interim().await.expect("a 103 before the response");
        assert_eq!((hint.status, hint.field("link")), (103, Some(link)));
    }
    assert_eq!(a.open(), 1, "the waiting client was taken for disconnected");
    gate.open();
    let reply = stream.response().await;
    assert_eq!((reply.status, reply.backend()), (200, "a"));
}

#[tokio::test]
async fn client_disconnect_after_early_hints_is_noticed() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
    let (a, _proxy, client) =
        answering(Script::new([Step::ReadHead, Step::Send(hints.into()), Step::Hang])).await;
    let mut stream = client.open(client.request("GET", "/"), true).await;
    stream.interim().await.expect("a 103");
    stream.send.send_reset(Reason::CANCEL);
    crate::harness::eventually("the backend connection closes", async || a.abandoned() == 1).await;
}

#[tokio::test]
async fn bodiless_responses_end_with_their_head_whatever_their_content_length() {
    for (method, answer, status, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200, Some("5")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("HEAD", "HTTP/1.1 200 OK\r\n\r\n", 200, None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 5\r\n\r\n", 304, Some("5")),
        ("GET", "HTTP/1.1 304 Not Modified\r\n\r\n", 304, None),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, Some("0")),
    ] {
        let (_a, _proxy, client) = answering(Script::raw(answer)).await;
        for _ in 0..2 {
            let mut stream = client.open(client.request(method, "/"), true).await;
            let (head, body) = stream.head().await;
            assert_eq!((head.status, head.field("content-length")), (status, length), "{method} {answer}");
            assert!(body.is_end_stream(), "{method} {answer}");
        }
    }
}

#[tokio::test]
async fn body_delimited_by_connection_close_ends_the_stream_cleanly() {
    let a = Backend::named("a").until_close("all of it").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    for _ in 0..3 {
        assert_eq!(client.get("/", &[]).await.text(), "all of it");
    }
    let empty = Script::raw_then("HTTP/1.1 200 OK\r\n\r\n", Step::Close);
    a.set(empty);
    assert_eq!(client.get("/", &[]).await.text(), "");
}

#[tokio::test]
async fn chunks_and_trailers_become_frames_however_they_arrive() {
    let text = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nTrailer: X-Number\r\nTransfer-Encoding: chunked\r\n\r\n\
                5;ext=1\r\nhello\r\n1\r\n \r\n005\r\nworld\r\n0\r\nX-Number: 42\r\nX-App: y\r\n\r\n";
    let head = Step::ReadHead;
    let scripts = [
        Script::raw(text),
        Script::new([head.clone(), Step::Drip(text.into())]),
        Script::raw(text.replace("X-Number: 42\r\nX-App: y\r\n\r\n", "\r\n")),
        Script::new([head, Step::Drip(text.replace("X-Number: 42\r\nX-App: y\r\n\r\n", "\r\n").into())]),
    ];
    for (index, script) in scripts.into_iter().enumerate() {
        let (_a, _proxy, client) = answering(script).await;
        for _ in 0..2 {
            let reply = client.get("/", &[]).await;
            assert_eq!(reply.text(), "hello world");
            let trailers = if index < 2 { vec!["x-number", "x-app"] } else { vec![] };
            assert_eq!(reply.trailers.names(), trailers);
        }
    }
}

#[tokio::test]
async fn trailers_after_an_empty_body_are_forwarded() {
    let text =
        "HTTP/1.1 200 OK\r\nX-Backend: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Number: 1\r\n\r\n";
    let (_a, _proxy, client) = answering(Script::raw(text)).await;
    let reply = client.get("/", &[]).await;
    assert_eq!((reply.text().as_str(), reply.trailers.get("x-number")), ("", Some("1")));
}

#[tokio::test]
async fn truncated_response_is_reset_and_never_ended() {
    let head = |framing: &str| format!("HTTP/1.1 200 OK\r\nX-Backend: a\r\n{framing}\r\n\r\n");
    let chunked = head("Transfer-Encoding: chunked");
    for (what, begin, then) in [
        ("length", head("Content-Length: 10") + "half", ""),
        ("within a chunk", chunked.clone() + "8\r\nhalf", ""),
        ("between chunks", chunked.clone() + "4\r\nhalf\r\n", ""),
        ("before the trailers' end", chunked.clone() + "4\r\nhalf\r\n", "0\r\nX-Number: 1\r\n"),
        ("invalid chunk", chunked.clone() + "4\r\nhalf\r\n", "xyz\r\n"),
        ("invalid trailer", chunked.clone() + "4\r\nhalf\r\n", "0\r\nno trailer\r\n\r\n"),
    ] {
        for last in [Step::Close, Step::Reset] {
            let gate = Gate::closed();
            let steps = [
                Step::ReadHead,
                Step::Send(begin.clone().into()),
                Step::Wait(gate.clone()),
                Step::Send(then.into()),
                last,
            ];
            let (a, _proxy, client) = answering(Script::new(steps)).await;
            let mut stream = client.open(client.request("GET", "/"), true).await;
            let (_, mut body) = stream.head().await;
            assert_eq!(exactly(&mut body, 4).await, b"half");
            gate.open();
            let broken = rest(&mut body).await.expect_err(what);
            assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR), "{what}");
            a.set(Script::reply());
            assert_eq!(client.get("/", &[]).await.backend(), "a", "{what}: the connection broke");
            // The same bytes in one piece must not look like a complete response either.
            let mut bytes = begin.clone();
            bytes.push_str(then);
            a.set(Script::raw_then(bytes, Step::Close));
            let stream = client.open(client.request("GET", "/"), true).await;
            let whole = stream.try_response().await;
            assert!(whole.as_ref().map_or(true, |reply| reply.status == 502), "{what}: {whole:?}");
        }
    }
}

#[tokio::test]
async fn malformed_response_is_502() {
    for bytes in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-App: \0\r\n\r\n",
    ] {
        let (a, _proxy, client) = answering(Script::raw_then(bytes, Step::Close)).await;
        client.get("/", &[]).await.assert_own(502, "response_head_malformed");
        a.set(Script::reply());
        assert_eq!(client.get("/", &[]).await.backend(), "a", "the connection broke");
    }
}

#[tokio::test]
async fn unreachable_backend_is_503_and_silent_backend_is_504() {
    let a = Backend::named("a").refuse().start().await;
    let b = Backend::named("b").stall_before_head().start().await;
    let proxy = Proxy::builder()
        .timeouts("response_head = \"150ms\"")
        .raw_toml("[[route]]\npath = \"/a\"\nupstream = \"a\"\n[[route]]\npath = \"/b\"\nupstream = \"b\"")
        .upstream("a", &[&a])
        .upstream("b", &[&b])
        .start()
        .await;
    let client = proxy.http2().await;
    for _ in 0..2 {
        let reply = client.get("/a", &[]).await;
        assert_eq!(reply.status, 503);
        assert_eq!(reply.field("retry-after"), Some("1"));
        client.get("/b", &[]).await.assert_own(504, "response_head_timeout");
        client.get("/c", &[]).await.assert_own(404, "no_route");
        let mut head = client.open(client.request("HEAD", "/c"), true).await;
        let (head, body) = head.head().await;
        assert!(head.status == 404 && body.is_end_stream());
    }
}

#[tokio::test]
async fn response_before_the_end_of_the_request_is_forwarded_at_once() {
    let text = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\n";
    let (_a, _proxy, client) =
        answering(Script::new([Step::ReadHead, Step::Send(text.into()), Step::Echo])).await;
    let mut stream = client.open(client.request("POST", "/").header("content-length", "4"), false).await;
    let (_, mut body) = stream.head().await;
    for byte in [b"a", b"b", b"c", b"d"] {
        stream.send(byte, byte == b"d").await.expect("send body");
        assert_eq!(exactly(&mut body, 1).await, byte);
    }
    assert_eq!(rest(&mut body).await.expect("a clean end of stream"), b"");
}

#[tokio::test]
async fn hop_by_hop_fields_do_not_reach_the_client() {
    let text = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n\
                Keep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\n\
                Set-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok";
    let (_a, _proxy, client) = answering(Script::raw(text)).await;
    // `Response` asserts that only expected fields arrive.
    let reply: Response = client.get("/", &[]).await;
    assert_eq!(reply.text(), "ok");
    assert_eq!(reply.fields.all("set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test]
async fn response_with_more_headers_than_the_client_accepts_is_502() {
    let a = Backend::named("a").field(&format!("X-App: {}", "x".repeat(3000))).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut builder = H2Client::builder();
    builder.max_header_list_size(1000);
    let client = H2Client::over(proxy.raw().await, "http://t", &builder).await;
    assert_eq!(client.get("/", &[]).await.status, 502);
    proxy.metric_becomes("homing_errors_total", &[("error", "response_head_too_large")], 1.0).await;
    let small = Backend::start("b").await;
    proxy.reload(&Proxy::builder().upstream("web", &[&small])).await;
    assert_eq!(client.get("/", &[]).await.backend(), "b", "the connection broke");
}
