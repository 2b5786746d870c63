//! PROXY headers to backends.

use std::net::SocketAddr;

use crate::harness::{Authority, Backend, Gate, Proxy, ProxyBuilder, RawClient, eventually, server_config};

fn announcing(version: &str, backends: &[&Backend]) -> ProxyBuilder {
    Proxy::builder()
        .workers(1)
        .upstream("web", backends)
        .lines(&format!("proxy_protocol = \"{version}\""))
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.9\"]")
}

/// Connects a client from this address. Returns it and its port.
async fn from(address: &str, proxy: &Proxy) -> (RawClient, u16) {
    let client = RawClient::connect_from(address.parse().expect("an address"), proxy.addr()).await;
    let port = client.port();
    (client, port)
}

fn text(header: &[u8]) -> String {
    String::from_utf8_lossy(header).into_owned()
}

#[tokio::test]
async fn version_1_names_the_client() {
    let a = Backend::named("a").announced().start().await;
    let proxy = announcing("v1", &[&a]).start().await;
    let own = proxy.addr().port();
    let (mut client, port) = from("127.0.0.2", &proxy).await;
    client.get("/", &[]).await.assert_from("a");
    assert_eq!(text(&a.last().proxy_header), format!("PROXY TCP4 127.0.0.2 127.0.0.1 {port} {own}\r\n"));

    // The client that a trusted proxy names. Its port is unknown.
    let (mut relayed, _) = from("127.0.0.9", &proxy).await;
    relayed.get("/", &["X-Forwarded-For: 198.51.100.7"]).await.assert_from("a");
    assert_eq!(text(&a.last().proxy_header), format!("PROXY TCP4 198.51.100.7 127.0.0.1 0 {own}\r\n"));
    relayed.get("/", &["X-Forwarded-For: 2001:db8::7"]).await.assert_from("a");
    assert_eq!(text(&a.last().proxy_header), format!("PROXY TCP6 2001:db8::7 ::ffff:7f00:1 0 {own}\r\n"));
}

#[tokio::test]
async fn version_2_names_the_client() {
    let a = Backend::named("a").announced().start().await;
    let proxy = announcing("v2", &[&a]).start().await;
    let (mut client, port) = from("127.0.0.2", &proxy).await;
    client.request("POST", "/", &[], b"body").await.assert_from("a");
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x02\x7f\0\0\x01".to_vec();
    expected.extend(port.to_be_bytes());
    expected.extend(proxy.addr().port().to_be_bytes());
    assert_eq!(a.last().proxy_header, expected);
}

#[tokio::test]
async fn addresses_from_an_incoming_header_are_forwarded() {
    let a = Backend::named("a").announced().start().await;
    let proxy = announcing("v1", &[&a])
        .raw_toml("[access_log]\nformat = \"off\"")
        .listener_line("proxy_protocol = \"required\"")
        .start()
        .await;
    let (mut client, _) = from("127.0.0.9", &proxy).await;
    let header = "PROXY TCP4 198.51.100.7 203.0.113.1 4321 443\r\n";
    client.send(header).await;
    client.get("/", &[]).await.assert_from("a");
    assert_eq!(text(&a.last().proxy_header), header);
}

#[tokio::test]
async fn connection_announced_for_one_client_never_carries_another() {
    let a = Backend::named("a").announced().start().await;
    let proxy = announcing("v1", &[&a]).start().await;
    let (mut one, one_port) = from("127.0.0.2", &proxy).await;
    let (mut other, other_port) = from("127.0.0.2", &proxy).await;
    let (mut relayed, _) = from("127.0.0.9", &proxy).await;
    for round in 0..8 {
        let path = format!("/{round}");
        one.get(&path, &[]).await.assert_from("a");
        assert!(text(&a.last().proxy_header).contains(&format!(" {one_port} ")));
        other.get(&path, &[]).await.assert_from("a");
        assert!(text(&a.last().proxy_header).contains(&format!(" {other_port} ")));
        // One connection carries requests of many clients.
        let client = format!("198.51.100.{}", round % 4);
        relayed.get(&path, &[&format!("X-Forwarded-For: {client}")]).await.assert_from("a");
        assert!(text(&a.last().proxy_header).contains(&format!(" {client} ")));
    }
    // Connections are reused per client: two direct ones, and four that the trusted proxy named.
    assert_eq!(a.connections(), 6);
    proxy.metric_becomes("homing_pool_connections_total", &[("use", "reused")], 18.0).await;
    // They close with the client's connection.
    drop((one, relayed));
    eventually("only one connection is left", async || a.open() == 1).await;
    other.get("/", &[]).await.assert_from("a");
    assert_eq!(a.connections(), 6);
}

#[tokio::test]
async fn concurrent_clients_get_their_own_connections() {
    let gate = Gate::closed();
    let a = Backend::named("a").announced().reply_after(&gate).start().await;
    let proxy =
        announcing("v1", &[&a]).lines("proxy_protocol = \"v1\"\npool = { max_idle = 2 }").start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let (mut client, port) = from("127.0.0.3", &proxy).await;
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
        clients.push((client, port));
    }
    eventually("all requests arrive", async || a.requests() == 8).await;
    gate.open();
    for (client, _) in &mut clients {
        client.response().await.assert_from("a");
    }
    let announced: Vec<_> = a.proxy_headers().iter().map(|header| text(header)).collect();
    for (mut client, port) in clients {
        let names_port = |header: &&String| header.contains(&format!(" {port} "));
        assert_eq!(announced.iter().filter(names_port).count(), 1);
        client.get("/again", &[]).await.assert_from("a");
        assert!(text(&a.last().proxy_header).contains(&format!(" {port} ")));
    }
}

#[tokio::test]
async fn header_is_sent_before_tls_and_on_unix_sockets() {
    let authority = Authority::new();
    let secure = Backend::named("a")
        .announced()
        .tls(&server_config(&authority.server(&["app.test"]), None))
        .start()
        .await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let tls =
        format!("proxy_protocol = \"v1\"\ntls = {{ ca = \"{}\", server_name = \"app.test\" }}", ca.display());
    let proxy = Proxy::builder().upstream("web", &[&secure]).lines(&tls).start().await;
    let (mut client, port) = from("127.0.0.2", &proxy).await;
    client.get("/", &[]).await.assert_from("a");
    assert!(text(&secure.last().proxy_header).contains(&format!(" {port} ")));

    let local = Backend::named("b").announced().start().await;
    let (app, front) = (folder.path().join("app.sock"), folder.path().join("front.sock"));
    local.also_on(&app);
    let proxy = announcing("v1", &[])
        .member("b", format!("unix:{}", app.display()))
        .listener(&format!("unix:{}", front.display()))
        .start()
        .await;
    RawClient::connect_unix(&front).await.get("/", &[]).await.assert_from("b");
    assert_eq!(text(&local.last().proxy_header), "PROXY TCP4 127.0.0.1 0.0.0.0 0 0\r\n");
    drop(proxy);
}

#[tokio::test]
async fn health_checks_announce_no_client() {
    for (version, check) in
        [("v1", "path = \"/healthz\""), ("v2", "path = \"/healthz\""), ("v2", "tcp = true")]
    {
        let a = Backend::named("a").announced().start().await;
        let proxy = announcing(version, &[&a])
            .health_check(&format!("{check}, interval = \"20ms\", fast_interval = \"20ms\""))
            .start()
            .await;
        eventually("health checks arrive", async || a.proxy_headers().len() > 2).await;
        let header = a.proxy_headers()[0].clone();
        if version == "v2" {
            assert_eq!(header, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        } else {
            let SocketAddr::V4(address) = a.address else { panic!("IPv4") };
            let (header, port) = (text(&header), address.port());
            assert!(header.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{header}");
            assert!(header.ends_with(&format!(" {port}\r\n")), "{header}");
        }
        proxy.backend_is("web", "a", true).await;
    }
}

#[tokio::test]
async fn reload_that_changes_the_header_version_reuses_no_connection() {
    let a = Backend::named("a").announced().start().await;
    let b = Backend::start("b").await;
    let with = |version: &str, backend: &Backend| announcing(version, &[backend]);
    let proxy = with("off", &b).start().await;
    let mut client = proxy.raw().await;
    client.get("/", &[]).await.assert_from("b");
    let v1 = with("v1", &a);
    proxy.reload(&v1).await;
    client.get("/", &[]).await.assert_from("a");
    let v2 = with("v2", &a);
    proxy.reload(&v2).await;
    client.get("/", &[]).await.assert_from("a");
    assert!(a.last().proxy_header.starts_with(b"\r\n"), "a connection with a version 1 header was reused");
}
