//! WebSocket over HTTP/2 (RFC 8441), to backends that know it of HTTP/1.1.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use h2::Reason;

use crate::harness::frames::{self, HEADERS};
use crate::harness::http2::{exactly, rest};
use crate::harness::{Backend, H2Client, H2Stream, Proxy, Response, Script, Step, eventually};

const LONG: Duration = Duration::from_secs(60);

/// A proxy before a backend that speaks WebSocket as far as an echo goes.
async fn echoing() -> (Backend, Proxy) {
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Accept, Step::Echo])).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    (a, proxy)
}

/// An open tunnel: its stream and what comes back.
async fn open(client: &H2Client) -> (H2Stream, h2::RecvStream) {
    let mut stream = client.websocket("/chat", &[]).await;
    let (head, body) = stream.head().await;
    assert_eq!(head.status, 200, "{:?}", head.fields);
    (stream, body)
}

/// What the backend answers to an upgrade.
async fn answer(script: Script) -> (Backend, Proxy, Response) {
    let a = Backend::named("a").script(script).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let reply = client.websocket("/chat", &[]).await.response().await;
    assert!(client.is_open());
    a.set(Script::reply());
    assert_eq!(client.get("/", &[]).await.backend(), "a", "the connection goes on");
    (a, proxy, reply)
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let mut stream =
        client.websocket("/chat?room=1", &[("origin", "https://t"), ("sec-websocket-protocol", "x")]).await;
    let (head, mut back) = stream.head().await;
    assert_eq!(head.status, 200);
    let seen = a.last();
    assert_eq!(seen.line, "GET /chat?room=1 HTTP/1.1");
    for (name, value) in [
        ("host", "t"),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "x"),
        ("origin", "https://t"),
    ] {
        assert_eq!(seen.field(name), Some(value), "{name}");
    }
    let key = BASE64_STANDARD.decode(seen.field("sec-websocket-key").expect("a key")).expect("base64");
    assert_eq!(key.len(), 16);
    assert!(!seen.fields.has("content-length") && !seen.fields.has("transfer-encoding"));
    for n in 0..100u32 {
        let message = format!("message {n}");
        stream.send(message.as_bytes(), false).await.expect("room");
        assert_eq!(exactly(&mut back, message.len()).await, message.as_bytes());
    }
    proxy.metric_becomes("homing_tunnels", &[], 1.0).await;
    stream.send.send_reset(Reason::CANCEL);
    eventually("the backend is let go", async || a.open() == 0).await;
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_go_both_ways_in_many_tunnels_of_one_connection() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let once = async |byte: u8| {
        let (mut stream, mut back) = open(&client).await;
        let large = vec![byte; 1_500_000];
        let (there, back) = tokio::join!(stream.send(&large, true), rest(&mut back));
        there.expect("all was taken");
        assert!(back.expect("an echo") == large);
    };
    tokio::join!(once(1), once(2), once(3), once(4));
    eventually("the backend is let go", async || a.open() == 0).await;
}

#[tokio::test]
async fn keys_are_new_for_every_tunnel() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let mut keys = std::collections::HashSet::new();
    for _ in 0..10 {
        let opened = open(&client).await;
        assert!(keys.insert(a.last().field("sec-websocket-key").expect("a key").to_owned()));
        drop(opened);
    }
}

#[tokio::test]
async fn half_close_of_the_client_lets_the_rest_come_back() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    stream.send(&vec![9; 200_000], true).await.expect("room");
    assert_eq!(rest(&mut back).await.expect("the end, properly").len(), 200_000);
    eventually("the backend is let go", async || a.open() == 0).await;
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
}

#[tokio::test]
async fn half_close_of_the_backend_lets_the_client_go_on() {
    let steps = [Step::ReadHead, Step::Accept, Step::Send(b"bye".to_vec()), Step::HalfClose];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    assert_eq!(rest(&mut back).await.expect("the end, properly"), b"bye");
    stream.send(b"still here", false).await.expect("room");
    assert_eq!(a.open(), 1, "the client has not ended yet");
    stream.send(b"", true).await.expect("room");
    eventually("the backend is let go", async || a.open() == 0).await;
}

#[tokio::test]
async fn a_backend_that_breaks_a_tunnel_does_not_look_like_its_end() {
    let steps = [Step::ReadHead, Step::Accept, Step::Send(b"half".to_vec()), Step::Reset];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.websocket("/chat", &[]).await;
    // The end of a WebSocket is its Close frame: what matters is that it ends.
    if let Ok((_, mut back)) = stream.try_head().await {
        let _ = rest(&mut back).await;
    }
    eventually("the backend is let go", async || a.open() == 0).await;
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
    assert!(client.is_open());
}

#[tokio::test]
async fn bytes_right_behind_the_101_are_not_lost() {
    let steps = [Step::ReadHead, Step::Accept, Step::Send(b"first words".to_vec()), Step::Echo];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.websocket("/chat", &[]).await;
    // Sent before there is a tunnel.
    stream.send(b"eager", false).await.expect("room");
    let (_, mut back) = stream.head().await;
    assert_eq!(exactly(&mut back, 16).await, b"first wordseager");
}

#[tokio::test]
async fn a_refusal_passes_with_its_status_and_body() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nnope";
    let (_a, proxy, reply) = answer(Script::new([Step::ReadHead, Step::Send(refusal.into())])).await;
    assert_eq!((reply.status, reply.text().as_str()), (403, "nope"));
    assert_eq!(proxy.metric("homing_tunnels", &[]), 0.0);
}

#[tokio::test]
async fn a_backend_that_takes_it_for_a_usual_request_is_a_502() {
    let usual = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\npage";
    for last in [Step::Close, Step::Hang] {
        let script = Script::new([Step::ReadHead, Step::Send(usual.into()), last]);
        let (_a, proxy, reply) = answer(script).await;
        assert_eq!(reply.status, 502);
        assert!(!reply.text().contains("page"));
        proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
        // Counted as what the client was told.
        proxy.metric_becomes("homing_responses_total", &[("class", "5xx")], 1.0).await;
        proxy.metric_becomes("homing_errors_total", &[("error", "no_upgrade")], 1.0).await;
    }
}

#[tokio::test]
async fn a_backend_that_does_not_prove_that_it_speaks_websocket_is_a_502() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for accept in ["", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "Sec-WebSocket-Accept:\r\n"]
    {
        let script =
            Script::new([Step::ReadHead, Step::Send(format!("{head}{accept}\r\nbytes").into()), Step::Hang]);
        let (a, proxy, reply) = answer(script).await;
        assert_eq!(reply.status, 502);
        assert!(!reply.text().contains("bytes"));
        eventually("the backend is let go", async || a.abandoned() == 1).await;
        proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
        // Counted as what the client was told.
        proxy.metric_becomes("homing_responses_total", &[("class", "5xx")], 1.0).await;
        proxy.metric_becomes("homing_errors_total", &[("error", "no_upgrade")], 1.0).await;
    }
}

#[tokio::test]
async fn tunnels_that_are_no_websocket_are_not_there() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    // Once this is asked, WebSockets are offered.
    assert_eq!(client.websocket("/", &[]).await.response().await.status, 502);
    let before = a.requests();
    for protocol in ["connect-udp", "WebSocket2", "h2c", "bytestream"] {
        let request = client.request("CONNECT", "/chat").extension(h2::ext::Protocol::from(protocol));
        assert_eq!(client.open(request, false).await.response().await.status, 501, "{protocol}");
    }
    let plain = http::Request::builder().method("CONNECT").uri("t:443");
    assert_eq!(client.open(plain, false).await.response().await.status, 501);
    assert_eq!(a.requests(), before);
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}

#[tokio::test]
async fn websocket_is_announced_in_the_settings() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let settings = raw.next_of(frames::SETTINGS).await.expect("settings");
    assert!(settings.payload.chunks(6).any(|setting| setting == [0, 8, 0, 0, 0, 1]), "{settings:?}");
    raw.send(frames::get(1, "/")).await;
    raw.next_on(1, HEADERS).await;
}

#[tokio::test]
async fn a_tunnel_goes_where_its_session_is() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let client = proxy.http2().await;
    for n in 0..8 {
        for backend in [&a, &b] {
            backend.set(Script::reply());
        }
        let sid = format!("SID=s{n}");
        let home = client.get("/", &[("cookie", &sid)]).await.backend().to_owned();
        let home = if home == "a" { &a } else { &b };
        home.set(Script::new([Step::ReadHead, Step::Accept, Step::Echo]));
        let mut stream = client.websocket("/chat", &[("cookie", "x=y"), ("cookie", &sid)]).await;
        let (head, mut back) = stream.head().await;
        assert_eq!(head.status, 200, "the other would not have");
        stream.send(b"hi", true).await.expect("room");
        assert_eq!(rest(&mut back).await.expect("an echo"), b"hi");
    }
}

#[tokio::test]
async fn a_reload_does_not_cut_a_tunnel() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    let b = Backend::start("b").await;
    proxy.reload(&Proxy::builder().upstream("web", &[&a, &b])).await;
    stream.send(b"still there", false).await.expect("room");
    assert_eq!(exactly(&mut back, 11).await, b"still there");
}

/// A text frame, unmasked.
fn text(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(text.len()).expect("short")];
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_is_told_before_the_end() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    stream.send(&text("hello"), false).await.expect("room");
    assert_eq!(exactly(&mut back, 7).await, text("hello"));
    let received = a.received();
    let ending = proxy.shutting_down(Duration::from_millis(1300));
    assert_eq!(exactly(&mut back, 4).await, [0x88, 2, 0x03, 0xE9], "Close, 1001 going away");
    assert_eq!(rest(&mut back).await.expect("the end, properly"), b"");
    // Whether or not this is still heard.
    let _ = stream.send(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE9], true).await;
    drop((stream, back));
    client.ended().await.expect("no error");
    assert!(ending.await.expect("the shutdown"), "it ended by itself");
    eventually("the backend has its Close, masked", async || a.received() == received + 8).await;
    eventually("the backend is let go", async || a.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_that_end_in_time_let_the_proxy_end_by_itself() {
    let (_a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    let ending = proxy.shutting_down(LONG);
    stream.send(b"while it drains", false).await.expect("room");
    assert_eq!(exactly(&mut back, 15).await, b"while it drains");
    stream.send(b"", true).await.expect("room");
    assert_eq!(rest(&mut back).await.expect("the end, properly"), b"");
    drop((stream, back));
    client.ended().await.expect("no error");
    assert!(ending.await.expect("the shutdown"), "it ended by itself");
}

#[tokio::test]
async fn an_idle_tunnel_ends_and_its_connection_does_not() {
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Accept, Step::Echo])).start().await;
    let proxy = Proxy::builder().timeouts("tunnel_idle = \"150ms\"").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let (_stream, mut back) = open(&client).await;
    let _ = rest(&mut back).await;
    eventually("the backend is let go", async || a.open() == 0).await;
    a.set(Script::reply());
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}
