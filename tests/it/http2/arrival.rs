//! How HTTP/2 is negotiated, and what backends learn about the client.

use crate::harness::frames::{self, HEADERS, SETTINGS, frame};
use crate::harness::{Authority, Backend, H2Client, Proxy, RawClient, Script, Step, TlsClient, TlsSetup};

/// Connects a client over TLS with ALPN `h2`.
async fn secure(client: &TlsClient, proxy: &Proxy, name: &str) -> H2Client {
    let raw = client.offering(&["h2", "http/1.1"]).connect(proxy.addr(), name).await;
    assert_eq!(raw.agreed().2.as_deref(), Some("h2"));
    H2Client::over(raw, &format!("https://{name}"), &H2Client::builder()).await
}

#[tokio::test]
async fn client_chooses_the_http_version_by_alpn() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = Proxy::builder().tls(&tls.keys()).upstream("web", &[&a]).start().await;
    let client = tls.client();
    let http2 = secure(&client, &proxy, "shop.test").await;
    let reply = http2.get("/", &[]).await;
    assert_eq!(reply.backend(), "a");
    let seen = a.last();
    assert_eq!(seen.line, "GET / HTTP/1.1");
    for (name, value) in [
        ("host", "shop.test"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "shop.test"),
    ] {
        assert_eq!(seen.field(name), Some(value), "{name}");
    }
    assert!(seen.field("via").is_some_and(|via| via.starts_with("2 homing (")), "{:?}", seen.fields);
    for protocols in [&["http/1.1"][..], &["http/1.1", "h3"], &[]] {
        let mut raw = client.offering(protocols).connect(proxy.addr(), "shop.test").await;
        raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert_eq!(raw.response().await.backend(), "a");
        assert!(a.last().field("via").is_some_and(|via| via.starts_with("1.1 homing (")));
    }
    // Only the negotiated protocol is accepted.
    let mut raw = client.offering(&["http/1.1"]).connect(proxy.addr(), "shop.test").await;
    raw.send(frames::PREFACE).await;
    assert!(raw.read_to_end().await.starts_with(b"HTTP/1.1 "));
    let mut raw = client.offering(&["h2"]).connect(proxy.addr(), "shop.test").await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let answer = raw.read_to_any_end().await;
    assert!(!answer.starts_with(b"HTTP/1.1 "), "{}", answer.escape_ascii());
}

#[tokio::test]
async fn cleartext_http2_is_recognized_by_its_preface() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let fields = [
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-proto", "https"),
        ("x-affinity-backend", "evil"),
        ("x-real-ip", "1.2.3.4"),
    ];
    assert_eq!(client.get("/", &fields).await.backend(), "a");
    let seen = a.last();
    assert!(seen.field("via").is_some_and(|via| via.starts_with("2 homing (")), "{:?}", seen.fields);
    for (name, value) in [("x-forwarded-proto", "http"), ("x-forwarded-for", "127.0.0.1")] {
        assert_eq!(seen.field(name), Some(value), "{name}");
    }
    assert!(!seen.fields.has("x-real-ip") && !seen.fields.has("x-affinity-backend"), "{:?}", seen.fields);
    assert_eq!(proxy.client().get("/").await.backend(), "a", "HTTP/1.1 failed on the same port");
}

#[tokio::test]
async fn preface_may_arrive_byte_by_byte_and_similar_requests_are_served() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    let bytes = [frames::PREFACE, &frame(SETTINGS, 0, 0, &[]), &frames::get(1, "/")].concat();
    for byte in bytes {
        raw.send([byte]).await;
        tokio::task::yield_now().await;
    }
    raw.next_on(1, HEADERS).await;
    for request in
        ["POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n", "PRI / HTTP/1.1\r\nHost: t\r\n\r\n"]
    {
        let mut raw = proxy.raw().await;
        for byte in request.bytes() {
            raw.send([byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.response().await.backend(), "a", "{request}");
    }
}

#[tokio::test]
async fn invalid_preface_gets_an_http_1_error() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for wrong in [
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "PRI * HTTP/2.0\r\nHost: t\r\n\r\n",
        "PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n",
        "PRI  * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "pri * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut raw = proxy.raw().await;
        raw.send(wrong).await;
        let answer = raw.response().await;
        assert!((400..=505).contains(&answer.status), "{wrong:?}: {}", answer.status);
        raw.assert_closed().await;
    }
    // HTTP/2 cannot start after an HTTP/1.1 request.
    let mut raw = proxy.raw().await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    raw.begin_http2().await;
    assert!((400..=505).contains(&raw.response().await.status));
    assert_eq!(a.requests(), 1);
}

#[tokio::test]
async fn upgrade_to_h2c_is_ignored() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    let fields = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"];
    for _ in 0..2 {
        assert_eq!(raw.get("/", &fields).await.backend(), "a");
        let seen = a.last();
        assert!(!seen.fields.has("upgrade") && !seen.fields.has("http2-settings"), "{:?}", seen.fields);
    }
}

#[tokio::test]
async fn disabled_http2_is_neither_offered_nor_accepted() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = Proxy::builder()
        .tls(&tls.keys())
        .listener_line("http2 = false")
        .listener("127.0.0.1:0")
        .listener_line("http2 = false")
        .upstream("web", &[&a])
        .start()
        .await;
    let client = tls.client();
    let mut raw = client.offering(&["h2", "http/1.1"]).connect(proxy.addr(), "shop.test").await;
    assert_ne!(raw.agreed().2.as_deref(), Some("h2"));
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    if let Ok(raw) = client.offering(&["h2"]).try_connect(proxy.addr(), "shop.test").await {
        assert_eq!(raw.agreed().2, None);
    }
    let mut raw = RawClient::connect(proxy.addresses()[1]).await;
    raw.begin_http2().await;
    assert_eq!(raw.response().await.status, 505);
    raw.assert_closed().await;
    proxy.metric_becomes("homing_http2_connections_total", &[], 0.0).await;
}

#[tokio::test]
async fn host_outside_the_certificate_is_421_and_the_connection_stays_open() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test", "*.shop.test"]);
    let other = tls.files.write("other.pem", tls.authority.server(&["other.test"]).pem());
    let keys = format!("certs = [\"{}\", \"{other}\"]", tls.certs);
    let proxy = Proxy::builder().tls(&keys).upstream("web", &[&a]).start().await;
    let client = secure(&tls.client(), &proxy, "shop.test").await;
    let ask = async |uri: &str| {
        let request = http::Request::builder().uri(uri);
        client.open(request, true).await.response().await
    };
    for _ in 0..2 {
        // Browsers reuse a connection for all names in the certificate.
        for fine in ["https://shop.test/", "https://www.shop.test/", "https://SHOP.test:8443/"] {
            assert_eq!(ask(fine).await.backend(), "a", "{fine}");
        }
        for wrong in ["https://other.test/", "https://a.b.shop.test/", "https://127.0.0.1/"] {
            ask(wrong).await.assert_own(421, "misdirected");
        }
    }
    proxy.metric_becomes("homing_http2_connections_total", &[], 1.0).await;
}

#[tokio::test]
async fn plain_requests_are_redirected_to_https() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().listener_line("redirect_https = 8443").upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    for _ in 0..2 {
        let reply = client.get("/a?b=c", &[]).await;
        assert_eq!((reply.status, reply.field("location")), (301, Some("https://t:8443/a?b=c")));
        let reply = client.post("/a", b"body").await;
        assert_eq!((reply.status, reply.field("location")), (308, Some("https://t:8443/a")));
    }
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn client_certificates_are_forwarded_and_cannot_be_forged() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let people = Authority::new();
    let ca = tls.files.write("people.pem", &people.pem);
    let alice = people.client("alice");
    let keys = format!("{}, client_auth = {{ ca = \"{ca}\", mode = \"optional\" }}", tls.keys());
    let proxy = Proxy::builder().tls(&keys).upstream("web", &[&a]).start().await;
    let forged = [("x-client-cert-subject", "CN=root"), ("x_client_cert_sha256", "00")];
    let known = TlsClient::of(&tls.authority, &rustls::version::TLS13, Some(&alice));
    let known = secure(&known, &proxy, "shop.test").await;
    for _ in 0..2 {
        assert_eq!(known.get("/", &forged).await.backend(), "a");
        let seen = a.last();
        assert_eq!(seen.field("x-client-cert-subject"), Some("CN=alice,O=Example"));
        assert_eq!(seen.field("x-client-cert-sha256").map(str::len), Some(64));
        assert!(!seen.fields.has("x_client_cert_sha256"));
    }
    let anonymous = secure(&tls.client(), &proxy, "shop.test").await;
    assert_eq!(anonymous.get("/", &forged).await.backend(), "a");
    let names = a.last().fields.names().join(" ");
    assert!(!names.contains("client"), "{names}");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_over_tls() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = Proxy::builder().tls(&tls.keys()).upstream("web", &[&a]).start().await;
    let client = secure(&tls.client(), &proxy, "shop.test").await;
    let body = vec![7; 3_000_000];
    let (one, two) = tokio::join!(client.post("/", &body), client.post("/", &body));
    assert_eq!([one.backend(), two.backend()], ["a"; 2]);
    assert!(a.seen().iter().all(|seen| seen.body_len == body.len()));
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n".to_vec();
    a.set(Script::new([Step::ReadHead, Step::Send(head), Step::Zeros(3_000_000)]));
    let (one, two) = tokio::join!(client.get("/", &[]), client.get("/", &[]));
    assert_eq!([one.body.len(), two.body.len()], [3_000_000; 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_closes_tls_connections_cleanly() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = Proxy::builder().tls(&tls.keys()).upstream("web", &[&a]).start().await;
    let client = secure(&tls.client(), &proxy, "shop.test").await;
    assert_eq!(client.get("/", &[]).await.backend(), "a");
    let ending = proxy.shutting_down(std::time::Duration::from_secs(60));
    // The client may find the connection closed while it is sending.
    if let Err(error) = client.ended().await {
        let kind = error.get_io().map(std::io::Error::kind);
        assert_eq!(kind, Some(std::io::ErrorKind::BrokenPipe), "closed without close_notify: {error}");
    }
    assert!(ending.await.expect("shutdown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_client_without_a_preface_does_not_delay_shutdown() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let proxy = Proxy::builder()
        .tls(&tls.keys())
        .timeouts("request_head = \"60s\"")
        .upstream("web", &[&a])
        .start()
        .await;
    let mut raw = tls.client().offering(&["h2"]).connect(proxy.addr(), "shop.test").await;
    assert!(proxy.shutdown(std::time::Duration::from_secs(60)).await);
    raw.read_to_any_end().await;
}
