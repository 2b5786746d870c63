//! Client certificates.

use rustls::version::{TLS12, TLS13};

use super::{ask, secure};
use crate::harness::{Authority, Backend, Pair, Proxy, TlsClient, TlsSetup};

#[tokio::test]
async fn session_without_a_certificate_is_not_resumed_where_one_is_required() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let tickets = tls.files.write("tickets", "22".repeat(32));
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let open = format!("{}, tickets_file = \"{tickets}\"", tls.keys());
    let closed = format!("{open}, client_auth = {{ ca = \"{ca}\" }}");
    let (open, closed) = (secure(&open, &a).start().await, secure(&closed, &a).start().await);
    let client = tls.client();
    ask(&mut client.connect(open.addr(), "shop.test").await, "shop.test").await;
    // With TLS 1.3, a client learns that it was rejected only when it reads.
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

/// Returns the headers about the client certificate that the backend received.
fn certificate_headers(backend: &Backend) -> Vec<(String, String)> {
    let text = backend.last().text;
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    let certificate_headers =
        lines.filter(|(name, _)| name.to_ascii_lowercase().replace('_', "-").starts_with("x-client-cert"));
    certificate_headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect()
}

#[tokio::test]
async fn client_certificates_are_verified_forwarded_and_cannot_be_forged() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let people = Authority::new();
    let ca = tls.files.write("people.pem", &people.pem);
    let alice = people.client("alice");
    let stranger = Authority::new().client("alice");
    for version in [&TLS12, &TLS13] {
        for mode in ["required", "optional"] {
            let auth = format!("client_auth = {{ ca = \"{ca}\", mode = \"{mode}\" }}");
            let proxy = secure(&format!("{}, {auth}", tls.keys()), &a).start().await;
            let client = |pair: Option<&Pair>| TlsClient::of(&tls.authority, version, pair);

            let mut known = client(Some(&alice)).connect(proxy.addr(), "shop.test").await;
            for _ in 0..2 {
                known.send(FORGED).await;
                assert_eq!(known.response().await.backend(), "a");
                let certificate_headers = certificate_headers(&a);
                assert_eq!(certificate_headers.len(), 2, "{certificate_headers:?}");
                assert_eq!(
                    certificate_headers[0],
                    ("x-client-cert-subject".into(), "CN=alice,O=Example".into())
                );
                assert!(
                    certificate_headers[1].0 == "x-client-cert-sha256"
                        && certificate_headers[1].1.len() == 64,
                    "{certificate_headers:?}"
                );
                // A resumed session sends the same.
                known = client(Some(&alice)).connect(proxy.addr(), "shop.test").await;
            }

            let served = async |pair: Option<&Pair>| {
                let Ok(mut raw) = client(pair).try_connect(proxy.addr(), "shop.test").await else {
                    return false;
                };
                raw.try_send(FORGED).await;
                !raw.read_to_any_end_or_response().await.is_empty()
            };
            assert!(!served(Some(&stranger)).await, "{mode}: a certificate from an unknown CA was accepted");
            let without = served(None).await;
            assert_eq!(without, mode == "optional", "{mode}: without a certificate");
            if without {
                assert_eq!(certificate_headers(&a), []);
            }
        }
    }
    // Without client authentication, the headers cannot be forged either.
    let plain = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = plain.raw().await;
    raw.send(FORGED).await;
    raw.response().await;
    assert_eq!(certificate_headers(&a), []);
}

#[tokio::test]
async fn client_certificate_is_a_session_key_from_any_address() {
    let backends = [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await];
    let tls = TlsSetup::new(&["shop.test"]);
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let proxy = Proxy::builder()
        .tls(&format!("{}, client_auth = {{ ca = \"{ca}\", mode = \"optional\" }}", tls.keys()))
        .upstream("web", &backends.each_ref())
        .affinity("key = [\"client_cert\", \"cookie:SID\", \"ip\"]")
        .start()
        .await;
    let mut homes = std::collections::BTreeSet::new();
    for name in ["alice", "bob", "carol", "dave", "eve", "frank", "grace", "heidi"] {
        let mut home = None;
        // A renewed certificate has the same name.
        for pair in [tls.authority.client(name), tls.authority.client(name)] {
            let client = TlsClient::of(&tls.authority, &TLS13, Some(&pair));
            let mut connection = client.connect(proxy.addr(), "shop.test").await;
            let answered = ask(&mut connection, "shop.test").await.backend().to_owned();
            assert_eq!(home.get_or_insert_with(|| answered.clone()), &answered, "{name}");
        }
        homes.extend(home);
    }
    assert!(homes.len() > 1, "all certificates went to one backend");
    let mut without = tls.client().connect(proxy.addr(), "shop.test").await;
    assert_eq!(ask(&mut without, "shop.test").await.status, 200, "no fallback to the client's address");
}
