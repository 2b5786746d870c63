//! Health: active checks, passive checks and slow start.

use crate::harness::{Backend, Client, Proxy, ProxyBuilder, Script, Step, eventually};

/// Frequent health checks.
const FAST: &str = r#"path = "/healthz", interval = "20ms", fast_interval = "20ms", rise = 2, fall = 2"#;

async fn two() -> [Backend; 2] {
    [Backend::start("a").await, Backend::start("b").await]
}

/// These backends, with affinity by cookie and reports.
fn sticky(backends: &[Backend; 2]) -> ProxyBuilder {
    let [a, b] = backends;
    Proxy::builder().upstream("web", &[a, b]).affinity(r#"key = ["cookie:SID"], report = true"#)
}

/// Returns a client whose session is at a.
async fn session_at_a(proxy: &Proxy, prefix: &str) -> Client {
    for n in 0..100 {
        let mut client = proxy.session(&format!("{prefix}{n}"));
        if client.get("/").await.backend() == "a" {
            return client;
        }
    }
    panic!("no session was placed at a");
}

#[tokio::test]
async fn health_check_takes_a_backend_down_and_up_again() {
    let backends = two().await;
    let [a, _] = &backends;
    let proxy = sticky(&backends).health_check(FAST).start().await;
    let mut client = session_at_a(&proxy, "s").await;
    let mut idle = session_at_a(&proxy, "t").await;
    a.set_health(503);
    proxy.backend_is("web", "a", false).await;
    let requests = a.requests();
    let reply = client.get("/").await;
    assert!(reply.outcome().starts_with("moved; reason=backend_down"), "{}", reply.outcome());
    assert_eq!(a.requests(), requests, "a request went to a backend that is down");
    for n in 0..20 {
        assert_eq!(proxy.session(&format!("n{n}")).get("/").await.backend(), "b");
    }
    a.set_health(204);
    proxy.backend_is("web", "a", true).await;
    let reply = idle.get("/").await;
    assert_eq!((reply.backend(), reply.outcome().starts_with("kept")), ("a", true));
    session_at_a(&proxy, "u").await;
}

#[tokio::test]
async fn health_check_without_a_response_fails() {
    let backends = two().await;
    let proxy = sticky(&backends).health_check(&format!("{FAST}, timeout = \"20ms\"")).start().await;
    eventually("health checks arrive", async || backends[0].checks() > 0).await;
    backends[0].set_health(0);
    proxy.backend_is("web", "a", false).await;
}

#[tokio::test]
async fn expect_status_decides_which_statuses_pass() {
    let backends = two().await;
    backends[0].set_health(401);
    backends[1].set_health(200);
    let check = format!("{FAST}, expect_status = [\"400-403\"]");
    let proxy = sticky(&backends).health_check(&check).start().await;
    proxy.backend_is("web", "b", false).await;
    proxy.backend_is("web", "a", true).await;
}

#[tokio::test]
async fn drain_status_drains_the_backend() {
    let backends = two().await;
    let [a, _] = &backends;
    let proxy = sticky(&backends).health_check(&format!("{FAST}, drain_status = [404]")).start().await;
    let mut client = session_at_a(&proxy, "s").await;
    a.set_health(404);
    let drained = [("backend", "a"), ("state", "drain")];
    eventually("a is drained", async || proxy.metric("homing_backend_state", &drained) > 0.5).await;
    proxy.backend_is("web", "a", true).await;
    let reply = client.get("/").await;
    assert_eq!((reply.backend(), reply.outcome().starts_with("kept")), ("a", true));
    for n in 0..20 {
        assert_eq!(proxy.session(&format!("n{n}")).get("/").await.backend(), "b");
    }
    a.set_health(200);
    eventually("a is ready", async || proxy.metric("homing_backend_state", &drained) < 0.5).await;
    proxy.backend_is("web", "a", true).await;
    session_at_a(&proxy, "u").await;
}

#[tokio::test]
async fn tcp_check_only_needs_a_connection() {
    let backends = two().await;
    let [a, _] = &backends;
    let check = r#"tcp = true, interval = "20ms", fast_interval = "20ms", rise = 1, fall = 1"#;
    let proxy = sticky(&backends).health_check(check).start().await;
    let mut client = session_at_a(&proxy, "s").await;
    a.set_health(500);
    let checks = a.connections();
    eventually("health checks arrive", async || a.connections() > checks + 2).await;
    assert_eq!(client.get("/").await.backend(), "a", "a status must not fail a TCP check");
    a.stop().await;
    proxy.backend_is("web", "a", false).await;
    assert_eq!(client.get("/").await.backend(), "b");
    a.restart();
    proxy.backend_is("web", "a", true).await;
}

#[tokio::test]
async fn backend_that_fails_requests_is_ejected_and_returns() {
    let backends = two().await;
    let [a, _] = &backends;
    let passive = r#"max_fails = 3, penalty = "300ms", window = "200ms""#;
    let proxy = sticky(&backends).passive(passive).start().await;
    let mut client = session_at_a(&proxy, "s").await;
    let mut others = [session_at_a(&proxy, "t").await, session_at_a(&proxy, "u").await];
    a.set(Script::new([Step::ReadHead, Step::Close]));
    // Repeated failures of one session count once; failures of three sessions reach `max_fails`.
    for _ in 0..5 {
        client.get("/").await.assert_own(502, "backend_closed");
        proxy.backend_is("web", "a", true).await;
    }
    others[0].get("/").await.assert_own(502, "backend_closed");
    proxy.backend_is("web", "a", true).await;
    others[1].get("/").await.assert_own(502, "backend_closed");
    proxy.backend_is("web", "a", false).await;
    let requests = a.requests();
    let reply = client.get("/").await;
    assert!(reply.outcome().starts_with("moved; reason=backend_down"), "{}", reply.outcome());
    assert_eq!(a.requests(), requests);
    a.set(Script::reply());
    proxy.backend_is("web", "a", true).await;
    session_at_a(&proxy, "v").await;
}

#[tokio::test]
async fn success_resets_the_failure_count() {
    let backends = two().await;
    let [a, _] = &backends;
    let proxy = sticky(&backends).passive("max_fails = 2, penalty = \"1h\"").start().await;
    let mut client = session_at_a(&proxy, "s").await;
    for _ in 0..4 {
        a.set(Script::new([Step::ReadHead, Step::Close]));
        client.get("/").await.assert_own(502, "backend_closed");
        a.set(Script::reply());
        assert_eq!(client.get("/").await.backend(), "a");
        // Workers report to the control plane, which applies reports later.
        proxy.backend_is("web", "a", true).await;
    }
}

#[tokio::test]
async fn server_errors_eject_only_with_max_5xx() {
    let backends = two().await;
    let [a, _] = &backends;
    let error = Script::raw("HTTP/1.1 500 X\r\nX-Backend: a\r\nContent-Length: 0\r\n\r\n");
    let by_default = sticky(&backends).passive("max_fails = 2, penalty = \"1h\"").start().await;
    let with_max_5xx =
        sticky(&backends).passive("max_5xx = 4, penalty = \"1h\", window = \"1h\"").start().await;
    let mut first = session_at_a(&by_default, "s").await;
    let mut second = session_at_a(&with_max_5xx, "s").await;
    a.set(error);
    for _ in 0..4 {
        assert_eq!(first.get("/").await.status, 500);
        assert_eq!(second.get("/").await.status, 500);
    }
    with_max_5xx.backend_is("web", "a", false).await;
    assert_eq!(second.get("/").await.backend(), "b");
    assert_eq!(first.get("/").await.status, 500, "a 500 must not eject by default");
    by_default.backend_is("web", "a", true).await;
}

#[tokio::test]
async fn passive_checks_never_eject_the_last_backend() {
    let backends = two().await;
    let [a, b] = &backends;
    let proxy = sticky(&backends).passive("max_fails = 1, penalty = \"1h\"").start().await;
    let mut client = session_at_a(&proxy, "s").await;
    for backend in [a, b] {
        backend.set(Script::new([Step::ReadHead, Step::Close]));
    }
    client.get("/").await.assert_own(502, "backend_closed");
    proxy.backend_is("web", "a", false).await;
    for _ in 0..5 {
        client.get("/").await.assert_own(502, "backend_closed");
    }
    proxy.backend_is("web", "b", true).await;
    b.set(Script::reply());
    assert_eq!(client.get("/").await.backend(), "b");
}

#[tokio::test]
async fn initially_down_backend_gets_no_requests_until_its_check_passes() {
    let backends = two().await;
    for backend in &backends {
        backend.set_health(503);
    }
    let proxy = sticky(&backends).health_check(FAST).lines("initial_health = \"down\"").start().await;
    eventually("health checks arrive", async || backends.iter().all(|b| b.checks() > 2)).await;
    proxy.session("s").get("/").await.assert_own(503, "unavailable");
    assert_eq!(backends[0].requests() + backends[1].requests(), 0);
    backends[0].set_health(200);
    proxy.backend_is("web", "a", true).await;
    assert_eq!(proxy.session("s").get("/").await.backend(), "a");
}

#[tokio::test]
async fn slow_start_ramps_up_a_new_backend() {
    let backends = two().await;
    let [a, b] = &backends;
    let affinity = r#"key = ["cookie:SID"], report = true"#;
    let alone = Proxy::builder().upstream("web", &[a]).affinity(affinity).lines("slow_start = \"1s\"");
    let both = Proxy::builder().upstream("web", &[a, b]).affinity(affinity).lines("slow_start = \"1s\"");
    let proxy = alone.start().await;
    let active = || proxy.metric("homing_ring_active", &[("backend", "b")]);
    proxy.reload(&both).await;
    let mut last = active();
    assert!(last < 0.5, "{last}");
    let mut placed = Vec::new();
    for n in 0.. {
        let mut client = proxy.session(&format!("s{n}"));
        let place = client.get("/").await.backend().to_owned();
        placed.push((client, place));
        let now = active();
        assert!(now >= last, "active points shrank from {last} to {now}");
        last = now;
        // With 0.3 of its points its share is 0.3 of 1.3.
        if now < 0.3 && n >= 15 {
            let at_b = placed.iter().filter(|(_, place)| place == "b").count();
            assert!(
                at_b * 2 < placed.len(),
                "{at_b} of {} sessions are at b, with {now} of its points",
                placed.len()
            );
        }
        if now > 0.99 {
            break;
        }
    }
    for (client, place) in &mut placed {
        assert_eq!(client.get("/").await.backend(), place, "slow start moved a session");
    }
}

#[tokio::test]
async fn held_request_is_served_when_a_check_brings_its_backend_up() {
    let backends = two().await;
    let [a, b] = &backends;
    let proxy = sticky(&backends)
        .workers(1)
        .affinity(r#"key = ["cookie:SID"], hold = "60s", report = true"#)
        .health_check(FAST)
        .start()
        .await;
    let mut client = session_at_a(&proxy, "s").await;
    let sid = client.cookie_value("SID").expect("the session").to_owned();
    a.set_health(503);
    proxy.backend_is("web", "a", false).await;
    let (at_a, at_b) = (a.requests(), b.requests());
    let mut held = proxy.raw().await;
    held.send(format!("GET / HTTP/1.1\r\nHost: t\r\nCookie: SID={sid}\r\n\r\n")).await;
    for _ in 0..3 {
        assert_eq!(proxy.client().get("/").await.backend(), "b");
    }
    held.assert_quiet();
    assert_eq!((a.requests(), b.requests()), (at_a, at_b + 3));
    a.set_health(200);
    let reply = held.response().await;
    assert_eq!((reply.backend(), reply.outcome().starts_with("kept")), ("a", true));
    assert_eq!(client.get("/").await.backend(), "a");
}
