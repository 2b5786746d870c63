//! Which certificate a client gets, and for which hosts it is valid.

use super::{ask, secure};
use crate::harness::{Authority, Backend, Proxy, TlsClient, TlsSetup, eventually};

#[tokio::test]
async fn certificate_is_selected_by_server_name() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["first.test"]);
    let wildcard = tls.authority.server(&["*.shop.test"]);
    let exact = tls.authority.server(&["www.shop.test"]);
    let rsa = tls.authority.rsa_server(&["www.shop.test"]);
    let wildcard_file = tls.files.write("wildcard.pem", wildcard.pem());
    let exact_file = tls.files.write("exact.crt", &exact.certificate);
    tls.files.write("exact.key", &exact.key);
    let rsa_file = tls.files.write("rsa.crt", &rsa.certificate);
    let rsa_key = tls.files.write("named", &rsa.key);
    let certs = [tls.certs.as_str(), &wildcard_file, &exact_file, &rsa_file].map(|f| format!("\"{f}\""));
    let keys = format!("certs = [{}], keys = [\"{rsa_key}\"]", certs.join(", "));
    let proxy = secure(&keys, &a).start().await;
    let client = tls.client();
    let shown = async |name: &str| client.connect(proxy.addr(), name).await.shown();
    assert_eq!(shown("www.shop.test").await, exact.der());
    assert_eq!(shown("api.shop.test").await, wildcard.der());
    assert_eq!(shown("first.test").await, tls.pair.der());
    let old = TlsClient::of_rsa(&tls.authority).connect(proxy.addr(), "www.shop.test").await;
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
    let tls = TlsSetup::new(&["shop.test"]);
    let sign = tls.files.write("sign.pem", tls.authority.server(&["sign.test"]).pem());
    let proxy =
        secure(&tls.keys(), &a).listener("127.0.0.1:0").tls(&format!("certs = [\"{sign}\"]")).start().await;
    let client = tls.client();
    let mut open = client.connect(proxy.addr(), "shop.test").await;
    assert_eq!(ask(&mut open, "shop.test").await.backend(), "a");
    let shown = async || client.connect(proxy.addr(), "shop.test").await.shown();
    assert_eq!(shown().await, tls.pair.der());

    let second = tls.authority.server(&["shop.test"]);
    tls.files.write("shop.pem", second.pem());
    eventually("the new certificate is served", async || shown().await == second.der()).await;

    let third = tls.authority.server(&["shop.test"]);
    let stranger = Authority::new().server(&["shop.test"]);
    for broken in ["nonsense".to_owned(), format!("{}{}", third.certificate, stranger.key)] {
        tls.files.write("shop.pem", broken);
        // The other listener's files are checked after these.
        let sign = tls.authority.server(&["sign.test"]);
        tls.files.write("sign.pem", sign.pem());
        let shown_there = async || client.connect(proxy.addresses()[1], "sign.test").await.shown();
        eventually("the files are checked", async || shown_there().await == sign.der()).await;
        assert_eq!(shown().await, second.der(), "the valid certificate was replaced");
    }
    tls.files.write("shop.pem", third.pem());
    eventually("the fixed certificate is served", async || {
        let now = shown().await;
        assert!(now == second.der() || now == third.der());
        now == third.der()
    })
    .await;
    assert_eq!(ask(&mut open, "shop.test").await.backend(), "a", "the first connection broke");
}

#[tokio::test]
async fn emptied_certificate_of_a_pattern_is_still_served() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["first.test"]);
    let second = tls.authority.server(&["second.test"]);
    tls.files.write("second.pem", second.pem());
    let (folder, _) = tls.certs.rsplit_once('/').expect("a path");
    let proxy = secure(&format!("certs = [\"{folder}/*.pem\"]"), &a).start().await;
    let client = tls.client();
    let shown = async |name: &str| client.connect(proxy.addr(), name).await.shown();
    assert_eq!(shown("second.test").await, second.der());
    for broken in ["", "garbage"] {
        tls.files.write("second.pem", broken);
        let first = tls.authority.server(&["first.test"]);
        std::fs::write(&tls.certs, first.pem()).expect("write");
        eventually("the other certificate is renewed", async || shown("first.test").await == first.der())
            .await;
        assert_eq!(shown("second.test").await, second.der(), "another certificate was served");
    }
}

#[tokio::test]
async fn reload_changes_certificates_and_keeps_connections_and_tickets() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test"]);
    let builder = secure(&tls.keys(), &a);
    let proxy = builder.clone().start().await;
    let client = tls.client();
    let mut open = client.connect(proxy.addr(), "shop.test").await;
    ask(&mut open, "shop.test").await;
    let second = tls.authority.server(&["shop.test"]);
    tls.files.write("shop.pem", second.pem());
    proxy.reload(&builder).await;
    let mut resumed = client.connect(proxy.addr(), "shop.test").await;
    assert!(resumed.resumed(), "not resumed after a reload with another certificate");
    assert_eq!(ask(&mut resumed, "shop.test").await.backend(), "a");
    assert_eq!(TlsClient::new(&tls.authority).connect(proxy.addr(), "shop.test").await.shown(), second.der());

    let plain = Proxy::builder().upstream("web", &[&a]);
    proxy.reload(&plain).await;
    assert_eq!(proxy.raw().await.get("/", &[]).await.backend(), "a", "the listener still speaks TLS");
    assert_eq!(ask(&mut open, "shop.test").await.backend(), "a", "the open TLS connection broke");
    proxy.reload(&builder).await;
    client.connect(proxy.addr(), "shop.test").await;
}

#[tokio::test]
async fn host_other_than_the_server_name_is_421_unless_the_certificate_covers_it() {
    let a = Backend::start("a").await;
    let tls = TlsSetup::new(&["shop.test", "*.shop.test"]);
    let other = tls.authority.server(&["other.test"]);
    let other = tls.files.write("other.pem", other.pem());
    let proxy = secure(&format!("certs = [\"{}\", \"{other}\"]", tls.certs), &a).start().await;
    let client = tls.client();
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
    let addressed = TlsSetup::new(&["127.0.0.1"]);
    let proxy = secure(&addressed.keys(), &a).start().await;
    let mut raw = addressed.client().connect(proxy.addr(), "127.0.0.1").await;
    assert_eq!(ask(&mut raw, "whatever.test").await.status, 200);
}
