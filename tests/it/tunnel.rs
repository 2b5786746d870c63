//! WebSocket upgrades and tunnels, to the end of each direction.

use crate::harness::{Backend, Gate, Proxy, RawClient, Response, Script, Step, eventually, in_front_of};

pub(crate) const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: t\r\nConnection: keep-alive, Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// The response that turns a connection into a tunnel.
pub(crate) const SWITCHED: &[u8] = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Opens a tunnel with `behind` sent right after the request; returns it with the 101.
pub(crate) async fn open(proxy: &Proxy, behind: &str) -> (RawClient, Response) {
    let mut raw = proxy.raw().await;
    raw.send(format!("{UPGRADE}{behind}")).await;
    let response = raw.head().await;
    assert_eq!(response.status, 101, "{:?}", response.fields);
    (raw, response)
}

#[tokio::test]
async fn tunnel_carries_bytes_both_ways() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let (mut raw, response) = open(&proxy, "").await;
    assert_eq!(response.field("connection"), Some("upgrade"));
    assert_eq!(response.field("upgrade"), Some("websocket"));
    assert_eq!(response.field("sec-websocket-accept"), Some("x"));
    let seen = a.last();
    assert_eq!(seen.field("connection"), Some("upgrade"));
    assert_eq!(seen.field("upgrade"), Some("websocket"));
    assert_eq!(seen.field("sec-websocket-version"), Some("13"));
    for n in 0..100u32 {
        let message = format!("message {n}");
        raw.send(&message).await;
        assert_eq!(raw.exactly(message.len()).await, message.as_bytes());
    }
    let large = vec![7; 300_000];
    raw.send(&large).await;
    assert_eq!(raw.exactly(large.len()).await, large);
    proxy.metric_becomes("homing_tunnels", &[], 1.0).await;
    drop(raw);
    eventually("the backend connection is closed", async || a.open() == 0).await;
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
}

#[tokio::test]
async fn bytes_right_after_the_upgrade_and_the_101_are_not_lost() {
    let a = Backend::named("a").upgrade_echo("first words").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let (mut raw, _) = open(&proxy, "eager").await;
    assert_eq!(raw.exactly(16).await, b"first wordseager");
}

#[tokio::test]
async fn client_half_close_lets_the_backend_finish() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let (mut raw, _) = open(&proxy, "").await;
    let large = vec![9; 200_000];
    raw.send(&large).await;
    raw.half_close().await;
    assert_eq!(raw.read_to_end().await, large);
    eventually("the backend connection is closed", async || a.open() == 0).await;
}

#[tokio::test]
async fn backend_half_close_lets_the_client_continue() {
    let steps = [Step::ReadHead, Step::Send([SWITCHED, b"bye"].concat()), Step::HalfClose];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let (mut raw, _) = open(&proxy, "").await;
    assert_eq!(raw.read_to_end().await, b"bye");
    assert!(raw.try_send("still here").await);
    assert_eq!(a.open(), 1, "the backend connection must stay open");
    drop(raw);
    eventually("the backend connection is closed", async || a.open() == 0).await;
}

#[tokio::test]
async fn rejected_upgrade_is_an_ordinary_response() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE).await;
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
}

#[tokio::test]
async fn unsolicited_101_is_502() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.get("/", &[]).await.assert_own(502, "unasked_upgrade");
    let h2c = ["Connection: Upgrade", "Upgrade: h2c"];
    raw.get("/", &h2c).await.assert_own(502, "unasked_upgrade");
}

#[tokio::test]
async fn tunnel_goes_to_its_sessions_backend_and_ends_with_it() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let mut client = proxy.session("ws");
    let home = client.get("/").await.backend().to_owned();
    let (home, other) = if home == "a" { (&a, &b) } else { (&b, &a) };
    let before = other.connections();
    home.set(Script::new([Step::ReadHead, Step::Send(SWITCHED.to_vec()), Step::Echo]));
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE.replace("Host: t\r\n", "Host: t\r\nCookie: SID=ws\r\n")).await;
    assert_eq!(raw.head().await.status, 101);
    assert_eq!(other.connections(), before);
    home.stop().await;
    raw.read_to_any_end().await;
}

#[tokio::test]
async fn idle_tunnel_is_closed() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = Proxy::builder().timeouts("tunnel_idle = \"150ms\"").upstream("web", &[&a]).start().await;
    let (mut raw, _) = open(&proxy, "").await;
    raw.send("x").await;
    assert_eq!(raw.exactly(1).await, b"x");
    raw.read_to_end().await;
    eventually("the backend connection is closed", async || a.open() == 0).await;
}

#[tokio::test]
async fn upgrade_before_the_end_of_the_request_is_502() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE.replace("Host: t\r\n", "Host: t\r\nContent-Length: 9\r\n")).await;
    raw.response().await.assert_own(502, "unasked_upgrade");
    raw.assert_closed().await;
}

#[tokio::test]
async fn bytes_sent_before_a_tunnel_breaks_arrive() {
    const LENGTH: usize = 60_000;
    let gate = Gate::closed();
    for last in [Step::Close, Step::Reset] {
        let steps = [
            Step::ReadHead,
            Step::Send(SWITCHED.to_vec()),
            Step::Zeros(LENGTH),
            Step::Pause(gate.clone()),
            last,
        ];
        let a = Backend::named("a").script(Script::new(steps)).start().await;
        let proxy = in_front_of(&a).start().await;
        let mut raw = RawClient::connect_narrow(proxy.addr()).await;
        raw.send(UPGRADE).await;
        eventually("the proxy has all bytes", async || a.sent() >= LENGTH as u64).await;
        // The backend never reads this, so that its close resets the connection.
        raw.send("unread").await;
        assert_eq!(raw.head().await.status, 101);
        assert_eq!(raw.exactly(10_000).await.len(), 10_000);
        gate.open();
        eventually("the backend connection is closed", async || a.open() == 0).await;
        raw.discard(LENGTH - 10_000).await;
        raw.read_to_any_end().await;
    }
}
