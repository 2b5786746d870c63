//! Flow control: when one side stops reading, the other stops sending, and what is buffered in
//! between is bounded.

use h2::Reason;

use crate::harness::frames::{
    self, DATA, END_HEADERS, HEADERS, POST, RST_STREAM, WINDOW_UPDATE, block, frame,
};
use crate::harness::http2::rest;
use crate::harness::{Backend, Gate, H2Client, Proxy, RawClient, Script, Step, eventually, settles};

/// Bytes that the kernel may buffer for one loopback connection, both ends together.
const KERNEL: u64 = 12 << 20;

/// Starts a backend that sends 10 GB.
async fn endless() -> Backend {
    let head = b"HTTP/1.1 200 OK\r\nX-Backend: endless\r\nContent-Length: 10000000000\r\n\r\n".to_vec();
    let steps = [Step::ReadHead, Step::Send(head), Step::Zeros(10_000_000_000)];
    Backend::named("endless").script(Script::new(steps)).start().await
}

const ROUTES: &str = "[[route]]\npath = \"/endless\"\nupstream = \"endless\"\n[[route]]\nupstream = \"web\"";

#[tokio::test]
async fn stream_gets_no_more_than_its_window_and_other_streams_go_on() {
    let (endless, a) = (endless().await, Backend::start("a").await);
    let proxy = Proxy::builder()
        .raw_toml(ROUTES)
        .upstream("endless", &[&endless])
        .upstream("web", &[&a])
        .start()
        .await;
    let mut raw = proxy.raw().await;
    // SETTINGS_INITIAL_WINDOW_SIZE: 1000.
    raw.send([frames::PREFACE, &frame(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, 0x03, 0xE8])].concat()).await;
    raw.send(frames::get(1, "/endless")).await;
    let mut received = 0;
    while received < 1000 {
        received += raw.next_on(1, DATA).await.payload.len();
    }
    assert_eq!(received, 1000);
    let sent = settles("the backend stops sending", || endless.sent()).await;
    assert!(sent < KERNEL, "{sent} bytes are buffered somewhere");
    for stream in [3, 5, 7] {
        raw.send(frames::get(stream, "/")).await;
        // No data of the first stream in between.
        loop {
            let frame = raw.next_frame().await.expect("a frame");
            assert!(frame.kind != DATA || frame.stream == stream, "{frame:?}");
            if frame.kind == DATA && frame.flags & frames::END_STREAM != 0 {
                break;
            }
        }
    }
    // A small window update lets just that much through.
    raw.send(frame(WINDOW_UPDATE, 0, 1, &10u32.to_be_bytes())).await;
    assert_eq!(raw.next_on(1, DATA).await.payload.len(), 10);
    // A window made negative by new settings (RFC 9113 §6.9.2) lets nothing through.
    raw.send(frame(frames::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    raw.send(frame(WINDOW_UPDATE, 0, 1, &900u32.to_be_bytes())).await;
    raw.send(frame(frames::PING, 0, 0, b"12345678")).await;
    loop {
        let frame = raw.next_frame().await.expect("a frame");
        assert_ne!(frame.kind, DATA, "{frame:?}");
        if frame.kind == frames::PING {
            break;
        }
    }
}

#[tokio::test]
async fn stream_whose_window_stays_closed_is_reset_and_the_connection_stays_open() {
    let (endless, a) = (endless().await, Backend::start("a").await);
    let proxy = Proxy::builder()
        .timeouts("body_idle = \"300ms\"")
        .raw_toml(ROUTES)
        .upstream("endless", &[&endless])
        .upstream("web", &[&a])
        .start()
        .await;
    let client = proxy.http2().await;
    let mut stream = client.open(client.request("GET", "/endless"), true).await;
    let (_, mut body) = stream.head().await;
    // Read data without releasing window capacity.
    let broken = loop {
        match crate::harness::in_time("data", body.data()).await.expect("more data or an error") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(broken.reason(), Some(Reason::INTERNAL_ERROR));
    eventually("the backend connection closes", async || endless.open() == 0).await;
    proxy.metric_becomes("homing_errors_total", &[("error", "client_stalled")], 1.0).await;
    drop((stream, body));
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}

#[tokio::test]
async fn many_stalled_streams_buffer_little_and_do_not_block_others() {
    let (endless, a) = (endless().await, Backend::start("a").await);
    let proxy = Proxy::builder()
        .raw_toml(ROUTES)
        .upstream("endless", &[&endless])
        .upstream("web", &[&a])
        .start()
        .await;
    // A large connection window and default stream windows.
    let raw = RawClient::connect(proxy.addr()).await;
    let mut builder = H2Client::builder();
    builder.initial_connection_window_size(1 << 30);
    let client = H2Client::over(raw, "http://t", &builder).await;
    let mut stalled = Vec::new();
    for _ in 0..50 {
        let mut stream = client.open(client.request("GET", "/endless"), true).await;
        let (_, body) = stream.head().await;
        stalled.push((stream, body));
    }
    let sent = settles("the backend stops sending", || endless.sent()).await;
    assert!(sent < 50 * KERNEL, "{sent} bytes are buffered somewhere");
    for _ in 0..20 {
        assert_eq!(client.get("/", &[]).await.backend(), "a");
    }
    drop(stalled);
    eventually("the backend connection closes", async || endless.open() == 0).await;
}

#[tokio::test]
async fn tiny_chunks_are_joined_into_few_frames() {
    let mut response = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    response.extend(b"1\r\nx\r\n".repeat(60_000));
    response.extend(b"0\r\n\r\n");
    let a = Backend::named("a").reply_raw(response).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frames::get(1, "/")).await;
    let (mut frames, mut bytes) = (0, 0);
    loop {
        let data = raw.next_on(1, DATA).await;
        (frames, bytes) = (frames + 1, bytes + data.payload.len());
        if data.flags & frames::END_STREAM != 0 {
            break;
        }
    }
    assert_eq!(bytes, 60_000);
    assert!(frames < 600, "{frames} frames for {bytes} bytes");
}

#[tokio::test]
async fn download_to_a_slow_reader_is_complete() {
    let head = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 300000\r\n\r\n".to_vec();
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Send(head), Step::Zeros(300_000)]));
    let a = a.start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let raw = RawClient::connect_narrow(proxy.addr()).await;
    let mut builder = H2Client::builder();
    builder.initial_window_size(777).initial_connection_window_size(70_000);
    let client = H2Client::over(raw, "http://t", &builder).await;
    let mut stream = client.open(client.request("GET", "/"), true).await;
    let (_, mut body) = stream.head().await;
    assert_eq!(rest(&mut body).await.expect("a complete body").len(), 300_000);
}

#[tokio::test]
async fn upload_stalls_at_the_window_when_the_backend_does_not_read() {
    let gate = Gate::closed();
    let steps = [Step::ReadHead, Step::Pause(gate.clone()), Step::ReadBody, Step::Reply];
    let slow = Backend::named("slow").script(Script::new(steps)).start().await;
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .limits("stream_window = \"128KiB\"")
        .raw_toml("[[route]]\npath = \"/slow\"\nupstream = \"slow\"\n[[route]]\nupstream = \"web\"")
        .upstream("slow", &[&slow])
        .upstream("web", &[&a])
        .start()
        .await;
    let client = proxy.http2().await;
    let mut stream = client.open(client.request("POST", "/slow"), false).await;
    let sent = std::cell::Cell::new(0u64);
    let piece = vec![1; 16 * 1024];
    let upload = async {
        for _ in 0..2000 {
            stream.send(&piece, false).await.expect("send body");
            sent.set(sent.get() + piece.len() as u64);
        }
        stream.send(b"", true).await.expect("send body");
    };
    let others = async {
        let stalled = settles("the client stops sending", || sent.get()).await;
        assert!(stalled < KERNEL, "{stalled} bytes are buffered somewhere");
        for _ in 0..20 {
            assert_eq!(client.post("/", &piece).await.backend(), "a");
        }
        gate.open();
    };
    tokio::join!(upload, others);
    assert_eq!(stream.response().await.backend(), "slow");
    assert_eq!(slow.last().body_len, 2000 * piece.len());
}

#[tokio::test]
async fn cancelled_stalled_uploads_restore_the_connection_window() {
    // Four stalled streams use up the connection window. It is restored when they end.
    let slow = Backend::named("slow").script(Script::new([Step::ReadHead, Step::Pause(Gate::closed())]));
    let slow = slow.start().await;
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .limits("stream_window = \"64KiB\"")
        .raw_toml("[[route]]\npath = \"/slow\"\nupstream = \"slow\"\n[[route]]\nupstream = \"web\"")
        .upstream("slow", &[&slow])
        .upstream("web", &[&a])
        .start()
        .await;
    let client = proxy.http2().await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(client.open(client.request("POST", "/slow"), false).await);
    }
    // Sends as much as the window allows.
    let full = |stream: &mut crate::harness::H2Stream| {
        stream.send.reserve_capacity(1 << 20);
        let room = stream.send.capacity();
        if room > 0 {
            stream.send.send_data(vec![0; room].into(), false).expect("send");
        }
        room as u64
    };
    let mut total = 0;
    for _ in 0..200 {
        for stream in &mut streams {
            total += full(stream);
        }
        tokio::task::yield_now().await;
    }
    assert!(total > 0);
    settles("the backend stops receiving", || slow.received()).await;
    for mut stream in streams {
        stream.send.send_reset(Reason::CANCEL);
    }
    for _ in 0..10 {
        assert_eq!(client.post("/", &vec![1; 50_000]).await.backend(), "a");
    }
}

/// Asserts that what was sent so far broke no limit. Pings twice: an error may follow the first
/// ping's ACK.
async fn assert_no_error(raw: &mut RawClient) {
    for _ in 0..2 {
        raw.send(frame(frames::PING, 0, 0, b"so far..")).await;
        loop {
            let frame = raw.next_frame().await.expect("a frame");
            assert!(![RST_STREAM, frames::GOAWAY].contains(&frame.kind), "{frame:?}");
            if frame.kind == frames::PING {
                break;
            }
        }
    }
}

#[tokio::test]
async fn configured_window_is_advertised_and_enforced() {
    // Without pooled connections, the stopped backend is noticed at once.
    let start = |name| Backend::named(name).field("Connection: close").start();
    let (a, b) = (start("a").await, start("b").await);
    let proxy = Proxy::builder()
        .limits("stream_window = \"100KiB\"")
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "300s""#)
        .start()
        .await;
    let home = proxy.session("s").get("/").await.backend().to_owned();
    if home == "a" { &a } else { &b }.stop().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let settings = raw.next_of(frames::SETTINGS).await.expect("settings");
    let window = [&[0, 4][..], &(100u32 * 1024).to_be_bytes()].concat();
    assert!(settings.payload.chunks(6).any(|setting| setting == window), "{settings:?}");
    // The window is binding once acknowledged (RFC 9113 §6.5.3).
    raw.send(frame(frames::SETTINGS, frames::ACK, 0, &[])).await;
    assert_no_error(&mut raw).await;
    // The body of a held request is not read.
    let fields = [&POST[..], &[("cookie", "SID=s")]].concat();
    raw.send(frame(HEADERS, END_HEADERS, 1, &block(&fields))).await;
    raw.send(frame(DATA, 0, 1, &[0; 10 * 1024]).repeat(10)).await;
    assert_no_error(&mut raw).await;
    // More than the one buffer that Homing reads ahead to notice a disconnect.
    raw.send(frame(DATA, 0, 1, &[0; 10 * 1024]).repeat(5)).await;
    let error = loop {
        let frame = raw.next_frame().await.expect("a frame");
        if [RST_STREAM, frames::GOAWAY].contains(&frame.kind) {
            break frame.code();
        }
    };
    assert_eq!(error, u32::from(Reason::FLOW_CONTROL_ERROR));
}

#[tokio::test]
async fn tunnel_buffers_are_bounded_both_ways() {
    let steps = [Step::ReadHead, Step::Accept, Step::Zeros(1 << 30)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.websocket("/", &[]).await;
    let (head, body) = stream.head().await;
    assert_eq!(head.status, 200);
    let sent = settles("the backend stops sending", || a.sent()).await;
    assert!(sent < KERNEL, "{sent} bytes are buffered somewhere");
    // The backend does not read either: the client must stop sending too.
    let piece = vec![1; 16 * 1024];
    let taken = std::cell::Cell::new(0u64);
    let upload = async {
        while taken.get() < 4 * KERNEL {
            stream.send(&piece, false).await.expect("send body");
            taken.set(taken.get() + piece.len() as u64);
        }
    };
    let stalled = settles("the client stops sending", || taken.get());
    tokio::select! {
        () = upload => panic!("the client was never stopped"),
        stalled = stalled => assert!(stalled < KERNEL, "{stalled} bytes are buffered somewhere"),
    }
    drop((stream, body));
    eventually("the backend connection closes", async || a.open() == 0).await;
}
