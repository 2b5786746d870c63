//! Addresses of listeners and backends: IPv6, wildcards, several listeners, host names.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::harness::{Backend, Proxy, RawClient};

/// Returns the client address that the backend sees when a client connects to `address`.
async fn client_seen_at(address: SocketAddr, a: &Backend) -> String {
    RawClient::connect(address).await.get("/", &[]).await.assert_from("a");
    a.last().field("x-forwarded-for").expect("x-forwarded-for").to_owned()
}

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

#[tokio::test]
async fn ipv6_listener_serves_ipv6_clients() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .listener("[::1]:0")
        .upstream("web", &[&a])
        .raw_toml("[forwarding]\nforwarded = true")
        .start()
        .await;
    let address = proxy.addresses()[1];
    assert!(address.is_ipv6());
    assert_eq!(client_seen_at(address, &a).await, "::1");
    let forwarded = a.last().field("forwarded").unwrap().to_owned();
    assert!(forwarded.starts_with("for=\"[::1]\""), "{forwarded}");
}

#[tokio::test]
async fn ipv6_wildcard_accepts_ipv4_and_unmaps_its_addresses() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .listener("[::]:0")
        .upstream("web", &[&a])
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]")
        .start()
        .await;
    let port = proxy.addresses()[1].port();
    assert_eq!(client_seen_at(v6(port), &a).await, "::1");
    assert_eq!(client_seen_at(v4(port), &a).await, "127.0.0.1");
    // `trusted` matches the unmapped address.
    let mut client = RawClient::connect(v4(port)).await;
    client.get("/", &["X-Forwarded-For: 192.0.2.1"]).await.assert_from("a");
    assert_eq!(a.last().field("x-forwarded-for"), Some("192.0.2.1, 127.0.0.1"));
}

#[tokio::test]
async fn ipv4_wildcard_accepts_connections_to_every_local_address() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().listener("0.0.0.0:0").upstream("web", &[&a]).start().await;
    let port = proxy.addresses()[1].port();
    for last in 1..4 {
        let address = (Ipv4Addr::new(127, 0, 0, last), port).into();
        RawClient::connect(address).await.get("/", &[]).await.assert_from("a");
    }
}

#[tokio::test]
async fn several_listeners_share_sessions() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("homing.sock");
    let proxy = Proxy::builder()
        .listener("[::1]:0")
        .listener("127.0.0.2:0")
        .listener(&format!("unix:{}", path.display()))
        .upstream("web", &[&a, &b])
        .affinity("key = [\"cookie:SID\"], remember = \"table\"")
        .start()
        .await;
    let addresses = proxy.addresses();
    assert_eq!(addresses.len(), 3);
    for n in 0..16 {
        let cookie = format!("Cookie: SID=s{n}");
        let mut clients = vec![RawClient::connect_unix(&path).await];
        for address in &addresses {
            clients.push(RawClient::connect(*address).await);
        }
        let mut by = Vec::new();
        for client in &mut clients {
            by.push(client.get("/", &[&cookie]).await.backend().to_owned());
        }
        by.dedup();
        assert_eq!(by.len(), 1, "session {n} moved between listeners");
    }
}

#[tokio::test]
async fn requests_reach_an_ipv6_backend() {
    let a = Backend::start("a").await;
    let listener = tokio::net::TcpListener::bind(v6(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let backend = a.address;
    // Relays connections from the IPv6 address to the backend.
    let relay = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = tokio::net::TcpStream::connect(backend).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        }
    });
    let proxy = Proxy::builder().workers(1).upstream("web", &[]).member("a", address).start().await;
    let mut client = proxy.raw().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    client.response().await.assert_from("a");
    assert_eq!(a.last().field("host"), Some(address.to_string().as_str()));
    relay.abort();
}

#[tokio::test]
async fn backend_address_may_be_a_host_name() {
    let a = Backend::start("a").await;
    let address = format!("localhost:{}", a.address.port());
    let proxy = Proxy::builder().upstream("web", &[]).member("a", address).start().await;
    assert_eq!(proxy.client().get("/").await.backend(), "a");
    assert_eq!(a.last().field("host"), Some("test"), "Host must be the one that the client sent");
}
