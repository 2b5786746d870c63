//! Request bodies converted from HTTP/2 to HTTP/1.1.

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::HeaderMap;

use crate::harness::frames::{
    self, DATA, END_HEADERS, END_STREAM, HEADERS, PADDED, POST, RST_STREAM, block, frame,
};
use crate::harness::{Backend, Gate, Proxy, Script, Step, eventually};

/// Returns pseudo-random bytes, the same every time.
fn content(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

#[tokio::test]
async fn content_length_is_forwarded_and_a_missing_one_means_chunked() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let request = client.request("POST", "/").header("content-length", "5");
    let mut stream = client.open(request, false).await;
    stream.send(b"hello", true).await.expect("send body");
    assert_eq!(stream.response().await.backend(), "a");
    let seen = a.last();
    assert_eq!((seen.field("content-length"), seen.field("transfer-encoding")), (Some("5"), None));
    assert_eq!(seen.body, b"hello");

    assert_eq!(client.post("/", b"hello, you").await.backend(), "a");
    let seen = a.last();
    assert_eq!((seen.field("content-length"), seen.field("transfer-encoding")), (None, Some("chunked")));
    assert_eq!(seen.body, b"hello, you");

    // Different ways to send an empty body.
    for length in [None, Some("0")] {
        for end in [true, false] {
            let request = client.request("POST", "/");
            let request = length.into_iter().fold(request, |r, length| r.header("content-length", length));
            let mut stream = client.open(request, end).await;
            if !end {
                stream.send(b"", true).await.expect("send body");
            }
            assert_eq!(stream.response().await.backend(), "a");
            assert_eq!(a.last().body, b"");
        }
    }
    assert!(a.seen().iter().all(|seen| seen.line == "POST / HTTP/1.1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_arrive_complete_both_ways_on_concurrent_streams() {
    let body = content(5 << 20);
    // The backend keeps only part of a body, so compare the echo.
    let echo = Script::new([
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 5242880\r\n\r\n".to_vec()),
        Step::Echo,
    ]);
    let a = Backend::named("a").script(echo).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let once = async || {
        let request = client.request("PUT", "/").header("content-length", body.len());
        let mut stream = client.open(request, false).await;
        let (head, mut back) = stream.head().await;
        assert_eq!(head.status, 200);
        let there = stream.send(&body, true);
        let (there, back) = tokio::join!(there, crate::harness::http2::rest(&mut back));
        there.expect("send body");
        let back = back.expect("a complete body");
        assert_eq!(digest(&SHA256, &back).as_ref(), digest(&SHA256, &body).as_ref());
    };
    tokio::join!(once(), once(), once());
}

#[tokio::test]
async fn body_in_frames_of_any_size_arrives_unchanged() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let body = content(100_000);
    let mut stream = client.open(client.request("POST", "/"), false).await;
    let mut left = &body[..];
    for size in (1..).map(|n| n * n % 4099) {
        let (piece, rest) = left.split_at(size.min(left.len()));
        // Includes empty frames, which must not become a chunk: an empty chunk ends the body.
        stream.send.send_data(Bytes::copy_from_slice(piece), false).expect("send");
        left = rest;
        if left.is_empty() {
            break;
        }
    }
    stream.send(b"", true).await.expect("send body");
    assert_eq!(stream.response().await.backend(), "a");
    assert!(a.last().body == body);
}

#[tokio::test]
async fn empty_data_frames_do_not_end_the_body() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let head = block(&POST);
    raw.send(frame(HEADERS, END_HEADERS, 1, &head)).await;
    for part in ["", "one ", "", "", "two", ""] {
        raw.send(frame(DATA, 0, 1, part.as_bytes())).await;
    }
    // Padding is not content (RFC 9113 §6.1).
    raw.send(frame(DATA, PADDED, 1, b"\x03 three\0\0\0")).await;
    raw.send(frame(DATA, END_STREAM, 1, b"")).await;
    raw.next_on(1, HEADERS).await;
    assert_eq!(a.last().body, b"one two three");
}

#[tokio::test]
async fn request_trailers_follow_the_chunks() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.open(client.request("POST", "/"), false).await;
    stream.send(b"body", false).await.expect("send body");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "42".parse().expect("a value"));
    trailers.append("x-sum", "43".parse().expect("a value"));
    stream.send.send_trailers(trailers).expect("send");
    assert_eq!(stream.response().await.backend(), "a");
    let seen = a.last();
    assert_eq!((seen.body.as_slice(), seen.trailers.all("x-sum")), (&b"body"[..], vec!["42", "43"]));
}

#[tokio::test]
async fn framing_and_routing_fields_in_trailers_are_not_forwarded() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for (name, value) in
        [("content-length", "4"), ("transfer-encoding", "chunked"), ("host", "evil"), ("connection", "close")]
    {
        let mut raw = proxy.raw().await;
        raw.begin_http2().await;
        let head = block(&POST);
        raw.send(frame(HEADERS, END_HEADERS, 1, &head)).await;
        raw.send(frame(DATA, 0, 1, b"body")).await;
        raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[(name, value)]))).await;
        // Either rejected, or forwarded without the field.
        while let Some(answer) = raw.next_frame().await {
            if answer.stream == 1 && [HEADERS, RST_STREAM].contains(&answer.kind) {
                break;
            }
        }
        for seen in a.seen() {
            assert!(!seen.trailers.has(name), "{name} reached the backend: {:?}", seen.trailers);
        }
    }
    let mut client = proxy.client();
    assert_eq!(client.get("/").await.backend(), "a");
}

#[tokio::test]
async fn too_large_body_is_413_and_the_connection_stays_open() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("body_bytes = \"64KiB\"").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let announced = client.request("POST", "/").header("content-length", 64 * 1024 + 1);
    let mut stream = client.open(announced, false).await;
    let (head, _) = stream.head().await;
    assert_eq!(head.status, 413);
    assert_eq!(a.requests(), 0, "the request reached the backend");
    for _ in 0..20 {
        client.post("/", &content(300_000)).await.assert_own(413, "request_body_too_large");
        assert_eq!(client.post("/", &content(64 * 1024)).await.backend(), "a", "at the limit");
    }
    assert!(client.is_open());
    proxy.metric_becomes("homing_http2_connections_total", &[], 1.0).await;
}

#[tokio::test]
async fn unread_body_after_an_early_response_does_not_use_up_the_connection_window() {
    // In total many times the connection window, which is four stream windows.
    let steps = [Step::ReadHead, Step::Reply, Step::Pause(Gate::closed())];
    let a = Backend::named("a").field("Connection: close").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().limits("stream_window = \"64KiB\"").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    for _ in 0..40 {
        let reply = client.post("/", &content(60_000)).await;
        assert_eq!(reply.backend(), "a");
    }
    let small = Backend::start("b").await;
    proxy.reload(&Proxy::builder().upstream("web", &[&small])).await;
    assert_eq!(client.post("/", &content(60_000)).await.backend(), "b");
}

#[tokio::test]
async fn backend_sends_100_continue_before_the_body() {
    let steps =
        [Step::ReadHead, Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()), Step::ReadBody, Step::Reply];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let request = client.request("POST", "/").header("expect", "100-continue").header("content-length", "4");
    let mut stream = client.open(request, false).await;
    assert_eq!(stream.interim().await.expect("100").status, 100);
    stream.send(b"body", true).await.expect("send body");
    let reply = stream.response().await;
    assert_eq!((reply.status, reply.backend()), (200, "a"));
    let seen = a.last();
    assert_eq!((seen.field("expect"), seen.body.as_slice()), (Some("100-continue"), &b"body"[..]));
}

#[tokio::test]
async fn refused_expect_continue_sends_no_body() {
    let refuse = b"HTTP/1.1 417 No\r\nX-Backend: a\r\nContent-Length: 0\r\n\r\n".to_vec();
    let steps = [Step::ReadHead, Step::Send(refuse), Step::Close];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let request = client.request("POST", "/").header("expect", "100-continue").header("content-length", "4");
    let mut stream = client.open(request, false).await;
    let (head, _) = stream.head().await;
    assert_eq!(head.status, 417);
    a.set(Script::reply());
    assert_eq!(client.get("/", &[]).await.backend(), "a", "the connection broke");
}

#[tokio::test]
async fn cancelled_body_does_not_look_complete_to_the_backend() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for length in [None, Some("10")] {
        let client = proxy.http2().await;
        let request = client.request("POST", "/");
        let request = length.into_iter().fold(request, |r, length| r.header("content-length", length));
        let mut stream = client.open(request, false).await;
        stream.send(b"half", false).await.expect("send body");
        eventually("the upload has begun", async || a.received() > 0 && a.open() == 1).await;
        stream.send.send_reset(h2::Reason::CANCEL);
        eventually("the backend connection closes", async || a.open() == 0).await;
        assert_eq!(a.seen().len(), 0, "the request looked complete");
    }
}

#[tokio::test]
async fn body_that_contradicts_its_content_length_never_looks_complete() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for body in ["half", "more than ten bytes"] {
        let mut raw = proxy.raw().await;
        raw.begin_http2().await;
        let head = block(&[&POST[..], &[("content-length", "10")]].concat());
        raw.send(frame(HEADERS, END_HEADERS, 1, &head)).await;
        raw.send(frame(DATA, END_STREAM, 1, body.as_bytes())).await;
        let reset = raw.next_on(1, RST_STREAM).await;
        assert_eq!(reset.code(), u32::from(h2::Reason::PROTOCOL_ERROR), "{body}");
        raw.send(frames::get(3, "/")).await;
        raw.next_on(3, HEADERS).await;
    }
    assert!(a.seen().iter().all(|seen| seen.line.starts_with("GET ")), "{:?}", a.seen());
}

#[tokio::test]
async fn stalled_body_is_408_and_ends_only_its_stream() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("body_idle = \"150ms\"").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.open(client.request("POST", "/"), false).await;
    stream.send(b"half", false).await.expect("send body");
    stream.response().await.assert_own(408, "request_body_timeout");
    eventually("the backend connection closes", async || a.open() == 0).await;
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}
