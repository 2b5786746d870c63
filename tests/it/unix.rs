//! Unix domain sockets: listeners, backends, checks.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use homing::app;
use tokio::net::UnixListener;

use crate::harness::{Backend, Proxy, ProxyBuilder, RawClient, eventually};

/// A proxy on a Unix domain socket, and on an IP address.
fn on(path: &Path, a: &Backend) -> ProxyBuilder {
    Proxy::builder().listener(&format!("unix:{}", path.display())).upstream("web", &[a])
}

#[tokio::test]
async fn a_unix_listener_serves_and_its_file_goes_with_it() {
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
    // Who comes over it counts as this machine.
    assert_eq!(a.last().field("x-forwarded-for"), Some("127.0.0.1"));
    assert!(proxy.shutdown(Duration::from_secs(5)).await);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_request_on_a_unix_listener_ends_in_peace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("homing.sock");
    let a = Backend::start("a").await;
    let proxy = on(&path, &a).workers(1).start().await;
    let mut served = RawClient::connect_unix(&path).await;
    served.get("/", &[]).await.assert_from("a");
    // Connected, perhaps not accepted.
    let mut waiting = RawClient::connect_unix(&path).await;
    let ending = proxy.shutting_down(Duration::from_secs(5));
    waiting.get("/", &[]).await.assert_from("a");
    served.assert_closed().await;
    assert!(ending.await.unwrap());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("homing.sock");
    let a = Backend::start("a").await;
    // What a process leaves that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let proxy = on(&path, &a).start().await;
    RawClient::connect_unix(&path).await.get("/", &[]).await.assert_from("a");

    let refused = app::start(on(&path, &a).config(), None).unwrap_err();
    assert!(refused.to_string().contains(&format!("cannot listen on unix:{}", path.display())), "{refused}");
    RawClient::connect_unix(&path).await.get("/", &[]).await.assert_from("a");
    drop(proxy);
    eventually("the file is gone", async || !path.exists()).await;

    std::fs::write(&path, "no socket").unwrap();
    assert!(app::start(on(&path, &a).config(), None).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "no socket");
}

#[tokio::test]
async fn a_reload_adds_keeps_and_removes_unix_listeners() {
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
    assert_eq!(file(&first), before, "the same socket");
    assert_eq!(std::fs::metadata(&first).unwrap().permissions().mode() & 0o777, 0o666);
    RawClient::connect_unix(&first).await.get("/", &[]).await.assert_from("a");
    RawClient::connect_unix(&second).await.get("/", &[]).await.assert_from("a");

    proxy.reload(&on(&second, &a)).await;
    assert!(!first.exists());
    RawClient::connect_unix(&second).await.get("/", &[]).await.assert_from("a");
    // Whoever was served goes on being served.
    kept.get("/", &[]).await.assert_from("a");
}

#[tokio::test]
async fn a_client_on_a_unix_listener_is_keyed_by_what_a_trusted_proxy_says() {
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
    assert_eq!(served("\"127.0.0.1\"").await, 2, "believed: many clients");
    assert_eq!(served("\"10.0.0.0/8\"").await, 1, "not believed: one client");
}

#[tokio::test]
async fn a_backend_on_a_unix_socket_is_served_from_checked_and_pooled() {
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
    eventually("checked", async || a.checks() > 1).await;
    proxy.backend_is("web", "a", true).await;
    // A request that names no host gets one that is right for a socket of this machine.
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
    assert!(served(&proxy) <= fresh + 1.0, "one connection is used again and again");

    // Its process dies, the file stays: refused, and down.
    a.leave_unix().await;
    proxy.backend_is("web", "a", false).await;
    client.get("/", &[]).await.assert_own(503, "unavailable");
    std::fs::remove_file(&path).unwrap();
    b.also_on(&path);
    proxy.backend_is("web", "a", true).await;
    proxy.raw().await.get("/", &[]).await.assert_from("b");
}

#[tokio::test]
async fn a_unix_backend_that_is_gone_is_failed_over_from() {
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
