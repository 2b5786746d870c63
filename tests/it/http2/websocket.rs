//! WebSocket over HTTP/2 (RFC 8441) to HTTP/1.1 backends.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use h2::Reason;

use crate::harness::frames::{self, HEADERS};
use crate::harness::http2::{exactly, rest};
use crate::harness::{Backend, H2Client, H2Stream, Proxy, Response, Script, Step, eventually};

const LONG: Duration = Duration::from_secs(60);

/// Starts a proxy in front of a backend that accepts WebSocket upgrades and echoes.
async fn echoing() -> (Backend, Proxy) {
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Accept, Step::Echo])).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    (a, proxy)
}

/// Opens a tunnel. Returns its stream and the data from the backend.
async fn open(client: &H2Client) -> (H2Stream, h2::RecvStream) {
    let mut stream = client.websocket("/chat", &[]).await;
    let (head, body) = stream.head().await;
    assert_eq!(head.status, 200, "{:?}", head.fields);
    (stream, body)
}

/// Returns what the client gets when the backend responds to an upgrade with this script.
async fn answer(script: Script) -> (Backend, Proxy, Response) {
    let a = Backend::named("a").script(script).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let reply = client.websocket("/chat", &[]).await.response().await;
    assert!(client.is_open());
    a.set(Script::reply());
    assert_eq!(client.get("/", &[]).await.backend(), "a", "the connection broke");
    (a, proxy, reply)
}

#[tokio::test]
async fn tunnel_carries_bytes_both_ways() {
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
        stream.send(message.as_bytes(), false).await.expect("send body");
        assert_eq!(exactly(&mut back, message.len()).await, message.as_bytes());
    }
    proxy.metric_becomes("homing_tunnels", &[], 1.0).await;
    stream.send.send_reset(Reason::CANCEL);
    eventually("the backend connection closes", async || a.open() == 0).await;
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_pass_both_ways_in_many_tunnels_on_one_connection() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let once = async |byte: u8| {
        let (mut stream, mut back) = open(&client).await;
        let large = vec![byte; 1_500_000];
        let (there, back) = tokio::join!(stream.send(&large, true), rest(&mut back));
        there.expect("send body");
        assert!(back.expect("an echo") == large);
    };
    tokio::join!(once(1), once(2), once(3), once(4));
    eventually("the backend connection closes", async || a.open() == 0).await;
}

#[tokio::test]
async fn every_tunnel_gets_a_new_key() {
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
async fn data_still_arrives_after_the_client_half_closes() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    stream.send(&vec![9; 200_000], true).await.expect("send body");
    assert_eq!(rest(&mut back).await.expect("a clean end of stream").len(), 200_000);
    eventually("the backend connection closes", async || a.open() == 0).await;
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
}

#[tokio::test]
async fn client_can_still_send_after_the_backend_half_closes() {
    let steps = [Step::ReadHead, Step::Accept, Step::Send(b"bye".to_vec()), Step::HalfClose];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    assert_eq!(rest(&mut back).await.expect("a clean end of stream"), b"bye");
    stream.send(b"still here", false).await.expect("send body");
    assert_eq!(a.open(), 1, "closed before the client ended");
    stream.send(b"", true).await.expect("send body");
    eventually("the backend connection closes", async || a.open() == 0).await;
}

#[tokio::test]
async fn backend_reset_ends_the_tunnel_and_not_the_connection() {
    let steps = [Step::ReadHead, Step::Accept, Step::Send(b"half".to_vec()), Step::Reset];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.websocket("/chat", &[]).await;
    // A WebSocket ends with its Close frame, so either end of the stream is fine.
    if let Ok((_, mut back)) = stream.try_head().await {
        let _ = rest(&mut back).await;
    }
    eventually("the backend connection closes", async || a.open() == 0).await;
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
    assert!(client.is_open());
}

#[tokio::test]
async fn bytes_right_after_the_101_are_not_lost() {
    let steps = [Step::ReadHead, Step::Accept, Step::Send(b"first words".to_vec()), Step::Echo];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.websocket("/chat", &[]).await;
    // Sent before the tunnel is open.
    stream.send(b"eager", false).await.expect("send body");
    let (_, mut back) = stream.head().await;
    assert_eq!(exactly(&mut back, 16).await, b"first wordseager");
}

#[tokio::test]
async fn refused_upgrade_keeps_its_status_and_body() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nnope";
    let (_a, proxy, reply) = answer(Script::new([Step::ReadHead, Step::Send(refusal.into())])).await;
    assert_eq!((reply.status, reply.text().as_str()), (403, "nope"));
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
}

#[tokio::test]
async fn ordinary_200_to_an_upgrade_is_502() {
    let usual = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\npage";
    for last in [Step::Close, Step::Hang] {
        let script = Script::new([Step::ReadHead, Step::Send(usual.into()), last]);
        let (_a, proxy, reply) = answer(script).await;
        assert_eq!(reply.status, 502);
        assert!(!reply.text().contains("page"));
        proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
        // The response sent to the client is what counts.
        proxy.metric_becomes("homing_responses_total", &[("class", "5xx")], 1.0).await;
        proxy.metric_becomes("homing_errors_total", &[("error", "no_upgrade")], 1.0).await;
    }
}

#[tokio::test]
async fn missing_or_wrong_websocket_accept_is_502() {
    let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    for accept in ["", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "Sec-WebSocket-Accept:\r\n"]
    {
        let script =
            Script::new([Step::ReadHead, Step::Send(format!("{head}{accept}\r\nbytes").into()), Step::Hang]);
        let (a, proxy, reply) = answer(script).await;
        assert_eq!(reply.status, 502);
        assert!(!reply.text().contains("bytes"));
        eventually("the backend connection closes", async || a.abandoned() == 1).await;
        proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
        // The response sent to the client is what counts.
        proxy.metric_becomes("homing_responses_total", &[("class", "5xx")], 1.0).await;
        proxy.metric_becomes("homing_errors_total", &[("error", "no_upgrade")], 1.0).await;
    }
}

#[tokio::test]
async fn connect_for_anything_but_websocket_is_501() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    // This request waits until extended CONNECT is enabled.
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
async fn settings_enable_extended_connect() {
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
async fn tunnel_goes_to_the_backend_of_its_session() {
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
        assert_eq!(head.status, 200, "not sent to the session's home");
        stream.send(b"hi", true).await.expect("send body");
        assert_eq!(rest(&mut back).await.expect("an echo"), b"hi");
    }
}

#[tokio::test]
async fn reload_does_not_close_tunnels() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    let b = Backend::start("b").await;
    proxy.reload(&Proxy::builder().upstream("web", &[&a, &b])).await;
    stream.send(b"still there", false).await.expect("send body");
    assert_eq!(exactly(&mut back, 11).await, b"still there");
}

/// A text frame, unmasked.
fn text(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(text.len()).expect("short")];
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnel_gets_a_close_frame_before_the_grace_period_ends() {
    let (a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    stream.send(&text("hello"), false).await.expect("send body");
    assert_eq!(exactly(&mut back, 7).await, text("hello"));
    let received = a.received();
    let ending = proxy.shutting_down(Duration::from_millis(1300));
    assert_eq!(exactly(&mut back, 4).await, [0x88, 2, 0x03, 0xE9], "not a Close frame with code 1001");
    assert_eq!(rest(&mut back).await.expect("a clean end of stream"), b"");
    // May or may not arrive before the connection closes.
    let _ = stream.send(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE9], true).await;
    drop((stream, back));
    client.ended().await.expect("a clean end of the connection");
    assert!(ending.await.expect("shutdown"), "the grace period expired");
    eventually("the backend gets a masked Close frame", async || a.received() == received + 8).await;
    eventually("the backend connection closes", async || a.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_completes_once_tunnels_have_ended() {
    let (_a, proxy) = echoing().await;
    let client = proxy.http2().await;
    let (mut stream, mut back) = open(&client).await;
    let ending = proxy.shutting_down(LONG);
    stream.send(b"while it drains", false).await.expect("send body");
    assert_eq!(exactly(&mut back, 15).await, b"while it drains");
    stream.send(b"", true).await.expect("send body");
    assert_eq!(rest(&mut back).await.expect("a clean end of stream"), b"");
    drop((stream, back));
    client.ended().await.expect("a clean end of the connection");
    assert!(ending.await.expect("shutdown"), "the grace period expired");
}

#[tokio::test]
async fn idle_tunnel_is_closed_and_its_connection_is_not() {
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Accept, Step::Echo])).start().await;
    let proxy = Proxy::builder().timeouts("tunnel_idle = \"150ms\"").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let (_stream, mut back) = open(&client).await;
    let _ = rest(&mut back).await;
    eventually("the backend connection closes", async || a.open() == 0).await;
    a.set(Script::reply());
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}
