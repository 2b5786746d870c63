//! Tunnels whose route or backend is removed by a reload. Only these are closed, within the grace
//! period.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Backend, Proxy, ProxyBuilder, RawClient, eventually};
use crate::tunnel::UPGRADE;

/// Close, 1001 going away.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xE9];
/// An unmasked text frame. The backends of these tests are plain echoes.
const HELLO: &[u8] = b"\x81\x05hello";

async fn open(proxy: &Proxy, path: &str) -> RawClient {
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE.replace("/chat", path)).await;
    assert_eq!(raw.head().await.status, 101);
    raw
}

async fn assert_echoes(raw: &mut RawClient) {
    raw.send(HELLO).await;
    assert_eq!(raw.exactly(HELLO.len()).await, HELLO);
}

async fn assert_going_away(mut raw: RawClient) {
    assert_eq!(raw.exactly(4).await, GOING_AWAY);
    raw.assert_closed().await;
}

/// `/a` routes to upstream a, everything else to b. Each has two tunnels.
struct Scene {
    backends: [Backend; 2],
    proxy: Proxy,
    to_a: [RawClient; 2],
    to_b: [RawClient; 2],
}

fn route(path: &str, upstream: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n")
}

fn upstreams([a, b]: &[Backend; 2], grace: &str) -> ProxyBuilder {
    let spare = "127.0.0.1:9";
    Proxy::builder()
        .server(&format!("shutdown_grace = \"{grace}\""))
        .upstream("a", &[a])
        .upstream("b", &[b])
        .member("spare", spare)
        .backend("spare", "state = \"maint\"")
}

fn whole(backends: &[Backend; 2], grace: &str) -> ProxyBuilder {
    upstreams(backends, grace).raw_toml(&(route("/a", "a") + &route("/", "b")))
}

async fn scene(grace: &str) -> Scene {
    let backends = [
        Backend::named("a").upgrade_echo("").start().await,
        Backend::named("b").upgrade_echo("").start().await,
    ];
    let proxy = whole(&backends, grace).start().await;
    let to_a = [open(&proxy, "/a").await, open(&proxy, "/a/x").await];
    let to_b = [open(&proxy, "/").await, open(&proxy, "/b").await];
    Scene { backends, proxy, to_a, to_b }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tunnels_of_a_removed_backend_are_closed_within_the_grace_period() {
    let Scene { backends, proxy, mut to_a, to_b } = scene("1500ms").await;
    let began = Instant::now();
    // The same id with another address is another server.
    let other = Backend::named("b").upgrade_echo("").start().await;
    let [a, _] = &backends;
    let without = Proxy::builder()
        .server("shutdown_grace = \"1500ms\"")
        .upstream("a", &[a])
        .upstream("b", &[&other])
        .raw_toml(&(route("/a", "a") + &route("/", "b")));
    proxy.reload(&without).await;
    for raw in to_b {
        assert_going_away(raw).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
    eventually("the backend connections close", async || backends[1].open() == 0).await;
    for raw in &mut to_a {
        assert_echoes(raw).await;
    }
    let mut anew = open(&proxy, "/b").await;
    assert_echoes(&mut anew).await;
    assert_eq!(other.requests(), 1);
    proxy.metric_becomes("homing_tunnels", &[], 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_tunnels_of_a_removed_route_are_closed_within_the_grace_period() {
    let Scene { backends, proxy, to_a, mut to_b } = scene("0s").await;
    // The path now routes to b, and a gets another one.
    proxy.reload(&upstreams(&backends, "0s").raw_toml(&(route("/other", "a") + &route("/", "b")))).await;
    for raw in to_a {
        assert_going_away(raw).await;
    }
    eventually("the backend connections close", async || backends[0].open() == 0).await;
    for raw in &mut to_b {
        assert_echoes(raw).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnel_stays_open_if_its_route_returns_within_the_grace_period() {
    let Scene { backends, proxy, mut to_a, mut to_b } = scene("60s").await;
    proxy.reload(&upstreams(&backends, "60s").raw_toml(&route("/a", "a"))).await;
    for raw in &mut to_a {
        assert_echoes(raw).await;
    }
    proxy.reload(&whole(&backends, "60s")).await;
    // Routes removed from now on have no grace period. A tunnel that still counts as removed would
    // be closed too.
    let gone = open(&proxy, "/c").await;
    let rest = route("/c", "a") + &route("/a", "a") + &route("/", "b");
    proxy.reload(&upstreams(&backends, "0s").raw_toml(&rest)).await;
    assert_going_away(gone).await;
    for raw in to_a.iter_mut().chain(&mut to_b) {
        assert_echoes(raw).await;
    }
    proxy.metric_becomes("homing_tunnels", &[], 4.0).await;
}
