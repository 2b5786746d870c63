//! HTTP/2 connections to backends are shared: what one client does must not harm the others.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use http::{HeaderMap, Request};

use crate::harness::frames::{
    self, DATA, END_HEADERS, HEADERS, POST, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
};
use crate::harness::{Http2Backend, Http2Client, Proxy, RawClient, eventually, in_time};

const HOSTILE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const MIB: u32 = 1 << 20;
const CANCELLED: &str = "homing_backend_http2_cancelled_total";

/// One worker, so that requests share connections.
async fn over_http2(backend: &Http2Backend) -> Proxy {
    let builder = Proxy::builder().workers(1).upstream("web", &[]).member(&backend.name, backend.address);
    builder.lines("protocol = \"h2c\"").start().await
}

fn get(path: &str) -> Request<()> {
    Request::builder().uri(format!("http://web.test{path}")).body(()).expect("a request")
}

/// Opens an HTTP/2 connection from the hostile client's address. Its windows are `window` bytes.
async fn hostile(proxy: &Proxy, window: u32) -> RawClient {
    let mut raw = RawClient::connect_from(HOSTILE, proxy.addr()).await;
    let [a, b, c, d] = window.to_be_bytes();
    let settings = frame(SETTINGS, 0, 0, &[0, 4, a, b, c, d]);
    raw.send([PREFACE, &settings, &frame(WINDOW_UPDATE, 0, 0, &window.to_be_bytes())].concat()).await;
    raw
}

/// Asks for `path` on this many streams, from `first` on.
async fn ask(raw: &mut RawClient, first: u32, streams: u32, path: &str) {
    let asked: Vec<_> = (0..streams).flat_map(|n| frames::get(first + 2 * n, path)).collect();
    raw.send(asked).await;
}

/// Asks on this many streams for what the backend never answers, and cancels all of them once it
/// has them.
async fn cancel(raw: &mut RawClient, backend: &Http2Backend, first: u32, streams: u32) {
    let before = backend.count("/hang");
    ask(raw, first, streams, "/hang").await;
    let asked = before + streams as usize;
    eventually("the backend has the requests", async || backend.count("/hang") == asked).await;
    let resets = (0..streams)
        .flat_map(|n| frame(RST_STREAM, 0, first + 2 * n, &8u32.to_be_bytes()))
        .collect::<Vec<_>>();
    raw.send(resets).await;
}

async fn hung_by_another_client(proxy: &Proxy) -> RawClient {
    let mut raw = RawClient::connect_from(HOSTILE, proxy.addr()).await;
    raw.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw
}

#[tokio::test]
async fn unread_responses_of_one_client_do_not_stop_others_on_the_connection() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&a).await;
    let mut raw = hostile(&proxy, MIB).await;
    // Narrow: the client takes 1,000 bytes of each response.
    raw.send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0x03, 0xE8])).await;
    ask(&mut raw, 1, 95, "/bytes/400000").await;
    eventually("the backend has the requests", async || a.count("/bytes/400000") == 95).await;
    let client = Http2Client::connect(proxy.addr()).await;
    for _ in 0..5 {
        let response = client.ask(get("/bytes/3000000"), b"", HeaderMap::new()).await.expect("a response");
        assert_eq!(response.body.len(), 3_000_000);
    }
    assert_eq!(a.connections(), 1, "the requests must share the connection");
    assert_eq!(a.streams(), 95, "the unread responses must still wait");
}

#[tokio::test]
async fn unread_responses_take_no_stream_from_others() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&a).await;
    let mut raw = hostile(&proxy, 1000).await;
    ask(&mut raw, 1, 120, "/bytes/400000").await;
    eventually("the backend has the requests", async || a.count("/bytes/400000") == 120).await;
    assert_eq!(proxy.client().get("/bytes/400000").await.body.len(), 400_000);
    assert_eq!(a.connections(), 2, "a connection must not have more streams than its window has room for");
}

#[tokio::test]
async fn tiny_frames_of_an_unread_response_do_not_end_the_connection() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&a).await;
    let client = Http2Client::connect(proxy.addr()).await;
    let other = tokio::spawn(async move { client.ask(get("/gate"), b"", HeaderMap::new()).await });
    eventually("the backend has the request", async || a.streams() == 1).await;
    let mut raw = hostile(&proxy, 1000).await;
    // Two streams, each within its window.
    ask(&mut raw, 1, 2, "/drips/60000").await;
    eventually("the backend has the requests", async || a.streams() == 3).await;
    for _ in 0..200 {
        assert_eq!(proxy.client().get("/").await.text(), "a");
    }
    a.open_gate();
    let response = other.await.expect("request task").expect("a response");
    assert_eq!(response.head.status(), 200);
    assert_eq!(a.connections(), 1, "the connection must stay open");
}

#[tokio::test]
async fn tiny_frames_arrive_complete_once_they_are_read() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&a).await;
    let mut raw = hostile(&proxy, 1000).await;
    ask(&mut raw, 1, 1, "/drips/60000").await;
    let mut received = 0;
    while received < 60_000 {
        let piece = raw.next_on(1, DATA).await.payload;
        assert!(piece.iter().all(|byte| *byte == b'x'));
        received += piece.len();
        let room = u32::try_from(piece.len()).expect("a frame").to_be_bytes();
        raw.send([frame(WINDOW_UPDATE, 0, 0, &room), frame(WINDOW_UPDATE, 0, 1, &room)].concat()).await;
    }
    assert_eq!(received, 60_000);
}

#[tokio::test]
async fn upload_that_the_backend_does_not_read_does_not_stop_uploads_of_others() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&a).await;
    let mut raw = hostile(&proxy, MIB).await;
    // The larger windows are in effect once acknowledged.
    raw.next_of(SETTINGS).await.expect("settings");
    raw.send(frame(SETTINGS, frames::ACK, 0, &[])).await;
    raw.send(frame(HEADERS, END_HEADERS, 1, &block(&[&POST[..3], &[(":path", "/unread")]].concat()))).await;
    // More than the backend's window for the connection.
    for _ in 0..8 {
        raw.send(frame(DATA, 0, 1, &[7; 16_000])).await;
    }
    eventually("the upload fills the window", async || a.unread() >= 65_535).await;
    for size in [4, 400_000] {
        let body = vec![7; size];
        assert!(proxy.client().post("/echo", &body).await.body == body, "{size}");
    }
    assert_eq!(a.connections(), 2, "the upload must have got another connection");
    // The client's own uploads go on too, on a connection that nobody else uses.
    let mut own = RawClient::connect_from(HOSTILE, proxy.addr()).await;
    own.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nsome").await;
    assert_eq!(own.response().await.text(), "some");
    let isolated = || proxy.metric("homing_backend_http2_isolated_total", &[("upstream", "web")]);
    eventually("the client is isolated", async || isolated() > 0.5).await;
}

#[tokio::test]
async fn cancelled_request_that_is_nearly_done_is_not_reset() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&a).await;
    let mut raw = proxy.raw().await;
    raw.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the backend has the stream", async || a.streams() == 1).await;
    raw.reset();
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 1.0).await;
    a.open_gate();
    proxy.metric_becomes(CANCELLED, &[("result", "finished")], 1.0).await;
    proxy.metric_becomes(CANCELLED, &[("result", "reset")], 0.0).await;
    let raw = hung_by_another_client(&proxy).await;
    eventually("the backend has the stream", async || a.streams() == 1).await;
    raw.reset();
    proxy.metric_becomes(CANCELLED, &[("result", "reset")], 1.0).await;
    eventually("the backend sees the reset", async || a.resets() == [h2::Reason::CANCEL]).await;
}

#[tokio::test]
async fn client_that_cancels_much_gets_connections_of_its_own() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&a).await;
    let mut raw = hostile(&proxy, MIB).await;
    cancel(&mut raw, &a, 1, 40).await;
    eventually("the streams are reset", async || a.resets().len() == 40).await;
    cancel(&mut raw, &a, 81, 20).await;
    eventually("the streams are reset", async || a.resets().len() == 60).await;
    assert_eq!(a.connections(), 1);
    // The next one is isolated, and other clients stay where they are.
    ask(&mut raw, 121, 1, "/").await;
    raw.next_on(121, DATA).await;
    proxy.metric_becomes("homing_backend_http2_isolated_total", &[("upstream", "web")], 1.0).await;
    assert_eq!(a.connections(), 2);
    for _ in 0..5 {
        assert_eq!(proxy.client().post("/echo", b"some").await.text(), "some");
    }
    assert_eq!(a.connections(), 2, "other clients must share their connection as before");
}

#[tokio::test]
async fn client_that_cancels_much_is_refused_beyond_its_own_connections() {
    let a = Http2Backend::with("a", Some(20), None).await;
    let proxy = over_http2(&a).await;
    let mut raw = hostile(&proxy, MIB).await;
    for page in 0..3 {
        cancel(&mut raw, &a, 1 + page * 40, 20).await;
        eventually("the streams are reset", async || a.resets().len() == 20 * (page as usize + 1)).await;
    }
    // Four connections of 20 streams.
    ask(&mut raw, 201, 81, "/hang").await;
    proxy.metric_becomes("homing_errors_total", &[("error", "too_many_unfinished")], 1.0).await;
    eventually("the backend has the others", async || a.streams() == 80).await;
    let start = tokio::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(proxy.client().post("/echo", b"some").await.text(), "some");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "honest requests took {:?}", start.elapsed());
    let refused = in_time("an answer", async {
        let mut one = RawClient::connect_from(HOSTILE, proxy.addr()).await;
        one.get("/", &[]).await
    });
    refused.await.assert_own(429, "too_many_unfinished");
}
