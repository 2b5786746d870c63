//! TLS to backends.

use crate::harness::{
    Authority, Backend, Proxy, ProxyBuilder, Script, Step, TlsSetup, eventually, server_config,
};

/// Returns a plain HTTP proxy whose backends speak TLS.
fn to_tls_backends(ca: &str, more: &str, backends: &[&Backend]) -> ProxyBuilder {
    Proxy::builder().workers(1).upstream("web", backends).lines(&format!("tls = {{ ca = \"{ca}\"{more} }}"))
}

#[tokio::test]
async fn backend_tls_connections_are_pooled_and_sessions_resumed() {
    let tls = TlsSetup::new(&["shop.test"]);
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let named = server_config(&tls.authority.server(&["app.internal"]), None);
    let a = Backend::named("a").tls(&named).start().await;
    let builder = to_tls_backends(&ca, ", server_name = \"app.internal\"", &[&a]);
    let proxy = builder.clone().start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..20 {
        assert_eq!(raw.get("/", &[]).await.backend(), "a");
    }
    // A TLS key update must not close a pooled connection.
    a.set(Script::new([Step::ReadHead, Step::ReadBody, Step::Reply, Step::Rekey]));
    for _ in 0..20 {
        assert_eq!(raw.get("/", &[]).await.backend(), "a");
    }
    proxy.reload(&builder).await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    assert_eq!(
        (a.connections(), a.handshakes()),
        (1, (1, 0)),
        "a reload without changes closed a pooled connection"
    );
    assert_eq!(a.server_names(), [Some("app.internal".to_owned())]);

    // A connection closed by the backend is not reused.
    a.set(Script::new([Step::ReadHead, Step::ReadBody, Step::Reply, Step::Close]));
    for n in 2..5 {
        assert_eq!(raw.get("/", &[]).await.backend(), "a");
        eventually("the connection closes", async || a.open() == 0).await;
        assert_eq!(a.connections(), n - 1);
    }
    assert_eq!(a.handshakes(), (3, 2), "a later connection did not resume the session");

    // A connection made with the old TLS settings is not used with new ones.
    a.set(Script::reply());
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    proxy.reload(&to_tls_backends(&ca, ", server_name = \"other.internal\"", &[&a])).await;
    raw.get("/", &[]).await.assert_own(502, "backend_tls_failed");

    let silent = to_tls_backends(&ca, ", server_name = \"app.internal\", sni = false", &[&a]).start().await;
    assert_eq!(silent.raw().await.get("/", &[]).await.backend(), "a");
    assert_eq!(a.server_names().last(), Some(&None));
}

#[tokio::test]
async fn untrusted_backend_certificate_is_502_and_the_next_backend_is_tried() {
    let tls = TlsSetup::new(&["shop.test"]);
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let good = server_config(&tls.authority.server(&["127.0.0.1"]), None);
    let wrong_name = server_config(&tls.authority.server(&["app.internal"]), None);
    let wrong_authority = server_config(&Authority::new().server(&["127.0.0.1"]), None);
    let a = Backend::named("a").tls(&good).start().await;
    let b = Backend::named("b").tls(&wrong_name).start().await;
    for bad in [&wrong_name, &wrong_authority] {
        b.set_tls(bad);
        let proxy = to_tls_backends(&ca, "", &[&b]).start().await;
        proxy.raw().await.get("/", &[]).await.assert_own(502, "backend_tls_failed");
        let bad_request = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
        let plain =
            Backend::named("c").script(Script::new([Step::Send(bad_request), Step::Close])).start().await;
        let proxy = to_tls_backends(&ca, "", &[&plain]).start().await;
        proxy.raw().await.get("/", &[]).await.assert_own(502, "backend_tls_failed");
    }
    assert_eq!(b.requests(), 0);
    let proxy = to_tls_backends(&ca, "", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    for n in 0..10 {
        assert_eq!(proxy.session(&format!("s{n}")).get("/").await.backend(), "a");
    }
    let trusting = Proxy::builder().upstream("web", &[&b]).lines("tls = { verify = false }").start().await;
    assert_eq!(
        trusting.raw().await.get("/", &[]).await.backend(),
        "b",
        "refused although verification is off"
    );
}

#[tokio::test]
async fn backends_get_a_client_certificate_and_health_checks_use_tls() {
    let tls = TlsSetup::new(&["shop.test"]);
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let mine = tls.authority.client("homing");
    let (cert, key) =
        (tls.files.write("homing.crt", &mine.certificate), tls.files.write("homing.key", &mine.key));
    let asking = server_config(&tls.authority.server(&["127.0.0.1"]), Some(&tls.authority));
    let a = Backend::named("a").tls(&asking).start().await;
    let shown = format!(", client_cert = \"{cert}\", client_key = \"{key}\"");
    let checks = "path = \"/healthz\", interval = \"50ms\", rise = 1, fall = 1";
    let proxy = to_tls_backends(&ca, &shown, &[&a]).health_check(checks).start().await;
    assert_eq!(proxy.raw().await.get("/", &[]).await.backend(), "a");
    eventually("health checks arrive", async || a.checks() > 1).await;
    proxy.backend_is("web", "a", true).await;
    a.set_tls(&server_config(&Authority::new().server(&["127.0.0.1"]), None));
    proxy.backend_is("web", "a", false).await;

    let a = Backend::named("a").tls(&asking).start().await;
    let without = to_tls_backends(&ca, "", &[&a]).start().await;
    // With TLS 1.3, the backend rejects a client after the handshake, so only the backend knows why.
    assert_eq!(without.raw().await.get("/", &[]).await.status, 502);
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn changed_ca_is_used_by_the_next_connection() {
    let tls = TlsSetup::new(&["shop.test"]);
    let next = Authority::new();
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let a = Backend::named("a").tls(&server_config(&tls.authority.server(&["127.0.0.1"]), None));
    let a = a.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Reply, Step::Close])).start().await;
    let builder = to_tls_backends(&ca, "", &[&a]);
    let proxy = builder.clone().start().await;
    assert_eq!(proxy.raw().await.get("/", &[]).await.backend(), "a");
    // A reload with other changes must keep watching the file.
    proxy.reload(&builder.limits("fields = 99")).await;
    a.set_tls(&server_config(&next.server(&["127.0.0.1"]), None));
    proxy.raw().await.get("/", &[]).await.assert_own(502, "backend_tls_failed");
    tls.files.write("ca.pem", &next.pem);
    eventually("the new CA is used", async || proxy.raw().await.get("/", &[]).await.status == 200).await;
}

#[tokio::test]
async fn response_truncated_without_close_notify_does_not_look_complete() {
    let tls = TlsSetup::new(&["shop.test"]);
    let ca = tls.files.write("ca.pem", &tls.authority.pem);
    let config = server_config(&tls.authority.server(&["127.0.0.1"]), None);
    let a = Backend::named("a").tls(&config).until_close("all of it").start().await;
    let proxy = to_tls_backends(&ca, "", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    // Closed without close_notify: an attacker could have truncated it.
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    raw.head().await;
    raw.assert_broken().await;
    let head = "HTTP/1.1 200 OK\r\nX-Backend: a\r\n\r\nall of it";
    a.set(Script::raw_then(head, Step::HalfClose));
    assert_eq!(proxy.raw().await.get("/", &[]).await.body, b"all of it");
}
