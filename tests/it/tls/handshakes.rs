//! Handshakes: versions, session resumption, errors and timeouts.

use rustls::version::{TLS12, TLS13};

use super::{ask, secure};
use crate::harness::{Backend, Proxy, TlsClient, TlsSetup};

#[tokio::test]
async fn handshake_negotiates_the_best_common_version_and_group() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = secure(&tls.keys(), &a).start().await;
    let mut newest = tls.client().connect(proxy.addr(), "shop.test").await;
    assert_eq!(newest.agreed(), ("TLSv1_3".into(), "X25519MLKEM768".into(), None));
    assert_eq!(ask(&mut newest, "shop.test").await.backend(), "a");
    let seen = a.last();
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    let mut older = TlsClient::only(&tls.authority, &TLS12).connect(proxy.addr(), "shop.test").await;
    assert_eq!(older.agreed().0, "TLSv1_2");
    assert_eq!(ask(&mut older, "shop.test").await.backend(), "a");
    let count =
        |version| proxy.metric("homing_tls_handshakes_total", &[("version", version), ("result", "full")]);
    assert_eq!((count("1.3"), count("1.2")), (1.0, 1.0));

    let strict = secure(&format!("{}, min_version = \"1.3\"", tls.keys()), &a).start().await;
    let refused = TlsClient::only(&tls.authority, &TLS12).try_connect(strict.addr(), "shop.test").await;
    assert!(refused.is_err());
    TlsClient::only(&tls.authority, &TLS13).connect(strict.addr(), "shop.test").await;
    let expiry = strict.metric("homing_tls_certificate_expiry_seconds", &[("name", "shop.test")]);
    assert!(expiry > 1.6e9, "{expiry}");
    strict
        .metric_becomes(
            "homing_tls_handshakes_total",
            &[("version", "none"), ("result", "incompatible")],
            1.0,
        )
        .await;
}

#[tokio::test]
async fn sessions_resume_at_every_proxy_with_the_same_ticket_keys() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let tickets = tls.files.write("tickets", "11".repeat(32));
    let shared = format!("{}, tickets_file = \"{tickets}\"", tls.keys());
    let (first, second) = (secure(&shared, &a).start().await, secure(&shared, &a).start().await);
    let alone = secure(&tls.keys(), &a).start().await;
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::only(&tls.authority, version);
        let visit = async |proxy: &Proxy| {
            let mut connection = client.connect(proxy.addr(), "shop.test").await;
            // TLS 1.3 tickets arrive after the handshake.
            ask(&mut connection, "shop.test").await;
            connection.resumed()
        };
        assert!(!visit(&first).await, "{version:?}");
        assert!(visit(&first).await, "{version:?}");
        assert!(visit(&second).await, "{version:?}: not resumed at the other proxy");
        assert!(!visit(&alone).await, "{version:?}: resumed at a proxy with other keys");
        assert!(visit(&alone).await, "{version:?}");
    }
    first
        .metric_becomes("homing_tls_handshakes_total", &[("version", "1.3"), ("result", "resumed")], 1.0)
        .await;
    second
        .metric_becomes("homing_tls_handshakes_total", &[("version", "1.3"), ("result", "resumed")], 1.0)
        .await;
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_400_and_tls_on_a_plain_port_fails() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = secure(&tls.keys(), &a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    raw.response().await.assert_own(400, "https_expected");
    raw.assert_closed().await;
    let mut noise = proxy.raw().await;
    noise.send([22, 3, 1, 0, 5, 1, 2, 3, 4, 5]).await;
    noise.read_to_any_end().await;
    let count = |result: &'static str| proxy.metric("homing_tls_handshakes_total", &[("result", result)]);
    assert_eq!((count("plain_http"), count("protocol")), (1.0, 1.0));
    let plain = Proxy::builder().upstream("web", &[&a]).start().await;
    assert!(tls.client().try_connect(plain.addr(), "shop.test").await.is_err());
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn stalled_handshake_times_out() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = secure(&tls.keys(), &a).timeouts("tls_handshake = \"200ms\"").start().await;
    // No bytes, the start of a record, and a complete record of a longer ClientHello.
    for begin in [&b""[..], &[22, 3, 1], &[22, 3, 1, 0, 8, 1, 0, 1, 0, 3, 3, 0, 0]] {
        let mut raw = proxy.raw().await;
        if !begin.is_empty() {
            raw.send(begin).await;
        }
        raw.read_to_any_end().await;
    }
    let ended = || proxy.metric("homing_tls_handshakes_total", &[("version", "none")]);
    #[expect(clippy::float_cmp, reason = "whole numbers")]
    {
        assert_eq!(ended(), 3.0);
    }
    let mut patient = tls.client().connect(proxy.addr(), "shop.test").await;
    assert_eq!(ask(&mut patient, "shop.test").await.backend(), "a", "another client was not served");
}
