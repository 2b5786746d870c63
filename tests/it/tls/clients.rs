//! TLS with clients that show certificates.

use rustls::version::{TLS12, TLS13};

use super::{Setting, ask, secure};
use crate::harness::{Authority, Backend, Pair, Proxy, TlsClient};

#[tokio::test]
async fn a_session_without_a_certificate_is_not_resumed_where_one_is_demanded() {
    let a = Backend::start("a").await;
    let s = Setting::new();
    let tickets = s.files.write("tickets", "22".repeat(32));
    let ca = s.files.write("ca.pem", &s.authority.pem);
    let open = format!("{}, tickets_file = \"{tickets}\"", s.keys());
    let closed = format!("{open}, client_auth = {{ ca = \"{ca}\" }}");
    let (open, closed) = (secure(&open, &a).start().await, secure(&closed, &a).start().await);
    let client = s.client();
    ask(&mut client.connect(open.addr(), "shop.test").await, "shop.test").await;
    // TLS 1.3 tells a client that it is turned away only once it reads.
    if let Ok(mut connection) = client.try_connect(closed.addr(), "shop.test").await {
        assert!(!connection.resumed());
        connection.try_send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert_eq!(connection.read_to_any_end().await, b"");
    }
    closed
        .metric_becomes(
            "homing_tls_handshakes_total",
            &[("version", "none"), ("result", "client_certificate")],
            1.0,
        )
        .await;
    assert_eq!(a.requests(), 1);
}

const FORGED: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\nX-Client-Cert-Subject: CN=root\r\n\
    x_client_cert-subject: CN=root\r\nX-CLIENT-CERT-SHA256: 00\r\nX-Client-Cert-Anything: 1\r\n\r\n";

/// What the backend was told of the client's certificate.
fn told(backend: &Backend) -> Vec<(String, String)> {
    let text = backend.last().text;
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let told =
        lines.filter(|(name, _)| name.to_ascii_lowercase().replace('_', "-").starts_with("x-client-cert"));
    told.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect()
}

#[tokio::test]
async fn clients_certificates_are_demanded_told_and_never_forged() {
    let a = Backend::start("a").await;
    let s = Setting::new();
    let people = Authority::new();
    let ca = s.files.write("people.pem", &people.pem);
    let alice = people.client("alice");
    let stranger = Authority::new().client("alice");
    for version in [&TLS12, &TLS13] {
        for mode in ["required", "optional"] {
            let auth = format!("client_auth = {{ ca = \"{ca}\", mode = \"{mode}\" }}");
            let proxy = secure(&format!("{}, {auth}", s.keys()), &a).start().await;
            let client = |pair: Option<&Pair>| TlsClient::of(&s.authority, version, pair);

            let mut known = client(Some(&alice)).connect(proxy.addr(), "shop.test").await;
            for _ in 0..2 {
                known.send(FORGED).await;
                assert_eq!(known.response().await.backend(), "a");
                let told = told(&a);
                assert_eq!(told.len(), 2, "{told:?}");
                assert_eq!(told[0], ("x-client-cert-subject".into(), "CN=alice,O=Example".into()));
                assert!(told[1].0 == "x-client-cert-sha256" && told[1].1.len() == 64, "{told:?}");
                // A resumed session says the same.
                known = client(Some(&alice)).connect(proxy.addr(), "shop.test").await;
            }

            let served = async |pair: Option<&Pair>| {
                let Ok(mut raw) = client(pair).try_connect(proxy.addr(), "shop.test").await else {
                    return false;
                };
                raw.try_send(FORGED).await;
                !raw.read_to_any_end_or_response().await.is_empty()
            };
            assert!(!served(Some(&stranger)).await, "{mode}: an authority that nobody named");
            let without = served(None).await;
            assert_eq!(without, mode == "optional", "{mode}: no certificate");
            if without {
                assert_eq!(told(&a), []);
            }
        }
    }
    // Where nobody is asked for a certificate, nobody may claim one either.
    let plain = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = plain.raw().await;
    raw.send(FORGED).await;
    raw.response().await;
    assert_eq!(told(&a), []);
}

#[tokio::test]
async fn a_certificate_is_a_sessions_key_wherever_its_owner_comes_from() {
    let backends = [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await];
    let s = Setting::new();
    let ca = s.files.write("ca.pem", &s.authority.pem);
    let proxy = Proxy::builder()
        .tls(&format!("{}, client_auth = {{ ca = \"{ca}\", mode = \"optional\" }}", s.keys()))
        .upstream("web", &backends.each_ref())
        .affinity("key = [\"client_cert\", \"cookie:SID\", \"ip\"]")
        .start()
        .await;
    let mut homes = std::collections::BTreeSet::new();
    for name in ["alice", "bob", "carol", "dave", "eve", "frank", "grace", "heidi"] {
        let mut home = None;
        // Renewed: the same name in another certificate.
        for pair in [s.authority.client(name), s.authority.client(name)] {
            let client = TlsClient::of(&s.authority, &TLS13, Some(&pair));
            let mut connection = client.connect(proxy.addr(), "shop.test").await;
            let answered = ask(&mut connection, "shop.test").await.backend().to_owned();
            assert_eq!(home.get_or_insert_with(|| answered.clone()), &answered, "{name}");
        }
        homes.extend(home);
    }
    assert!(homes.len() > 1, "one address, and yet several backends");
    let mut without = s.client().connect(proxy.addr(), "shop.test").await;
    assert_eq!(ask(&mut without, "shop.test").await.status, 200, "by its address");
}
