//! Unix domain sockets: listeners, backends, health checks.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use homing::app;
use tokio::net::UnixListener;

use crate::harness::{Backend, Proxy, ProxyBuilder, RawClient, eventually};

/// A proxy that listens on a Unix domain socket and on an IP address.
fn on(path: &Path, a: &Backend) -> ProxyBuilder {
    Proxy::builder().listener(&format!("unix:{}", path.display())).upstream("web", &[a])
}

#[tokio::test]
async fn unix_listener_serves_and_removes_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("homing.sock");
    let a = Backend::start("a").await;
    let proxy = on(&path, &a).listener_line("mode = \"0600\"").start().await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    for _ in 0..8 {
        let mut client = RawClient::connect_unix(&path).await;
        client.get("/", &[]).await.assert_from("a");
        client.get("/again", &[]).await.assert_from("a");
    }
    // Its clients count as local.
    assert_eq!(a.last().field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(proxy.shutdown(Duration::from_secs(5)).await);
    assert!(!path.exists());
}

#[tokio::test]
async fn shutdown_serves_connected_unix_clients() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("homing.sock");
    let a = Backend::start("a").await;
    let proxy = on(&path, &a).workers(1).start().await;
    let mut served = RawClient::connect_unix(&path).await;
    served.get("/", &[]).await.assert_from("a");
    // Connected, but perhaps not accepted yet.
    let mut waiting = RawClient::connect_unix(&path).await;
    let ending = proxy.shutting_down(Duration::from_secs(5));
    waiting.get("/", &[]).await.assert_from("a");
    served.assert_closed().await;
    assert!(ending.await.unwrap());
}

#[tokio::test]
async fn stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("homing.sock");
    let a = Backend::start("a").await;
    // A killed process leaves its socket file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let proxy = on(&path, &a).start().await;
    RawClient::connect_unix(&path).await.get("/", &[]).await.assert_from("a");

    let refused = app::start(on(&path, &a).config(), None).unwrap_err();
    assert!(refused.to_string().contains(&format!("cannot listen on unix:{}", path.display())), "{refused}");
    RawClient::connect_unix(&path).await.get("/", &[]).await.assert_from("a");
    drop(proxy);
    eventually("the socket file is removed", async || !path.exists()).await;

    std::fs::write(&path, "not a socket").unwrap();
    assert!(app::start(on(&path, &a).config(), None).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a socket");
}

#[tokio::test]
async fn reload_adds_keeps_and_removes_unix_listeners() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first.sock"), folder.path().join("second.sock"));
    let a = Backend::start("a").await;
    let proxy = on(&first, &a).start().await;
    let mut kept = RawClient::connect_unix(&first).await;
    kept.get("/", &[]).await.assert_from("a");
    let file = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let before = file(&first);

    let second_too =
        on(&first, &a).listener_line("mode = \"0666\"").listener(&format!("unix:{}", second.display()));
    proxy.reload(&second_too).await;
    assert_eq!(file(&first), before, "the socket was replaced");
    assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o666);
    RawClient::connect_unix(&first).await.get("/", &[]).await.assert_from("a");
    RawClient::connect_unix(&second).await.get("/", &[]).await.assert_from("a");

    proxy.reload(&on(&second, &a)).await;
    assert!(!first.exists());
    RawClient::connect_unix(&second).await.get("/", &[]).await.assert_from("a");
    // The existing connection is still served.
    kept.get("/", &[]).await.assert_from("a");
}

#[tokio::test]
async fn unix_clients_are_keyed_by_the_forwarded_address_if_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("homing.sock");
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let trusting = |trusted: &str| {
        Proxy::builder()
            .listener(&format!("unix:{}", path.display()))
            .upstream("web", &[&a, &b])
            .affinity("key = [\"ip\"], remember = \"none\"")
            .raw_toml(&format!("[client_ip]\ntrusted = [{trusted}]"))
    };
    let served = async |trusted: &str| {
        let proxy = trusting(trusted).start().await;
        let mut by = Vec::new();
        for n in 0..32 {
            let field = format!("X-Forwarded-For: 198.51.100.{n}");
            let response = RawClient::connect_unix(&path).await.get("/", &[&field]).await;
            by.push(response.field("x-backend").unwrap().to_owned());
        }
        assert!(proxy.shutdown(Duration::from_secs(5)).await);
        by.sort();
        by.dedup();
        by.len()
    };
    assert_eq!(served("\"127.0.0.1\"").await, 2, "a trusted peer must stand for many clients");
    assert_eq!(served("\"10.0.0.0/8\"").await, 1, "an untrusted peer must count as one client");
}

#[tokio::test]
async fn unix_backend_is_served_checked_and_pooled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    a.also_on(&path);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[])
        .member("a", format!("unix:{}", path.display()))
        .health_check(
            "path = \"/healthz\", interval = \"20ms\", fast_interval = \"20ms\", rise = 1, fall = 1",
        )
        .start()
        .await;
    eventually("health checks arrive", async || a.checks() > 1).await;
    proxy.backend_is("web", "a", true).await;
    // A request without Host gets `localhost`.
    let mut old = proxy.raw().await;
    old.send("GET / HTTP/1.0\r\n\r\n").await;
    old.response().await.assert_from("a");
    assert_eq!(a.last().field("host"), Some("localhost"));
    let mut client = proxy.raw().await;
    let served = |proxy: &Proxy| proxy.metric("homing_pool_connections_total", &[("use", "fresh")]);
    let fresh = served(&proxy);
    for _ in 0..4 {
        client.request("POST", "/", &[], b"body").await.assert_from("a");
    }
    assert!(served(&proxy) <= fresh + 1.0, "the connection was not reused");

    // The process dies but its file stays: connections are refused and the backend is down.
    a.leave_unix().await;
    proxy.backend_is("web", "a", false).await;
    client.get("/", &[]).await.assert_own(503, "unavailable");
    std::fs::remove_file(&path).unwrap();
    b.also_on(&path);
    proxy.backend_is("web", "a", true).await;
    proxy.raw().await.get("/", &[]).await.assert_from("b");
}

#[tokio::test]
async fn requests_fail_over_from_a_dead_unix_backend() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    drop(UnixListener::bind(&path).unwrap());
    let b = Backend::start("b").await;
    let proxy = Proxy::builder()
        .upstream("web", &[&b])
        .member("dead", format!("unix:{}", path.display()))
        .member("missing", "unix:/nonexistent/app.sock")
        .start()
        .await;
    for n in 0..16 {
        proxy.session(&format!("s{n}")).get("/").await.assert_from("b");
    }
}
