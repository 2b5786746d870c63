//! Tunnels whose route or backend a reload removes: they, and no others, have
//! the grace period to end.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Backend, Proxy, ProxyBuilder, RawClient, eventually};
use crate::tunnel::UPGRADE;

/// Close, 1001 going away.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xE9];
/// A text frame, unmasked: the backends of these tests send back what they get.
const HELLO: &[u8] = b"\x81\x05hello";

async fn open(proxy: &Proxy, path: &str) -> RawClient {
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE.replace("/chat", path)).await;
    assert_eq!(raw.head().await.status, 101);
    raw
}

async fn assert_goes_on(raw: &mut RawClient) {
    raw.send(HELLO).await;
    assert_eq!(raw.exactly(HELLO.len()).await, HELLO);
}

async fn assert_told(mut raw: RawClient) {
    assert_eq!(raw.exactly(4).await, GOING_AWAY);
    raw.assert_closed().await;
}

/// `/a` leads to one upstream, the rest to another; each has two tunnels.
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
async fn removed_backends_tunnels_are_told_within_the_grace_and_no_others() {
    let Scene { backends, proxy, mut to_a, to_b } = scene("1500ms").await;
    let began = Instant::now();
    // Its id stays, its address is another: it is another server.
    let other = Backend::named("b").upgrade_echo("").start().await;
    let [a, _] = &backends;
    let without = Proxy::builder()
        .server("shutdown_grace = \"1500ms\"")
        .upstream("a", &[a])
        .upstream("b", &[&other])
        .raw_toml(&(route("/a", "a") + &route("/", "b")));
    proxy.reload(&without).await;
    for raw in to_b {
        assert_told(raw).await;
    }
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(5), "{took:?}");
    eventually("the backend is let go", async || backends[1].open() == 0).await;
    for raw in &mut to_a {
        assert_goes_on(raw).await;
    }
    let mut anew = open(&proxy, "/b").await;
    assert_goes_on(&mut anew).await;
    assert_eq!(other.requests(), 1);
    proxy.metric_becomes("homing_tunnels", &[], 3.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_routes_tunnels_are_told_within_the_grace_and_no_others() {
    let Scene { backends, proxy, to_a, mut to_b } = scene("0s").await;
    // The path is b's now, and a serves another one.
    proxy.reload(&upstreams(&backends, "0s").raw_toml(&(route("/other", "a") + &route("/", "b")))).await;
    for raw in to_a {
        assert_told(raw).await;
    }
    eventually("the backend is let go", async || backends[0].open() == 0).await;
    for raw in &mut to_b {
        assert_goes_on(raw).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnel_stays_if_its_route_is_back_before_the_grace_is_over() {
    let Scene { backends, proxy, mut to_a, mut to_b } = scene("60s").await;
    proxy.reload(&upstreams(&backends, "60s").raw_toml(&route("/a", "a"))).await;
    for raw in &mut to_a {
        assert_goes_on(raw).await;
    }
    proxy.reload(&whole(&backends, "60s")).await;
    // What is gone now has no time at all: who is still counted as gone would end with it.
    let gone = open(&proxy, "/c").await;
    let rest = route("/c", "a") + &route("/a", "a") + &route("/", "b");
    proxy.reload(&upstreams(&backends, "0s").raw_toml(&rest)).await;
    assert_told(gone).await;
    for raw in to_a.iter_mut().chain(&mut to_b) {
        assert_goes_on(raw).await;
    }
    proxy.metric_becomes("homing_tunnels", &[], 4.0).await;
}
