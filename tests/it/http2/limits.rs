//! Limits on requests over HTTP/2.

use crate::harness::frames::{
    self, CONTINUATION, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, POST, RST_STREAM, block, frame,
};
use crate::harness::{Backend, Proxy, RawClient};

/// How a stream or its connection ended, with the error code.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    Reset(u32),
    Cut(u32),
    Ended,
}

async fn outcome(raw: &mut RawClient, stream: u32) -> Outcome {
    loop {
        match raw.next_frame().await {
            None => return Outcome::Ended,
            Some(frame) if frame.kind == GOAWAY => return Outcome::Cut(frame.code()),
            Some(frame) if frame.stream != stream => {}
            Some(frame) if frame.kind == RST_STREAM => return Outcome::Reset(frame.code()),
            Some(frame) if frame.kind == HEADERS => return Outcome::Answered,
            Some(_) => {}
        }
    }
}

#[tokio::test]
async fn too_long_target_is_414() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("uri_bytes = \"1KiB\"").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let path = |len: usize| format!("/{}", "x".repeat(len - 1));
    for _ in 0..2 {
        assert_eq!(client.get(&path(1024), &[]).await.backend(), "a", "at the limit");
        assert_eq!(client.get(&path(1025), &[]).await.status, 414);
        assert_eq!(client.get(&path(8000), &[]).await.status, 414);
    }
    assert_eq!(a.requests(), 2);
}

#[tokio::test]
async fn too_many_fields_are_431() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("fields = 20").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    for (count, status) in [(10, 200), (21, 431), (100, 431), (10, 200)] {
        let names: Vec<_> = (0..count).map(|n| format!("x-{n}")).collect();
        let fields: Vec<_> = names.iter().map(|name| (name.as_str(), "y")).collect();
        assert_eq!(client.get("/", &fields).await.status, status, "{count} fields");
    }
    // A cookie in many pieces counts as one field.
    let crumbs = vec![("cookie", "a=b"); 100];
    assert_eq!(client.get("/", &crumbs).await.status, 200);
}

#[tokio::test]
async fn too_large_head_is_431_and_the_connection_stays_open() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("head_bytes = \"8KiB\"").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    for _ in 0..3 {
        for len in [8 * 1024, 10_000, 15_000] {
            let value = "x".repeat(len);
            let stream = client.open(client.request("GET", "/").header("x-app", &value), true).await;
            match stream.try_response().await {
                Ok(reply) => assert_eq!(reply.status, 431, "{len}"),
                Err(error) => assert!(!error.is_go_away(), "{len}: {error}"),
            }
        }
        let value = "x".repeat(7000);
        assert_eq!(client.get("/", &[("x-app", &value)]).await.backend(), "a");
    }
    assert_eq!(a.requests(), 3);
    // In several frames, the last of which goes far beyond the limit.
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let large = "x".repeat(6000);
    raw.send(frame(HEADERS, END_STREAM, 1, &block(&GET))).await;
    raw.send(frame(CONTINUATION, 0, 1, &block(&[("x-app", &large)]))).await;
    raw.send(frame(CONTINUATION, END_HEADERS, 1, &block(&[("x-app", &large)]))).await;
    assert_ne!(outcome(&mut raw, 1).await, Outcome::Ended);
    assert_eq!(a.requests(), 3);
}

#[tokio::test]
async fn hpack_bomb_is_rejected() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("head_bytes = \"16KiB\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    // One table entry of about 4000 bytes (RFC 7541 §6.2.1), then 12,000 references to it.
    let entry = block(&[("x-app", &"x".repeat(3900))]);
    let mut bomb = block(&GET);
    bomb.push(0x40);
    bomb.extend_from_slice(&entry[1..]);
    bomb.extend(std::iter::repeat_n(0xBE, 12_000));
    assert!(bomb.len() <= 16 * 1024, "the bomb does not fit into one frame");
    raw.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb)).await;
    let outcome = outcome(&mut raw, 1).await;
    assert_ne!(outcome, Outcome::Ended, "closed without an error");
    assert_eq!(a.requests(), 0);
    let client = proxy.http2().await;
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}

#[tokio::test]
async fn too_large_trailers_are_dropped() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("head_bytes = \"8KiB\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frame(HEADERS, END_HEADERS, 1, &block(&POST))).await;
    raw.send(frame(frames::DATA, 0, 1, b"body")).await;
    let large = "x".repeat(15_000);
    raw.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&[("x-app", &large)]))).await;
    assert_ne!(outcome(&mut raw, 1).await, Outcome::Ended);
    // Trailers may be dropped (RFC 9110 §6.5.1).
    assert!(a.seen().iter().all(|seen| seen.trailers.names().is_empty()), "{:?}", a.seen());
    assert_eq!(proxy.client().get("/").await.backend(), "a");
}

#[tokio::test]
async fn frame_larger_than_the_setting_closes_the_connection() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frame(frames::PING, 0, 0, &vec![0; 16 * 1024 + 1])).await;
    assert_eq!(outcome(&mut raw, 1).await, Outcome::Cut(u32::from(h2::Reason::FRAME_SIZE_ERROR)));
}
