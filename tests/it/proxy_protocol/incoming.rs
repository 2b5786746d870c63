//! PROXY headers from clients, which are usually load balancers.

use crate::harness::{Backend, Proxy, ProxyBuilder, RawClient, TlsSetup, eventually};

const REFUSED: &str = "homing_proxy_headers_refused_total";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Returns a proxy that trusts 127.0.0.0/8.
fn proxy_with(mode: &str, a: &Backend) -> ProxyBuilder {
    Proxy::builder()
        .workers(1)
        .listener_line(&format!("proxy_protocol = \"{mode}\""))
        .upstream("web", &[a])
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]")
}

/// Encodes a version 2 header with this command, family and address block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// From 198.51.100.7:4321 to 203.0.113.1:443.
const ADDRESSES: &[u8] = &[198, 51, 100, 7, 203, 0, 113, 1, 0x10, 0xe1, 0x01, 0xbb];

async fn forwarded_for(client: &mut RawClient, a: &Backend) -> String {
    client.get("/", &[]).await.assert_from("a");
    a.last().field("x-forwarded-for").expect("a client").to_owned()
}

/// Waits until this many connections were refused for this reason.
async fn refused_becomes(proxy: &Proxy, reason: &str, count: f64) {
    #[expect(clippy::float_cmp, reason = "whole numbers")]
    eventually(format!("{count} refused: {reason}"), async || {
        proxy.metric(REFUSED, &[("reason", reason)]) == count
    })
    .await;
}

#[tokio::test]
async fn client_address_is_the_one_in_the_header() {
    let a = Backend::start("a").await;
    let proxy = proxy_with("required", &a).start().await;
    let mut long = ADDRESSES.to_vec();
    // PP2_TYPE_NOOP with 1 KiB: more than the first read looks at.
    long.extend_from_slice(&[4, 0x04, 0x00]);
    long.extend_from_slice(&[b'x'; 1024]);
    let mut six = [0; 36];
    (six[0], six[1], six[15]) = (0x20, 0x01, 9);
    for (header, client) in [
        (b"PROXY TCP4 198.51.100.7 203.0.113.1 4321 443\r\n".to_vec(), "198.51.100.7"),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 4321 443\r\n".to_vec(), "2001:db8::9"),
        (b"PROXY TCP6 ::ffff:198.51.100.8 ::1 4321 443\r\n".to_vec(), "198.51.100.8"),
        (v2(0x21, 0x11, ADDRESSES), "198.51.100.7"),
        (v2(0x21, 0x11, &long), "198.51.100.7"),
        (v2(0x21, 0x21, &six), "2001::9"),
        // LOCAL, or no address: the socket's address is used.
        (v2(0x20, 0x00, b""), "127.0.0.1"),
        (v2(0x20, 0x11, ADDRESSES), "127.0.0.1"),
        (v2(0x21, 0x00, b""), "127.0.0.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN ffff:f...f:ffff 65535 65535\r\n".to_vec(), "127.0.0.1"),
    ] {
        let what = header.escape_ascii().to_string();
        // In one piece with the request, and byte by byte.
        let mut at_once = proxy.raw().await;
        at_once.send([&header[..], b"GET /1 HTTP/1.1\r\nHost: test\r\n\r\n"].concat()).await;
        at_once.response().await.assert_from("a");
        assert_eq!(a.last().field("x-forwarded-for"), Some(client), "{what}");
        // The header applies to the whole connection.
        assert_eq!(forwarded_for(&mut at_once, &a).await, client, "{what}");

        let mut dripping = proxy.raw().await;
        for byte in header.chunks(if header.len() > 200 { 100 } else { 1 }) {
            dripping.send(byte).await;
        }
        assert_eq!(forwarded_for(&mut dripping, &a).await, client, "{what}");
    }
    assert!(!proxy.metrics().contains("homing_proxy_headers_refused_total{"));
}

#[tokio::test]
async fn missing_or_malformed_header_closes_the_connection() {
    let a = Backend::start("a").await;
    let proxy = proxy_with("required", &a).start().await;
    let request = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    for (bytes, reason) in [
        (&b""[..], "missing"),
        (b"PROXY TCP4 198.51.100.7 203.0.113.1 4321 99999\r\n", "malformed"),
        (b"PROXY TCP4 198.51.100.007 203.0.113.1 4321 443\r\n", "malformed"),
        (b"PROXY TCP4 198.51.100.7 203.0.113.1 4321 443\n", "malformed"),
        (b"proxy TCP4 198.51.100.7 203.0.113.1 4321 443\r\n", "missing"),
        (b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c", "malformed"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", "malformed"),
    ] {
        let before = proxy.metric(REFUSED, &[("reason", reason)]);
        let mut client = proxy.raw().await;
        client.try_send([bytes, request].concat()).await;
        assert_eq!(client.read_to_any_end().await, b"", "{}", bytes.escape_ascii());
        refused_becomes(&proxy, reason, before + 1.0).await;
    }
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn incomplete_header_times_out() {
    let a = Backend::start("a").await;
    let proxy = proxy_with("required", &a).timeouts("proxy_protocol = \"200ms\"").start().await;
    for bytes in [&b""[..], b"PROXY TCP4 198.51.100.7 ", &v2(0x21, 0x11, ADDRESSES)[..20]] {
        let mut client = proxy.raw().await;
        client.send(bytes).await;
        assert_eq!(client.read_to_any_end().await, b"");
    }
    refused_becomes(&proxy, "timeout", 3.0).await;
    let mut gone = proxy.raw().await;
    gone.half_close().await;
    gone.assert_closed().await;
    refused_becomes(&proxy, "unused", 1.0).await;
}

#[tokio::test]
async fn optional_accepts_connections_with_and_without_a_header() {
    let a = Backend::start("a").await;
    let proxy = proxy_with("optional", &a).start().await;
    assert_eq!(forwarded_for(&mut proxy.raw().await, &a).await, "127.0.0.1");
    // These start like a PROXY header but are HTTP.
    for method in ["P", "PROPFIND"] {
        let mut client = proxy.raw().await;
        client.send(format!("{method} / HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let answered = client.response().await;
        assert_eq!(answered.status, 200, "{method}");
    }
    let mut empty_lines_first = proxy.raw().await;
    empty_lines_first.send("\r\n\r\n").await;
    assert_eq!(forwarded_for(&mut empty_lines_first, &a).await, "127.0.0.1");
    let mut client = proxy.raw().await;
    client.send("PROXY TCP4 198.51.100.7 203.0.113.1 4321 443\r\n").await;
    assert_eq!(forwarded_for(&mut client, &a).await, "198.51.100.7");
}

#[tokio::test]
async fn headers_from_untrusted_peers_are_rejected() {
    let a = Backend::start("a").await;
    let builder = |mode: &str| {
        Proxy::builder()
            .workers(1)
            .listener_line(&format!("proxy_protocol = \"{mode}\""))
            .upstream("web", &[&a])
            .raw_toml("[client_ip]\ntrusted = [\"127.0.0.2\"]")
    };
    let header = "PROXY TCP4 198.51.100.7 203.0.113.1 4321 443\r\n";
    let request = format!("{header}GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let required = builder("required").start().await;
    let mut client = required.raw().await;
    client.try_send(&request).await;
    assert_eq!(client.read_to_any_end().await, b"");
    refused_becomes(&required, "untrusted", 1.0).await;
    let mut trusted = RawClient::connect_from("127.0.0.2".parse().unwrap(), required.addr()).await;
    trusted.send(header).await;
    assert_eq!(forwarded_for(&mut trusted, &a).await, "198.51.100.7");

    // From an untrusted peer, an optional header is parsed as HTTP, and invalid.
    let optional = builder("optional").start().await;
    let mut client = optional.raw().await;
    client.send(&request).await;
    client.response().await.assert_own(400, "");
    assert_eq!(forwarded_for(&mut optional.raw().await, &a).await, "127.0.0.1");
    let off = proxy_with("off", &a).start().await;
    let mut client = off.raw().await;
    client.send(&request).await;
    client.response().await.assert_own(400, "");
}

#[tokio::test]
async fn forwarded_for_is_believed_only_if_the_header_names_a_trusted_proxy() {
    let a = Backend::start("a").await;
    let proxy = proxy_with("required", &a)
        .raw_toml("[access_log]\nformat = \"off\"")
        .affinity("key = [\"ip\"], remember = \"none\"")
        .start()
        .await;
    let mut client = proxy.raw().await;
    client.send("PROXY TCP4 198.51.100.7 203.0.113.1 4321 443\r\n").await;
    client.get("/", &["X-Forwarded-For: 192.0.2.1"]).await.assert_from("a");
    assert_eq!(
        a.last().field("x-forwarded-for"),
        Some("198.51.100.7"),
        "an untrusted client's X-Forwarded-For was believed"
    );
    // The header names another trusted proxy.
    let mut client = proxy.raw().await;
    client.send("PROXY TCP4 127.0.0.9 203.0.113.1 4321 443\r\n").await;
    client.get("/", &["X-Forwarded-For: 192.0.2.1"]).await.assert_from("a");
    assert_eq!(a.last().field("x-forwarded-for"), Some("192.0.2.1, 127.0.0.9"));
}

#[tokio::test]
async fn key_ip_uses_the_address_in_the_header() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .listener_line("proxy_protocol = \"required\"")
        .upstream("web", &[&a, &b])
        .affinity("key = [\"ip\"], remember = \"table\"")
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]")
        .start()
        .await;
    let mut served = Vec::new();
    for n in 0..32 {
        let mut by = Vec::new();
        for port in [1000, 2000] {
            let mut client = proxy.raw().await;
            client.send(format!("PROXY TCP4 198.51.100.{n} 203.0.113.1 {port} 443\r\n")).await;
            by.push(client.get("/", &[]).await.backend().to_owned());
        }
        assert_eq!(by[0], by[1], "one client went to two backends");
        served.extend(by);
    }
    served.sort();
    served.dedup();
    assert_eq!(served, ["a", "b"]);
}

#[tokio::test]
async fn header_comes_before_tls() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = proxy_with("required", &a).tls(&tls.keys()).start().await;
    let mut socket = tokio::net::TcpStream::connect(proxy.addr()).await.unwrap();
    let header = v2(0x21, 0x11, ADDRESSES);
    tokio::io::AsyncWriteExt::write_all(&mut socket, &header).await.unwrap();
    let mut client = tls.client().try_handshake(socket, "shop.test").await.unwrap();
    client.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    client.response().await.assert_from("a");
    assert_eq!(a.last().field("x-forwarded-for"), Some("198.51.100.7"));
    assert_eq!(a.last().field("x-forwarded-proto"), Some("https"));
    assert!(tls.client().try_connect(proxy.addr(), "shop.test").await.is_err());
}

#[tokio::test]
async fn header_is_accepted_on_a_unix_socket() {
    let a = Backend::start("a").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("homing.sock");
    let proxy = proxy_with("off", &a)
        .listener(&format!("unix:{}", path.display()))
        .listener_line("proxy_protocol = \"required\"")
        .start()
        .await;
    let mut client = RawClient::connect_unix(&path).await;
    client.send(v2(0x21, 0x11, ADDRESSES)).await;
    assert_eq!(forwarded_for(&mut client, &a).await, "198.51.100.7");
    drop(proxy);
}

#[tokio::test]
async fn connection_limit_applies_to_the_address_in_the_header() {
    let a = Backend::start("a").await;
    let proxy = proxy_with("required", &a).limits("connections_per_client = 2").start().await;
    let enter = async |client: &str| {
        let mut raw = proxy.raw().await;
        raw.send(format!("PROXY TCP4 {client} 203.0.113.1 4321 443\r\n")).await;
        raw
    };
    let (mut one, mut two) = (enter("198.51.100.7").await, enter("198.51.100.7").await);
    assert_eq!(forwarded_for(&mut one, &a).await, "198.51.100.7");
    assert_eq!(forwarded_for(&mut two, &a).await, "198.51.100.7");
    let mut three = enter("198.51.100.7").await;
    three.response().await.assert_own(503, "too_many_connections");
    three.assert_closed().await;
    assert_eq!(forwarded_for(&mut enter("198.51.100.8").await, &a).await, "198.51.100.8");
    drop(one);
    eventually("a connection is free again", async || {
        let mut again = enter("198.51.100.7").await;
        again.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        again.read_to_any_end_or_response().await.starts_with(b"HTTP/1.1 200")
    })
    .await;
}
