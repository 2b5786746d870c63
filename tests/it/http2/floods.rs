//! Floods of frames that are cheap to send. Each is cut off in bounded time and does not affect
//! other clients. Busy but honest clients are not mistaken for a flood.

use h2::Reason;

use crate::harness::frames::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, GOAWAY, HEADERS, PADDED, PING, POST, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
};
use crate::harness::{Backend, Gate, Proxy, RawClient, Script, Step, eventually, in_time};

/// Sends messages until the connection is closed, at most `most` of them. Returns how many were sent.
async fn flood(raw: &mut RawClient, mut next: impl FnMut(u32) -> Vec<u8>, most: u32) -> u32 {
    for n in 0..most {
        if !raw.try_send(next(n)).await {
            return n;
        }
    }
    most
}

/// Asserts that a connection that starts with `begin` and then sends `next` over and over is cut off.
async fn assert_cut_off(what: &str, begin: &[u8], next: impl FnMut(u32) -> Vec<u8>) {
    let a = Backend::named("a").stall_before_head().start().await;
    let b = Backend::start("b").await;
    let proxy = Proxy::builder()
        .workers(1)
        .raw_toml("[[route]]\npath = \"/\"\nupstream = \"a\"\n[[route]]\npath = \"/b\"\nupstream = \"b\"")
        .upstream("a", &[&a])
        .upstream("b", &[&b])
        .start()
        .await;
    let honest = proxy.http2().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(begin).await;
    let (sent, ()) = tokio::join!(in_time(what, flood(&mut raw, next, 200_000)), async {
        // Meanwhile on the same worker.
        for _ in 0..50 {
            assert_eq!(honest.get("/b", &[]).await.backend(), "b", "{what}");
        }
    });
    assert!(sent < 200_000, "{what}: the connection was never closed");
    // The GOAWAY may be lost when the connection closes; only the close is certain.
    loop {
        match raw.next_frame().await {
            Some(frame) if frame.kind == GOAWAY => {
                assert_eq!(frame.code(), u32::from(Reason::ENHANCE_YOUR_CALM), "{what}");
            }
            Some(_) => {}
            None => break,
        }
    }
    proxy.metric_becomes("homing_http2_floods_total", &[], 1.0).await;
    eventually("all backend connections close", async || a.open() == 0).await;
    assert_eq!(honest.get("/b", &[]).await.backend(), "b", "{what}");
    proxy.metric_becomes("homing_connections", &[], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_is_cut_off() {
    let next = |n: u32| {
        let stream = 2 * n + 1;
        [frames::get(stream, "/"), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    };
    assert_cut_off("rapid reset", &[], next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_streams_that_reached_a_backend_are_cut_off() {
    // Slowly enough that each request reaches the backend, unlike the burst above.
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let mut count = 0;
    loop {
        let stream = 2 * count + 1;
        if !raw.try_send(frames::get(stream, "/")).await {
            break;
        }
        tokio::select! {
            () = eventually("the request reaches the backend", async || a.requests() > u64::from(count)) => {}
            _ = raw.read_to_any_end() => break,
        }
        if !raw.try_send(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await {
            break;
        }
        count += 1;
        assert!(count < 5000, "the connection was never closed");
    }
    raw.read_to_any_end().await;
    proxy.metric_becomes("homing_http2_floods_total", &[], 1.0).await;
    eventually("all backend connections close", async || a.open() == 0).await;
}

/// Opens requests that a backend never answers and ends each with `end`, until the connection is
/// closed. Before each, asks for `cheap` paths that have no route. Returns how many it opened.
async fn abandon(end: impl Fn(u32) -> Vec<u8>, cheap: u32) -> u32 {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder()
        .raw_toml("[[route]]\npath = \"/a\"\nupstream = \"web\"")
        .upstream("web", &[&a])
        .start()
        .await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let (mut count, mut stream) = (0, 1);
    while count < 1000 {
        for _ in 0..cheap {
            raw.try_send(frames::get(stream, "/cheap")).await;
            while raw.next_of(DATA).await.is_some_and(|frame| frame.stream != stream) {}
            stream += 2;
        }
        raw.try_send(frames::get(stream, "/a")).await;
        tokio::select! {
            () = eventually("the request reaches the backend", async || a.requests() > u64::from(count)) => {}
            _ = raw.read_to_any_end() => break,
        }
        if !raw.try_send(end(stream)).await {
            break;
        }
        (count, stream) = (count + 1, stream + 2);
    }
    if count < 1000 {
        proxy.metric_becomes("homing_http2_floods_total", &[], 1.0).await;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_cannot_be_bought_back_with_requests_that_reach_no_backend() {
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let count = abandon(reset, 3).await;
    assert!((100..450).contains(&count), "{count} requests were abandoned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_that_make_homing_reset_a_stream_cost_as_much_as_resets() {
    // A window above the maximum is an error of the stream (RFC 9113 §6.9.1).
    let update = |stream| frame(WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes());
    let count = abandon(update, 0).await;
    assert!((100..450).contains(&count), "{count} requests were abandoned");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_are_cut_off() {
    assert_cut_off("PING", &[], |_| frame(PING, 0, 0, b"12345678").repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsolicited_ping_acks_are_cut_off() {
    assert_cut_off("PING ACK", &[], |_| frame(PING, frames::ACK, 0, b"12345678").repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_cut_off() {
    assert_cut_off("SETTINGS", &[], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0]).repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_are_cut_off() {
    assert_cut_off("PRIORITY", &[], |n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_frames_are_cut_off() {
    assert_cut_off("an unknown frame", &[], |_| frame(0xEE, 0, 0, b"x").repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data_is_cut_off() {
    let begin = frame(HEADERS, END_HEADERS, 1, &block(&POST));
    assert_cut_off("empty DATA", &begin, |_| frame(DATA, 0, 1, b"").repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_is_all_padding_is_cut_off() {
    let begin = frame(HEADERS, END_HEADERS, 1, &block(&POST));
    assert_cut_off("padding", &begin, |_| frame(DATA, PADDED, 1, &[255; 256])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_updates_are_cut_off() {
    let begin = frame(HEADERS, END_HEADERS, 1, &block(&POST));
    let update = |_| frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()).repeat(10);
    assert_cut_off("WINDOW_UPDATE", &begin, update).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuations_are_cut_off() {
    let begin = frame(HEADERS, END_STREAM, 1, &block(&POST));
    assert_cut_off("empty CONTINUATION", &begin, |_| frame(CONTINUATION, 0, 1, b"")).await;
    let fields = block(&[("x-app", "y")]);
    assert_cut_off("CONTINUATION", &begin, |_| frame(CONTINUATION, 0, 1, &fields)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_are_cut_off() {
    let fields = block(&[&GET[..], &[("connection", "close")]].concat());
    let next = |n: u32| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &fields);
    assert_cut_off("malformed requests", &[], next).await;
    let fields = block(&[&GET[..], &[("x", " y ")]].concat());
    let next = |n: u32| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &fields);
    assert_cut_off("requests that only Homing finds malformed", &[], next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit_are_cut_off() {
    // Each costs a reset to refuse.
    let next = |n: u32| frames::get(2 * n + 1, "/");
    assert_cut_off("refused streams", &[], next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_with_some_cancelled_are_not_a_flood() {
    let gate = Gate::closed();
    let slow = Backend::named("slow").reply_after(&gate).start().await;
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .raw_toml("[[route]]\npath = \"/slow\"\nupstream = \"slow\"\n[[route]]\nupstream = \"web\"")
        .upstream("slow", &[&slow])
        .upstream("web", &[&a])
        .start()
        .await;
    let client = proxy.http2().await;
    for n in 0..4000 {
        if n % 10 == 0 {
            let mut cancelled = client.open(client.request("GET", "/slow"), true).await;
            cancelled.send.send_reset(Reason::CANCEL);
        } else {
            assert_eq!(client.get("/", &[]).await.backend(), "a");
        }
    }
    assert!(client.is_open());
    proxy.metric_becomes("homing_http2_floods_total", &[], 0.0).await;
    proxy.metric_becomes("homing_http2_connections_total", &[], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_all_requests_of_a_page_is_not_a_flood() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    for page in 1..=5 {
        let mut streams = Vec::new();
        for _ in 0..30 {
            streams.push(client.open(client.request("GET", "/"), true).await);
        }
        eventually("the requests arrive", async || a.requests() == 30 * page).await;
        for stream in &mut streams {
            stream.send.send_reset(Reason::CANCEL);
        }
        eventually("the requests are cancelled", async || a.open() == 0).await;
    }
    a.set(Script::reply());
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_in_small_pieces_with_pings_is_not_a_flood() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frame(HEADERS, END_HEADERS, 1, &block(&POST))).await;
    // The windows of the connection and of the stream, as far as this client knows.
    let (mut room, mut pongs) = ([65_535u32, 256 * 1024], 0);
    for n in 0..3000u32 {
        // A ping with every piece, as clients do that measure the round-trip time.
        raw.send([frame(DATA, 0, 1, &[7; 1200]), frame(PING, 0, 0, &[0; 8])].concat()).await;
        room = room.map(|room| room - 1200);
        while pongs + 16 < n || room.iter().any(|&room| room < 1200) {
            let frame = raw.next_frame().await.expect("a frame");
            match frame.kind {
                WINDOW_UPDATE => room[frame.stream as usize] += frame.code(),
                PING => pongs += 1,
                _ => {}
            }
        }
    }
    raw.send(frame(DATA, END_STREAM, 1, b"")).await;
    raw.next_on(1, HEADERS).await;
    assert_eq!(a.last().body_len, 3000 * 1200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chatty_websocket_is_not_a_flood() {
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Accept, Step::Echo])).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.websocket("/", &[]).await;
    let (_, mut back) = stream.head().await;
    for _ in 0..5000 {
        stream.send(b"x", false).await.expect("send body");
        assert_eq!(crate::harness::http2::exactly(&mut back, 1).await, b"x");
    }
    assert!(client.is_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn download_with_many_small_window_updates_is_not_a_flood() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n".to_vec();
    let a =
        Backend::named("a").script(Script::new([Step::ReadHead, Step::Send(head), Step::Zeros(4_000_000)]));
    let a = a.start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frames::get(1, "/")).await;
    let mut received = 0;
    while received < 4_000_000 {
        let data = raw.next_on(1, DATA).await;
        received += data.payload.len();
        let room = u32::try_from(data.payload.len()).expect("a frame").to_be_bytes();
        if data.flags & END_STREAM == 0 {
            raw.send([frame(WINDOW_UPDATE, 0, 0, &room), frame(WINDOW_UPDATE, 0, 1, &room)].concat()).await;
        }
    }
}
