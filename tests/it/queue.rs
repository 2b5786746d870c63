//! The line at backends that are at their `max_connections`.

use std::net::IpAddr;
use std::time::Duration;

use homing::affinity::AdminState;
use tokio::time::Instant;

use crate::harness::{Backend, Gate, Proxy, ProxyBuilder, RawClient, Script, Step, eventually};

fn get(sid: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: test\r\nCookie: SID={sid}\r\n\r\n")
}

fn keyed(backends: &[&Backend]) -> ProxyBuilder {
    Proxy::builder().upstream("web", backends).affinity(r#"key = ["cookie:SID"], report = true"#)
}

/// A backend with one place, which a request holds until the gate opens.
async fn occupied(builder: impl FnOnce(&Backend) -> ProxyBuilder) -> (Proxy, Backend, Gate, RawClient) {
    let gate = Gate::closed();
    let a = Backend::named("a").start().await;
    let proxy = builder(&a).backend("a", "max_connections = 1").start().await;
    assert_eq!(proxy.session("known").get("/").await.backend(), "a");
    proxy.metric_becomes("homing_backend_in_flight", &[], 0.0).await;
    a.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    let mut busy = proxy.raw().await;
    busy.send(get("busy")).await;
    eventually("the backend is busy", async || a.requests() == 2).await;
    (proxy, a, gate, busy)
}

fn waiting(proxy: &Proxy, requests: f64) -> impl Future<Output = ()> {
    proxy.metric_becomes("homing_queue_length", &[], requests)
}

#[tokio::test]
async fn session_waits_for_a_place_at_its_backend() {
    let (proxy, a, gate, mut busy) = occupied(|a| keyed(&[a])).await;
    let mut known = proxy.raw().await;
    known.send(get("known")).await;
    waiting(&proxy, 1.0).await;
    assert_eq!(a.requests(), 2, "the limit was exceeded");
    known.assert_quiet();
    gate.open();
    assert_eq!(busy.response().await.backend(), "a");
    let reply = known.response().await;
    assert_eq!(reply.backend(), "a");
    assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
    waiting(&proxy, 0.0).await;
    assert!(proxy.metric("homing_queue_left_total", &[("result", "served")]) > 0.5);
}

#[tokio::test]
async fn http2_streams_wait_too() {
    let (proxy, a, gate, mut busy) = occupied(|a| keyed(&[a])).await;
    let h2 = proxy.http2().await;
    let stream = h2.open(h2.request("GET", "/").header("cookie", "SID=known"), true).await;
    waiting(&proxy, 1.0).await;
    assert_eq!(a.requests(), 2);
    gate.open();
    assert_eq!(stream.response().await.backend(), "a");
    assert_eq!(busy.response().await.backend(), "a");
}

#[tokio::test]
async fn existing_session_goes_before_a_new_one() {
    let (proxy, a, gate, mut busy) = occupied(|a| keyed(&[a])).await;
    let (mut new, mut known) = (proxy.raw().await, proxy.raw().await);
    new.send(get("new")).await;
    waiting(&proxy, 1.0).await;
    known.send(get("known")).await;
    waiting(&proxy, 2.0).await;
    gate.open();
    assert_eq!(busy.response().await.backend(), "a");
    assert_eq!(known.response().await.backend(), "a");
    assert_eq!(new.response().await.backend(), "a");
    let order: Vec<_> = a.seen().iter().filter_map(|seen| seen.field("cookie").map(str::to_owned)).collect();
    assert_eq!(order, ["SID=known", "SID=busy", "SID=known", "SID=new"]);
}

#[tokio::test]
async fn client_that_fills_a_backend_gets_no_place_before_others() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = keyed(&[&a]).backend("a", "max_connections = 2").start().await;
    let (mut kept, mut ended) = (proxy.raw().await, proxy.raw().await);
    kept.send(get("greedy")).await;
    ended.send(get("greedy")).await;
    eventually("the backend is full", async || a.requests() == 2).await;
    let (mut greedy, other) = (proxy.raw().await, IpAddr::from([127, 0, 0, 9]));
    greedy.send(get("greedy")).await;
    waiting(&proxy, 1.0).await;
    let mut honest = RawClient::connect_from(other, proxy.addr()).await;
    honest.send(get("greedy")).await;
    waiting(&proxy, 2.0).await;
    ended.reset();
    waiting(&proxy, 1.0).await;
    greedy.assert_quiet();
    eventually("the request arrives", async || a.requests() == 3).await;
    assert!(a.last().field("x-forwarded-for").is_some_and(|client| client == "127.0.0.9"));
    gate.open();
    assert_eq!(honest.response().await.backend(), "a");
    assert_eq!(greedy.response().await.backend(), "a");
    assert_eq!(kept.response().await.backend(), "a");
}

#[tokio::test]
async fn wait_ends_with_503_after_its_timeout() {
    let (proxy, a, gate, mut busy) =
        occupied(|a| keyed(&[a]).lines("queue = { timeout = \"200ms\" }\nretry = { retry_after = \"3s\" }"))
            .await;
    for sid in ["known", "new"] {
        let began = Instant::now();
        let reply = proxy.session(sid).get("/").await;
        assert_eq!(reply.status, 503, "{sid}");
        assert_eq!(reply.field("retry-after"), Some("3"));
        assert!(began.elapsed() >= Duration::from_millis(200), "{sid}: did not wait");
    }
    assert!(proxy.metric("homing_queue_left_total", &[("result", "timeout")]) > 1.5);
    assert_eq!(a.requests(), 2);
    gate.open();
    assert_eq!(busy.response().await.backend(), "a");
}

#[tokio::test]
async fn full_line_turns_away_the_client_with_the_most_waiting_requests() {
    let (proxy, _a, gate, mut busy) = occupied(|a| keyed(&[a]).lines("queue = { max = 2 }")).await;
    let (mut one, mut two) = (proxy.raw().await, proxy.raw().await);
    one.send(get("known")).await;
    waiting(&proxy, 1.0).await;
    two.send(get("known")).await;
    waiting(&proxy, 2.0).await;
    proxy.session("known").get("/").await.assert_own(503, "saturated");
    let mut honest = RawClient::connect_from([127, 0, 0, 9].into(), proxy.addr()).await;
    honest.send(get("honest")).await;
    two.response().await.assert_own(503, "saturated");
    waiting(&proxy, 2.0).await;
    gate.open();
    assert_eq!(busy.response().await.backend(), "a");
    assert_eq!(one.response().await.backend(), "a");
    assert_eq!(honest.response().await.backend(), "a");
}

#[tokio::test]
async fn new_session_takes_the_first_place_at_any_backend() {
    let gates = [Gate::closed(), Gate::closed()];
    let a = Backend::named("a").reply_after(&gates[0]).start().await;
    let b = Backend::named("b").reply_after(&gates[1]).start().await;
    let proxy = keyed(&[&a, &b]).backend("a", "max_connections = 1").backend("b", "max_connections = 1");
    let proxy = proxy.start().await;
    let (mut one, mut two, mut new) = (proxy.raw().await, proxy.raw().await, proxy.raw().await);
    one.send(get("one")).await;
    eventually("one backend is busy", async || a.requests() + b.requests() == 1).await;
    two.send(get("two")).await;
    eventually("both are busy", async || a.requests() == 1 && b.requests() == 1).await;
    new.send(get("three")).await;
    waiting(&proxy, 1.0).await;
    gates[1].open();
    let reply = new.response().await;
    assert_eq!(reply.backend(), "b");
    assert!(reply.outcome().starts_with("new"), "{}", reply.outcome());
    gates[0].open();
    let mut served = [one.response().await.backend().to_owned(), two.response().await.backend().to_owned()];
    served.sort();
    assert_eq!(served, ["a", "b"]);
}

#[tokio::test]
async fn waiting_session_fails_over_when_its_backend_goes_away() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let b = Backend::start("b").await;
    let proxy = keyed(&[&a, &b]).backend("a", "max_connections = 1").start().await;
    let mut busy = proxy.raw().await;
    let mut sid = String::new();
    for n in 0.. {
        sid = format!("s{n}");
        busy.send(get(&sid)).await;
        eventually("a backend has the request", async || a.requests() + b.requests() > n).await;
        if a.requests() == 1 {
            break;
        }
        assert_eq!(busy.response().await.backend(), "b");
    }
    let mut same = proxy.raw().await;
    same.send(get(&sid)).await;
    waiting(&proxy, 1.0).await;
    proxy.set_state("web", "a", AdminState::Maint).await;
    let reply = same.response().await;
    assert_eq!(reply.backend(), "b");
    assert!(reply.outcome().starts_with("moved; reason=maint"), "{}", reply.outcome());
    gate.open();
    assert_eq!(busy.response().await.backend(), "a");
}

#[tokio::test]
async fn client_that_disconnects_leaves_the_line() {
    let (proxy, a, gate, mut busy) = occupied(|a| keyed(&[a])).await;
    let mut gone = proxy.raw().await;
    gone.send(get("known")).await;
    waiting(&proxy, 1.0).await;
    gone.reset();
    waiting(&proxy, 0.0).await;
    gate.open();
    assert_eq!(busy.response().await.backend(), "a");
    assert_eq!(proxy.session("known").get("/").await.backend(), "a", "the place was lost");
    assert_eq!(a.requests(), 3);
}
