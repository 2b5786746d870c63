//! Floods of frames that cost nothing to send: each ends in bounded time and
//! nobody else notices. Honest clients, however busy, are not taken for one.

use h2::Reason;

use crate::harness::frames::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame,
};
use crate::harness::{Backend, Gate, Proxy, RawClient, Script, Step, eventually, in_time};

const HEAD: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "t"), (":path", "/")];

/// Sends it over and over until the connection is cut, at most so many times.
/// Returns how many were sent.
async fn flood(raw: &mut RawClient, mut next: impl FnMut(u32) -> Vec<u8>, most: u32) -> u32 {
    for n in 0..most {
        if !raw.try_send(next(n)).await {
            return n;
        }
    }
    most
}

/// A connection with this many frames sent at most before it was cut.
async fn assert_ends(what: &str, begin: &[u8], next: impl FnMut(u32) -> Vec<u8>) {
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
        // On the same worker, meanwhile.
        for _ in 0..50 {
            assert_eq!(honest.get("/b", &[]).await.backend(), "b", "{what}");
        }
    });
    assert!(sent < 200_000, "{what}: all was taken");
    // The word may be lost with the connection: what is certain is its end.
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
    eventually("nothing is left of it", async || a.open() == 0).await;
    assert_eq!(honest.get("/b", &[]).await.backend(), "b", "{what}");
    proxy.metric_becomes("homing_connections", &[], 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_ends() {
    let next = |n: u32| {
        let stream = 2 * n + 1;
        [frames::get(stream, "/"), frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())].concat()
    };
    assert_ends("rapid reset", &[], next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_of_streams_that_were_let_begin_end() {
    // Slowly enough for each to reach a backend: no burst that is seen at once.
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
            () = eventually("it reaches the backend", async || a.requests() > u64::from(count)) => {}
            _ = raw.read_to_any_end() => break,
        }
        if !raw.try_send(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).await {
            break;
        }
        count += 1;
        assert!(count < 5000, "all was taken");
    }
    raw.read_to_any_end().await;
    proxy.metric_becomes("homing_http2_floods_total", &[], 1.0).await;
    eventually("nothing is left of it", async || a.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pings_end() {
    assert_ends("PING", &[], |_| frame(PING, 0, 0, b"12345678").repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_pings_that_nobody_sent_end() {
    assert_ends("PING ACK", &[], |_| frame(PING, frames::ACK, 0, b"12345678").repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_end() {
    assert_ends("SETTINGS", &[], |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, 0]).repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_end() {
    assert_ends("PRIORITY", &[], |n| frame(PRIORITY, 0, 2 * n + 1, &[0, 0, 0, 0, 1])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_frames_end() {
    assert_ends("an unknown frame", &[], |_| frame(0xEE, 0, 0, b"x").repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data_ends() {
    let begin = frame(HEADERS, END_HEADERS, 1, &block(&HEAD));
    assert_ends("empty DATA", &begin, |_| frame(DATA, 0, 1, b"").repeat(10)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_is_all_padding_ends_or_is_bounded_by_the_window() {
    let begin = frame(HEADERS, END_HEADERS, 1, &block(&HEAD));
    assert_ends("padding", &begin, |_| frame(DATA, 8, 1, &[255; 256])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn window_updates_end() {
    let begin = frame(HEADERS, END_HEADERS, 1, &block(&HEAD));
    let update = |_| frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes()).repeat(10);
    assert_ends("WINDOW_UPDATE", &begin, update).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuations_end() {
    let begin = frame(HEADERS, END_STREAM, 1, &block(&HEAD));
    assert_ends("empty CONTINUATION", &begin, |_| frame(CONTINUATION, 0, 1, b"")).await;
    let fields = block(&[("x-app", "y")]);
    assert_ends("CONTINUATION", &begin, |_| frame(CONTINUATION, 0, 1, &fields)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_end() {
    let fields = block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "t"),
        (":path", "/"),
        ("connection", "close"),
    ]);
    let next = |n: u32| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &fields);
    assert_ends("malformed requests", &[], next).await;
    let fields =
        block(&[(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/"), ("x", " y ")]);
    let next = |n: u32| frame(HEADERS, END_STREAM | END_HEADERS, 2 * n + 1, &fields);
    assert_ends("malformed requests of ours", &[], next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit_end() {
    // Each is refused, and costs a reset.
    let next = |n: u32| frames::get(2 * n + 1, "/");
    assert_ends("refused streams", &[], next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_of_which_some_are_cancelled_are_no_flood() {
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
async fn a_page_that_is_left_cancels_all_its_requests_and_is_no_flood() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    for page in 1..=5 {
        let mut streams = Vec::new();
        for _ in 0..30 {
            streams.push(client.open(client.request("GET", "/"), true).await);
        }
        eventually("they are there", async || a.requests() == 30 * page).await;
        for stream in &mut streams {
            stream.send.send_reset(Reason::CANCEL);
        }
        eventually("they are cancelled", async || a.open() == 0).await;
    }
    a.set(Script::reply());
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_in_small_pieces_with_pings_between_them_is_no_flood() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frame(HEADERS, END_HEADERS, 1, &block(&HEAD))).await;
    // Windows of the connection and of the stream, as far as is known.
    let (mut room, mut pongs) = ([65_535u32, 256 * 1024], 0);
    for n in 0..3000u32 {
        // As a client measures the round trip: one with every piece.
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
async fn a_chatty_websocket_is_no_flood() {
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Accept, Step::Echo])).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.websocket("/", &[]).await;
    let (_, mut back) = stream.head().await;
    for _ in 0..5000 {
        stream.send(b"x", false).await.expect("room");
        assert_eq!(crate::harness::http2::exactly(&mut back, 1).await, b"x");
    }
    assert!(client.is_open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_to_a_client_that_opens_its_window_in_small_steps_is_no_flood() {
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
