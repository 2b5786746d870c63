//! IP addresses of listeners: IPv6, wildcards, several at once.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::harness::{Backend, Proxy, RawClient};

/// What a backend is told of a client that comes to the proxy's port at `there`.
async fn peer_at(there: SocketAddr, a: &Backend) -> String {
    RawClient::connect(there).await.get("/", &[]).await.assert_from("a");
    a.last().field("x-forwarded-for").expect("a client").to_owned()
}

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

#[tokio::test]
async fn an_ipv6_listener_serves_ipv6() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .listener("[::1]:0")
        .upstream("web", &[&a])
        .raw_toml("[forwarding]\nforwarded = true")
        .start()
        .await;
    let there = proxy.addresses()[1];
    assert!(there.is_ipv6());
    assert_eq!(peer_at(there, &a).await, "::1");
    let forwarded = a.last().field("forwarded").unwrap().to_owned();
    assert!(forwarded.starts_with("for=\"[::1]\""), "{forwarded}");
}

#[tokio::test]
async fn the_ipv6_wildcard_takes_ipv4_too_and_unmaps_it() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder()
        .listener("[::]:0")
        .upstream("web", &[&a])
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]")
        .start()
        .await;
    let port = proxy.addresses()[1].port();
    assert_eq!(peer_at(v6(port), &a).await, "::1");
    assert_eq!(peer_at(v4(port), &a).await, "127.0.0.1");
    // Trusted as what it is.
    let mut client = RawClient::connect(v4(port)).await;
    client.get("/", &["X-Forwarded-For: 192.0.2.1"]).await.assert_from("a");
    assert_eq!(a.last().field("x-forwarded-for"), Some("192.0.2.1, 127.0.0.1"));
}

#[tokio::test]
async fn the_ipv4_wildcard_takes_every_address_of_the_machine() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().listener("0.0.0.0:0").upstream("web", &[&a]).start().await;
    let port = proxy.addresses()[1].port();
    for last in 1..4 {
        let there = (Ipv4Addr::new(127, 0, 0, last), port).into();
        RawClient::connect(there).await.get("/", &[]).await.assert_from("a");
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
        assert_eq!(by.len(), 1, "session {n} has moved");
    }
}

#[tokio::test]
async fn an_ipv6_backend_is_reached() {
    let a = Backend::start("a").await;
    let listener = tokio::net::TcpListener::bind(v6(0)).await.unwrap();
    let there = listener.local_addr().unwrap();
    let behind = a.address;
    // What comes to IPv6 goes to the backend as it is.
    let relay = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut to = tokio::net::TcpStream::connect(behind).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
        }
    });
    let proxy = Proxy::builder().workers(1).upstream("web", &[]).member("a", there).start().await;
    let mut client = proxy.raw().await;
    client.send("GET / HTTP/1.0\r\n\r\n").await;
    client.response().await.assert_from("a");
    assert_eq!(a.last().field("host"), Some(there.to_string().as_str()));
    relay.abort();
}

#[tokio::test]
async fn backend_may_have_a_name() {
    let a = Backend::start("a").await;
    let address = format!("localhost:{}", a.address.port());
    let proxy = Proxy::builder().upstream("web", &[]).member("a", address).start().await;
    assert_eq!(proxy.client().get("/").await.backend(), "a");
    assert_eq!(a.last().field("host"), Some("test"), "the host asked for, not the backend's");
}
