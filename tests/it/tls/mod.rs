//! TLS from clients and to backends.

mod backends;
mod clients;

use std::time::Duration;

use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    Authority, Backend, Pair, PemFiles, Proxy, ProxyBuilder, RawClient, Response, Script, Step, TlsClient,
    eventually, server_config, settles,
};
use crate::tunnel::UPGRADE;

/// A CA, a directory, and a certificate in it.
struct Setting {
    authority: Authority,
    files: PemFiles,
    pair: Pair,
    certs: String,
}

impl Setting {
    fn new() -> Self {
        Self::naming(&["shop.test"])
    }

    fn naming(names: &[&str]) -> Self {
        let (authority, files) = (Authority::new(), PemFiles::new());
        let pair = authority.server(names);
        let certs = files.write("shop.pem", pair.pem());
        Self { authority, files, pair, certs }
    }

    /// Returns the keys of `tls`.
    fn keys(&self) -> String {
        format!("certs = [\"{}\"]", self.certs)
    }

    fn client(&self) -> TlsClient {
        TlsClient::new(&self.authority)
    }
}

fn secure(keys: &str, backend: &Backend) -> ProxyBuilder {
    Proxy::builder().tls(keys).upstream("web", &[backend])
}

/// Sends a request for `host` on an open connection.
async fn ask(client: &mut RawClient, host: &str) -> Response {
    client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    client.response().await
}

#[tokio::test]
async fn handshake_negotiates_the_best_common_version_and_group() {
    let a = Backend::start("a").await;
    let s = Setting::new();
    let proxy = secure(&s.keys(), &a).start().await;
    let mut newest = s.client().connect(proxy.addr(), "shop.test").await;
    assert_eq!(newest.agreed(), ("TLSv1_3".into(), "X25519MLKEM768".into(), None));
    assert_eq!(ask(&mut newest, "shop.test").await.backend(), "a");
    let seen = a.last();
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    let mut older = TlsClient::only(&s.authority, &TLS12).connect(proxy.addr(), "shop.test").await;
    assert_eq!(older.agreed().0, "TLSv1_2");
    assert_eq!(ask(&mut older, "shop.test").await.backend(), "a");
    let count =
        |version| proxy.metric("homing_tls_handshakes_total", &[("version", version), ("result", "full")]);
    assert_eq!((count("1.3"), count("1.2")), (1.0, 1.0));

    let strict = secure(&format!("{}, min_version = \"1.3\"", s.keys()), &a).start().await;
    let refused = TlsClient::only(&s.authority, &TLS12).try_connect(strict.addr(), "shop.test").await;
    assert!(refused.is_err());
    TlsClient::only(&s.authority, &TLS13).connect(strict.addr(), "shop.test").await;
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
async fn certificate_is_selected_by_server_name() {
    let a = Backend::start("a").await;
    let s = Setting::naming(&["first.test"]);
    let wildcard = s.authority.server(&["*.shop.test"]);
    let exact = s.authority.server(&["www.shop.test"]);
    let rsa = s.authority.rsa_server(&["www.shop.test"]);
    let wildcard_file = s.files.write("wildcard.pem", wildcard.pem());
    let exact_file = s.files.write("exact.crt", &exact.certificate);
    s.files.write("exact.key", &exact.key);
    let rsa_file = s.files.write("rsa.crt", &rsa.certificate);
    let rsa_key = s.files.write("named", &rsa.key);
    let certs = [s.certs.as_str(), &wildcard_file, &exact_file, &rsa_file].map(|f| format!("\"{f}\""));
    let keys = format!("certs = [{}], keys = [\"{rsa_key}\"]", certs.join(", "));
    let proxy = secure(&keys, &a).start().await;
    let client = s.client();
    let shown = async |name: &str| client.connect(proxy.addr(), name).await.shown();
    assert_eq!(shown("www.shop.test").await, exact.der());
    assert_eq!(shown("api.shop.test").await, wildcard.der());
    assert_eq!(shown("first.test").await, s.pair.der());
    let old = TlsClient::of_rsa(&s.authority).connect(proxy.addr(), "www.shop.test").await;
    assert_eq!(old.shown(), rsa.der(), "the RSA certificate was not selected");
    // A name without a certificate gets the first one, which this client rejects.
    let refused = client.try_connect(proxy.addr(), "other.test").await;
    let why = refused.err().expect("refused").to_string();
    assert!(why.contains("not valid for name"), "{why}");
    proxy
        .metric_becomes(
            "homing_tls_handshakes_total",
            &[("version", "none"), ("result", "refused_by_client")],
            1.0,
        )
        .await;
}

#[tokio::test]
async fn changed_certificate_is_reloaded_and_an_invalid_one_is_ignored() {
    let a = Backend::start("a").await;
    let s = Setting::new();
    let sign = s.files.write("sign.pem", s.authority.server(&["sign.test"]).pem());
    let proxy =
        secure(&s.keys(), &a).listener("127.0.0.1:0").tls(&format!("certs = [\"{sign}\"]")).start().await;
    let client = s.client();
    let mut open = client.connect(proxy.addr(), "shop.test").await;
    assert_eq!(ask(&mut open, "shop.test").await.backend(), "a");
    let shown = async || client.connect(proxy.addr(), "shop.test").await.shown();
    assert_eq!(shown().await, s.pair.der());

    let second = s.authority.server(&["shop.test"]);
    s.files.write("shop.pem", second.pem());
    eventually("the new certificate is served", async || shown().await == second.der()).await;

    let third = s.authority.server(&["shop.test"]);
    let stranger = Authority::new().server(&["shop.test"]);
    for broken in ["nonsense".to_owned(), format!("{}{}", third.certificate, stranger.key)] {
        s.files.write("shop.pem", broken);
        // The other listener's files are checked after these.
        let sign = s.authority.server(&["sign.test"]);
        s.files.write("sign.pem", sign.pem());
        let shown_there = async || client.connect(proxy.addresses()[1], "sign.test").await.shown();
        eventually("the files are checked", async || shown_there().await == sign.der()).await;
        assert_eq!(shown().await, second.der(), "the valid certificate was replaced");
    }
    s.files.write("shop.pem", third.pem());
    eventually("the fixed certificate is served", async || {
        let now = shown().await;
        assert!(now == second.der() || now == third.der());
        now == third.der()
    })
    .await;
    assert_eq!(ask(&mut open, "shop.test").await.backend(), "a", "the first connection broke");
}

#[tokio::test]
async fn reload_changes_certificates_and_keeps_connections_and_tickets() {
    let a = Backend::start("a").await;
    let s = Setting::new();
    let builder = secure(&s.keys(), &a);
    let proxy = builder.clone().start().await;
    let client = s.client();
    let mut open = client.connect(proxy.addr(), "shop.test").await;
    ask(&mut open, "shop.test").await;
    let second = s.authority.server(&["shop.test"]);
    s.files.write("shop.pem", second.pem());
    proxy.reload(&builder).await;
    let mut resumed = client.connect(proxy.addr(), "shop.test").await;
    assert!(resumed.resumed(), "not resumed after a reload with another certificate");
    assert_eq!(ask(&mut resumed, "shop.test").await.backend(), "a");
    assert_eq!(TlsClient::new(&s.authority).connect(proxy.addr(), "shop.test").await.shown(), second.der());

    let plain = Proxy::builder().upstream("web", &[&a]);
    proxy.reload(&plain).await;
    assert_eq!(proxy.raw().await.get("/", &[]).await.backend(), "a", "the listener still speaks TLS");
    assert_eq!(ask(&mut open, "shop.test").await.backend(), "a", "the open TLS connection broke");
    proxy.reload(&builder).await;
    client.connect(proxy.addr(), "shop.test").await;
}

#[tokio::test]
async fn sessions_resume_at_every_proxy_with_the_same_ticket_keys() {
    let a = Backend::start("a").await;
    let s = Setting::new();
    let tickets = s.files.write("tickets", "11".repeat(32));
    let shared = format!("{}, tickets_file = \"{tickets}\"", s.keys());
    let (first, second) = (secure(&shared, &a).start().await, secure(&shared, &a).start().await);
    let alone = secure(&s.keys(), &a).start().await;
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::only(&s.authority, version);
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
async fn host_other_than_the_server_name_is_421_unless_the_certificate_covers_it() {
    let a = Backend::start("a").await;
    let s = Setting::naming(&["shop.test", "*.shop.test"]);
    let other = s.authority.server(&["other.test"]);
    let other = s.files.write("other.pem", other.pem());
    let proxy = secure(&format!("certs = [\"{}\", \"{other}\"]", s.certs), &a).start().await;
    let client = s.client();
    for fine in ["shop.test", "SHOP.test:8443", "www.shop.test", "shop.test."] {
        let mut raw = client.connect(proxy.addr(), "shop.test").await;
        assert_eq!(ask(&mut raw, fine).await.status, 200, "{fine}");
    }
    for wrong in ["other.test", "a.b.shop.test", "127.0.0.1", "[::1]:443", "shop.test.evil"] {
        let mut raw = client.connect(proxy.addr(), "shop.test").await;
        ask(&mut raw, wrong).await.assert_own(421, "misdirected");
        raw.assert_closed().await;
    }
    let mut raw = client.connect(proxy.addr(), "other.test").await;
    ask(&mut raw, "shop.test").await.assert_own(421, "misdirected");
    // Clients send no SNI for an IP address, so any host is accepted.
    let addressed = Setting::naming(&["127.0.0.1"]);
    let proxy = secure(&addressed.keys(), &a).start().await;
    let mut raw = addressed.client().connect(proxy.addr(), "127.0.0.1").await;
    assert_eq!(ask(&mut raw, "whatever.test").await.status, 200);
}

#[tokio::test]
async fn plain_http_on_a_tls_port_is_400_and_tls_on_a_plain_port_fails() {
    let a = Backend::start("a").await;
    let s = Setting::new();
    let proxy = secure(&s.keys(), &a).start().await;
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
    assert!(s.client().try_connect(plain.addr(), "shop.test").await.is_err());
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn stalled_handshake_times_out() {
    let a = Backend::start("a").await;
    let s = Setting::new();
    let proxy = secure(&s.keys(), &a).timeouts("tls_handshake = \"200ms\"").start().await;
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
    let mut patient = s.client().connect(proxy.addr(), "shop.test").await;
    assert_eq!(ask(&mut patient, "shop.test").await.backend(), "a", "another client was not served");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_even_to_slow_readers() {
    const SIZE: usize = 5_000_000;
    let s = Setting::new();
    let inside = server_config(&s.authority.server(&["127.0.0.1"]), None);
    let a = Backend::named("a").tls(&inside).start().await;
    let ca = s.files.write("ca.pem", &s.authority.pem);
    let proxy = secure(&s.keys(), &a).lines(&format!("tls = {{ ca = \"{ca}\" }}")).start().await;
    let client = s.client();

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
    let s = Setting::naming(&["t"]);
    let inside = server_config(&s.authority.server(&["127.0.0.1"]), None);
    let a = Backend::named("a").tls(&inside).upgrade_echo("hello").start().await;
    let ca = s.files.write("ca.pem", &s.authority.pem);
    let proxy = secure(&s.keys(), &a).lines(&format!("tls = {{ ca = \"{ca}\" }}")).start().await;
    let mut raw = s.client().connect(proxy.addr(), "t").await;
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
    let s = Setting::new();
    let proxy = secure(&s.keys(), &a)
        .listener("127.0.0.1:0")
        .affinity(r#"key = [], remember = "cookie", cookie = { name = "homing", on_cacheable = "set" }"#)
        .start()
        .await;
    let mut raw = s.client().connect(proxy.addr(), "shop.test").await;
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
    let s = Setting::new();
    let proxy = secure(&s.keys(), &a).start().await;
    let mut idle = s.client().connect(proxy.addr(), "shop.test").await;
    ask(&mut idle, "shop.test").await;
    // A client in the middle of its handshake.
    let mut half = TcpStream::connect(proxy.addr()).await.unwrap();
    half.write_all(&[22, 3, 1]).await.unwrap();
    assert!(proxy.shutdown(Duration::from_secs(9)).await, "a stalled handshake delayed the shutdown");
    idle.read_to_any_end().await;
    let mut rest = Vec::new();
    let _ = half.read_to_end(&mut rest).await;
}
