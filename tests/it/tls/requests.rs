//! Requests, tunnels and shutdown over TLS.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{ask, secure};
use crate::harness::{Backend, Proxy, RawClient, Script, Step, TlsSetup, eventually, server_config, settles};
use crate::tunnel::UPGRADE;

#[tokio::test]
async fn large_bodies_pass_both_ways_even_to_slow_readers() {
    const SIZE: usize = 5_000_000;
    let tls = TlsSetup::new(&["shop.test"]);
    let inside = server_config(&tls.authority.server(&["127.0.0.1"]), None);
    let a = Backend::named("a").tls(&inside).start().await;
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let proxy = secure(&tls.keys(), &a).lines(&format!("tls = {{ ca = \"{ca}\" }}")).start().await;
    let client = tls.client();

    let body: Vec<u8> = (0..=250).cycle().take(SIZE).collect();
    let mut up = client.connect(proxy.addr(), "shop.test").await;
    let head = format!("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {SIZE}\r\n\r\n");
    up.send([head.as_bytes(), &body].concat()).await;
    assert_eq!(up.response().await.backend(), "a");
    let seen = a.last();
    assert_eq!(seen.body_len, SIZE);
    assert!(seen.body[..] == body[..seen.body.len()]);

    let head = format!("HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: {SIZE}\r\n\r\n");
    a.set(Script::new([Step::ReadHead, Step::Send([head.as_bytes(), &body].concat())]));
    let mut down = client.connect(proxy.addr(), "shop.test").await;
    assert!(ask(&mut down, "shop.test").await.body == body);

    // Start reading once every buffer between the client and the backend is full.
    let head = format!("HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: {}\r\n\r\n", 4 * SIZE);
    a.set(Script::new([Step::ReadHead, Step::Send(head.into()), Step::Zeros(4 * SIZE)]));
    down.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let sent = settles("the backend stops sending", || a.sent()).await;
    assert!(sent > 0 && sent < 4 * SIZE as u64, "{sent}");
    down.head().await;
    down.discard(4 * SIZE).await;
    a.set(Script::reply());
    assert_eq!(ask(&mut down, "shop.test").await.backend(), "a", "response to another request");
}

#[tokio::test]
async fn tunnels_work_over_tls_on_both_sides() {
    let tls = TlsSetup::new(&["t"]);
    let inside = server_config(&tls.authority.server(&["127.0.0.1"]), None);
    let a = Backend::named("a").tls(&inside).upgrade_echo("hello").start().await;
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let proxy = secure(&tls.keys(), &a).lines(&format!("tls = {{ ca = \"{ca}\" }}")).start().await;
    let mut raw = tls.client().connect(proxy.addr(), "t").await;
    raw.send(format!("{UPGRADE}eager")).await;
    assert_eq!(raw.head().await.status, 101);
    assert_eq!(raw.exactly(10).await, b"helloeager");
    for size in [1, 100, 20_000, 300_000] {
        let message = vec![7; size];
        raw.send(&message).await;
        assert_eq!(raw.exactly(size).await, message);
    }
    raw.half_close().await;
    raw.assert_closed().await;
    eventually("the backend connection closes", async || a.open() == 0).await;
}

#[tokio::test]
async fn affinity_cookie_is_secure_over_tls() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = secure(&tls.keys(), &a)
        .listener("127.0.0.1:0")
        .affinity(r#"key = [], remember = "cookie", cookie = { name = "homing", on_cacheable = "set" }"#)
        .start()
        .await;
    let mut raw = tls.client().connect(proxy.addr(), "shop.test").await;
    let cookie = ask(&mut raw, "shop.test").await;
    let cookie = cookie.field("set-cookie").expect("a cookie");
    assert!(cookie.contains("; Secure"), "{cookie}");
    let mut plain = RawClient::connect(proxy.addresses()[1]).await;
    let cookie = ask(&mut plain, "shop.test").await;
    let cookie = cookie.field("set-cookie").expect("a cookie");
    assert!(!cookie.contains("Secure"), "{cookie}");
}

#[tokio::test]
async fn plain_requests_are_redirected_unless_they_arrived_over_https() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .listener_line("redirect_https = true")
        .listener("127.0.0.1:0")
        .listener_line("redirect_https = 8443")
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.2\"]")
        .upstream("web", &[&a])
        .start()
        .await;
    let mut raw = proxy.raw().await;
    let to = async |raw: &mut RawClient, request: &str| {
        raw.send(request).await;
        let response = raw.response_to(request.split(' ').next().unwrap()).await;
        (response.status, response.field("location").unwrap_or_default().to_owned())
    };
    let get = "GET /a?b=c HTTP/1.1\r\nHost: Shop.test:8080\r\n\r\n";
    assert_eq!(to(&mut raw, get).await, (301, "https://Shop.test/a?b=c".into()));
    assert_eq!(to(&mut raw, &get.replace("GET", "HEAD")).await, (301, "https://Shop.test/a?b=c".into()));
    let put = get.replace("GET", "PUT");
    assert_eq!(to(&mut raw, &put).await, (308, "https://Shop.test/a?b=c".into()), "on a reused connection");
    let absolute = "GET http://[::1]:80/x HTTP/1.1\r\nHost: [::1]:80\r\n\r\n";
    let mut other = RawClient::connect(proxy.addresses()[1]).await;
    assert_eq!(to(&mut other, absolute).await, (301, "https://[::1]:8443/x".into()));
    assert_eq!(a.requests(), 0);
    let mut trusted = RawClient::connect_from([127, 0, 0, 2].into(), proxy.addr()).await;
    let came_over_https = get.replace("\r\n\r\n", "\r\nX-Forwarded-Proto: https\r\n\r\n");
    assert_eq!(to(&mut trusted, &came_over_https).await.0, 200);
    assert_eq!(to(&mut raw, &came_over_https).await.0, 301, "a header from an untrusted peer was believed");
}

#[tokio::test]
async fn shutdown_closes_tls_connections_cleanly() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = secure(&tls.keys(), &a).start().await;
    let mut idle = tls.client().connect(proxy.addr(), "shop.test").await;
    ask(&mut idle, "shop.test").await;
    // A client in the middle of its handshake.
    let mut half = TcpStream::connect(proxy.addr()).await.unwrap();
    half.write_all(&[22, 3, 1]).await.unwrap();
    assert!(proxy.shutdown(Duration::from_secs(9)).await, "a stalled handshake delayed the shutdown");
    idle.read_to_any_end().await;
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest).await;
}
