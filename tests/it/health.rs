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
    Proxy::builder()
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]")
        .upstream("web", &[a, b])
        .affinity(r#"key = ["cookie:SID"], report = true"#)
}

/// Returns clients with different addresses whose sessions are at a.
async fn clients_at_a<const N: usize>(proxy: &Proxy) -> [Client; N] {
    let mut clients = Vec::new();
    for n in 0..250 {
        let mut client = proxy.session(&format!("at-a-{n}")).field(&format!("X-Forwarded-For: 192.0.2.{n}"));
        if client.get("/").await.backend() == "a" {
            clients.push(client);
        }
        if clients.len() == N {
            break;
        }
    }
    clients.try_into().unwrap_or_else(|_| panic!("too few sessions were placed at a"))
}

/// Checks that new sessions avoid a, and that those whose home it is say why.
async fn assert_new_sessions_avoid_a(proxy: &Proxy) {
    let mut shunned = 0;
    for n in 0..20 {
        let reply = proxy.session(&format!("new-{n}-{}", fastrand::u32(..))).get("/").await;
        assert_eq!(reply.backend(), "b", "a new session was placed at a shunned backend");
        shunned += usize::from(reply.outcome().starts_with("new; reason=shunned"));
    }
    assert!(shunned > 0, "no new session had its home at a");
}

fn closing() -> Script {
    Script::new([Step::ReadHead, Step::ReadBody, Step::Close])
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
async fn failed_requests_stop_new_sessions_and_move_nobody() {
    for checks in ["", "path = \"/healthz\"", "tcp = true"] {
        let backends = two().await;
        let [a, _] = &backends;
        let mut builder = sticky(&backends).passive(r#"max_fails = 3, penalty = "1h", window = "1h""#);
        if !checks.is_empty() {
            // Checks that pass, but not before the test is over.
            builder = builder.health_check(&format!("{checks}, interval = \"1h\", fast_interval = \"1h\""));
        }
        let proxy = builder.start().await;
        let mut clients: [Client; 5] = clients_at_a(&proxy).await;
        a.set(closing());
        for client in &mut clients[..3] {
            client.get("/report").await.assert_own(502, "backend_closed");
        }
        proxy.backend_is_shunned("web", "a", true).await;
        proxy.backend_is("web", "a", true).await;
        a.set(Script::reply());
        assert_new_sessions_avoid_a(&proxy).await;
        for client in &mut clients {
            let reply = client.get("/").await;
            assert_eq!((reply.backend(), reply.outcome().starts_with("kept")), ("a", true), "{checks}");
        }
    }
}

#[tokio::test]
async fn slow_requests_of_a_few_clients_move_nobody() {
    let backends = two().await;
    let [a, _] = &backends;
    let proxy = sticky(&backends)
        .timeouts("response_head = \"100ms\"")
        .passive(r#"max_fails = 3, penalty = "1h", window = "100ms""#)
        .health_check(FAST)
        .start()
        .await;
    let mut clients: [Client; 8] = clients_at_a(&proxy).await;
    a.set(Script::new([Step::ReadHead, Step::Hang]));
    for client in &mut clients[..6] {
        client.post("/report", b"").await.assert_own(504, "response_head_timeout");
    }
    a.set(Script::reply());
    for client in &mut clients {
        assert_eq!(client.get("/").await.backend(), "a");
    }
}

#[tokio::test]
async fn one_client_counts_once_however_many_sessions_it_makes_up() {
    let backends = two().await;
    let [a, _] = &backends;
    let proxy = sticky(&backends).passive(r#"max_fails = 3, penalty = "1h", window = "1h""#).start().await;
    let [_, mut second, mut third]: [Client; 3] = clients_at_a(&proxy).await;
    a.set(closing());
    let mut failed = 0;
    for n in 0..100 {
        let mut made_up = proxy.session(&format!("made-up-{n}")).field("X-Forwarded-For: 198.51.100.1");
        failed += usize::from(made_up.post("/", b"x").await.status == 502);
    }
    assert!(failed > 10, "only {failed} requests failed");
    second.post("/", b"x").await.assert_own(502, "backend_closed");
    third.post("/", b"x").await.assert_own(502, "backend_closed");
    proxy.backend_is_shunned("web", "a", true).await;
    let why = proxy.standing("web", "a").1.why.expect("a reason");
    assert!(why.starts_with("requests of 3 clients failed"), "{why}");
}

#[tokio::test]
async fn shunned_backend_gets_new_sessions_when_its_checks_pass() {
    let backends = two().await;
    let [a, _] = &backends;
    let proxy = sticky(&backends)
        .health_check(FAST)
        .passive(r#"max_fails = 2, penalty = "1h", window = "1h""#)
        .start()
        .await;
    let mut clients: [Client; 2] = clients_at_a(&proxy).await;
    a.set_health(503);
    proxy.backend_is("web", "a", false).await;
    a.set_health(204);
    proxy.backend_is("web", "a", true).await;
    let (_, before) = proxy.standing("web", "a");
    a.set(closing());
    for client in &mut clients {
        client.get("/").await.assert_own(502, "backend_closed");
    }
    a.set(Script::reply());
    eventually("a was shunned and is no longer", async || {
        let (member, standing) = proxy.standing("web", "a");
        !member.shunned && standing.since > before.since
    })
    .await;
    proxy.backend_is("web", "a", true).await;
    session_at_a(&proxy, "u").await;
}

#[tokio::test]
async fn hung_application_is_found_behind_a_check_of_its_port() {
    let tcp = r#"tcp = true, interval = "20ms", fast_interval = "20ms""#;
    for checks in ["", tcp] {
        let backends = two().await;
        let [a, _] = &backends;
        let mut builder = sticky(&backends)
            .timeouts("response_head = \"50ms\"")
            .passive(r#"max_fails = 2, penalty = "1h", max_penalty = "1h", window = "300ms""#);
        if !checks.is_empty() {
            builder = builder.health_check(checks);
        }
        let proxy = builder.start().await;
        let mut clients: [Client; 3] = clients_at_a(&proxy).await;
        a.set(Script::new([Step::ReadHead, Step::Hang]));
        eventually("sessions of the hung application are served elsewhere", async || {
            let mut moved = 0;
            for client in &mut clients {
                let reply = client.get("/").await;
                // Once it has moved, the session is kept at b.
                assert!(reply.status == 504 || reply.backend() == "b", "{}", reply.status);
                moved += usize::from(reply.status == 200);
            }
            moved == clients.len()
        })
        .await;
        let why = proxy.standing("web", "a").1.why.expect("a reason");
        assert!(why.starts_with("answered nobody for "), "{why}");
    }
}

#[tokio::test]
async fn success_resets_the_failure_count() {
    let backends = two().await;
    let [a, _] = &backends;
    let proxy = sticky(&backends).passive("max_fails = 2, penalty = \"1h\"").start().await;
    let mut clients: [Client; 4] = clients_at_a(&proxy).await;
    for client in &mut clients {
        a.set(closing());
        client.get("/").await.assert_own(502, "backend_closed");
        a.set(Script::reply());
        assert_eq!(client.get("/").await.backend(), "a");
        // Workers report to the control plane, which applies reports later.
        proxy.backend_is_shunned("web", "a", false).await;
    }
}

#[tokio::test]
async fn server_errors_of_several_clients_shun_only_with_max_5xx() {
    let backends = two().await;
    let [a, _] = &backends;
    let error = Script::raw("HTTP/1.1 500 X\r\nX-Backend: a\r\nContent-Length: 0\r\n\r\n");
    let by_default = sticky(&backends).passive("max_fails = 2, penalty = \"1h\"").start().await;
    let with_max_5xx =
        sticky(&backends).passive("max_5xx = 4, penalty = \"1h\", window = \"1h\"").start().await;
    let mut uncounted: [Client; 4] = clients_at_a(&by_default).await;
    let mut counted: [Client; 4] = clients_at_a(&with_max_5xx).await;
    a.set(error);
    for client in &mut uncounted {
        assert_eq!(client.get("/").await.status, 500);
    }
    for _ in 0..20 {
        assert_eq!(counted[0].get("/").await.status, 500);
    }
    for client in &mut counted {
        assert_eq!(client.get("/").await.status, 500);
    }
    with_max_5xx.backend_is_shunned("web", "a", true).await;
    let why = with_max_5xx.standing("web", "a").1.why.expect("a reason");
    assert!(why.starts_with("4 clients got 5xx responses"), "{why}");
    assert_eq!(counted[0].get("/").await.status, 500, "5xx responses moved a session");
    assert_new_sessions_avoid_a(&with_max_5xx).await;
    by_default.backend_is_shunned("web", "a", false).await;
}

#[tokio::test]
async fn requests_never_take_the_last_backend_down() {
    let backends = two().await;
    let [a, b] = &backends;
    let rule = r#"max_fails = 1, penalty = "1h", max_penalty = "1h", window = "100ms""#;
    let proxy = sticky(&backends).passive(rule).start().await;
    let [mut client]: [Client; 1] = clients_at_a(&proxy).await;
    for backend in [a, b] {
        backend.set(closing());
    }
    eventually("a is down", async || {
        client.get("/").await.assert_own(502, "backend_closed");
        proxy.metric("homing_backend_up", &[("backend", "a")]) < 0.5
    })
    .await;
    let arrived = b.requests();
    eventually("b is asked for more than a window", async || {
        client.get("/").await.assert_own(502, "backend_closed");
        b.requests() > arrived + 20 && proxy.standing("web", "b").1.since.as_millis() > 0
    })
    .await;
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
