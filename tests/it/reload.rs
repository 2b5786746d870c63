//! Changes at run time: admin states and configuration reloads.

use homing::affinity::AdminState;
use homing::app::AppError;
use homing::config;

use crate::harness::{
    Backend, Client, Gate, Proxy, ProxyBuilder, RawClient, Script, Step, eventually, in_front_of, three,
};

/// These backends, with affinity by cookie and reports.
fn sticky(backends: &[Backend; 3]) -> ProxyBuilder {
    let [a, b, c] = backends;
    Proxy::builder().upstream("web", &[a, b, c]).affinity(r#"key = ["cookie:SID"], report = true"#)
}

/// Starts `count` sessions and returns their clients, each with its backend.
async fn sessions(proxy: &Proxy, prefix: &str, count: usize) -> Vec<(Client, String)> {
    let mut list = Vec::new();
    for n in 0..count {
        let mut client = proxy.session(&format!("{prefix}{n}")).reconnecting();
        let reply = client.get("/").await;
        assert!(reply.outcome().starts_with("new"), "{}", reply.outcome());
        list.push((client, reply.backend().to_owned()));
    }
    list
}

async fn assert_kept(sessions: &mut [(Client, String)]) {
    for (client, place) in sessions {
        let reply = client.get("/").await;
        assert_eq!(reply.backend(), *place);
        assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
    }
}

fn how_many_at(sessions: &[(Client, String)], id: &str) -> usize {
    sessions.iter().filter(|(_, place)| place == id).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_is_complete_for_connections_after_its_answer() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let version = |backend: &Backend| Proxy::builder().workers(4).upstream("web", &[backend]).config();
    let proxy = Proxy::builder().workers(4).upstream("web", &[&a]).start().await;
    // Workers that have much to do would get to the new configuration late.
    let address = proxy.addr();
    let busy: Vec<_> = (0..32)
        .map(|_| {
            tokio::spawn(async move {
                let mut raw = RawClient::connect(address).await;
                loop {
                    raw.get("/", &[]).await;
                }
            })
        })
        .collect();
    for backend in [&b, &a].into_iter().cycle().take(40) {
        proxy.running().reload(version(backend)).await.expect("reload");
        for _ in 0..8 {
            assert_eq!(
                proxy.raw().await.get("/", &[]).await.backend(),
                backend.name,
                "the old configuration"
            );
        }
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn drained_backend_keeps_existing_sessions_and_gets_no_new_ones() {
    let backends = three().await;
    let builder = sticky(&backends);
    for by_file in [false, true] {
        let proxy = builder.clone().start().await;
        let mut old = sessions(&proxy, "old", 24).await;
        assert!(how_many_at(&old, "a") > 2);
        if by_file {
            proxy.reload(&builder.clone().backend("a", "state = \"drain\"")).await;
        } else {
            proxy.set_state("web", "a", AdminState::Drain).await;
        }
        assert_kept(&mut old).await;
        let mut drained = 0;
        for n in 0..24 {
            let reply = proxy.session(&format!("new{n}")).get("/").await;
            assert_ne!(reply.backend(), "a");
            drained += u32::from(reply.outcome().contains("reason=drained"));
        }
        assert!(drained > 2, "only {drained} of 24 new sessions have the reason `drained`");
        // Once it is ready again, it gets new sessions.
        if by_file {
            proxy.reload(&builder).await;
        } else {
            proxy.set_state("web", "a", AdminState::Ready).await;
        }
        assert!(how_many_at(&sessions(&proxy, "newer", 24).await, "a") > 2);
        assert_kept(&mut old).await;
    }
}

#[tokio::test]
async fn backend_in_maintenance_gets_no_requests_and_its_sessions_move_once() {
    let backends = three().await;
    let proxy = sticky(&backends).start().await;
    let mut old = sessions(&proxy, "s", 24).await;
    proxy.set_state("web", "a", AdminState::Maint).await;
    let requests = backends[0].requests();
    for (client, place) in &mut old {
        let reply = client.get("/").await;
        if place == "a" {
            assert!(reply.outcome().starts_with("moved; reason=maint"), "{}", reply.outcome());
            reply.backend().clone_into(place);
        } else {
            assert_eq!(reply.backend(), place);
        }
    }
    assert_kept(&mut old).await;
    assert_eq!(backends[0].requests(), requests);
    proxy.set_state("web", "a", AdminState::Ready).await;
    assert_kept(&mut old).await;
}

#[tokio::test]
async fn requests_are_served_even_if_all_backends_drain() {
    let backends = three().await;
    let proxy = sticky(&backends).start().await;
    for id in ["a", "b", "c"] {
        proxy.set_state("web", id, AdminState::Drain).await;
    }
    let reply = proxy.session("s").get("/").await;
    assert!(reply.outcome().starts_with("new; reason=drained"), "{}", reply.outcome());
}

#[tokio::test]
async fn reload_keeps_connections_sessions_counters_and_health() {
    let backends = three().await;
    let [a, b, c] = &backends;
    let check = r#"path = "/healthz", interval = "20ms", fast_interval = "20ms", rise = 1, fall = 1"#;
    let builder = sticky(&backends).workers(1).health_check(check);
    let proxy = builder.clone().start().await;
    let mut old = sessions(&proxy, "s", 12).await;
    c.set_health(500);
    proxy.backend_is("web", "c", false).await;
    for (client, place) in &mut old {
        client.get("/").await.backend().clone_into(place);
    }
    let mut raw = proxy.raw().await;
    assert_eq!(raw.get("/", &["Cookie: SID=s0"]).await.backend(), old[0].1);
    let connections = [a.connections(), b.connections()];
    let requests = proxy.metric("homing_backend_requests_total", &[]);
    // Health checks continue, each on its own connection.
    let changed = builder.timeouts("response_head = \"20s\"").health_check(&check.replace("20ms", "1h"));
    proxy.reload(&changed).await;
    proxy.backend_is("web", "c", false).await;
    assert!(proxy.metric("homing_backend_requests_total", &[]) >= requests);
    assert_eq!(
        raw.get("/", &["Cookie: SID=s0"]).await.backend(),
        old[0].1,
        "the client's connection must stay open"
    );
    assert_kept(&mut old).await;
    let reused = proxy.metric("homing_pool_connections_total", &[("use", "fresh")]);
    assert_kept(&mut old).await;
    assert!((proxy.metric("homing_pool_connections_total", &[("use", "fresh")]) - reused).abs() < 0.5);
    assert!(a.connections() >= connections[0] && b.connections() >= connections[1]);
}

#[tokio::test]
async fn request_in_flight_survives_the_removal_of_its_backend() {
    let backends = three().await;
    let builder = sticky(&backends);
    let proxy = builder.clone().start().await;
    let mut client = proxy.session("s");
    let place = client.get("/").await.backend().to_owned();
    let backend = backends.iter().find(|b| b.name == place).expect("a known backend");
    let gate = Gate::closed();
    backend.set(Script::new([Step::ReadHead, Step::Wait(gate.clone()), Step::Reply]));
    let before = backend.requests();
    let waiting = tokio::spawn(async move { (client.get("/").await, client) });
    eventually("the backend has the request", async || backend.requests() > before).await;
    proxy.reload(&builder.without(&place)).await;
    gate.open();
    let (reply, mut client) = waiting.await.expect("the request");
    assert_eq!(reply.backend(), place);
    let reply = client.get("/").await;
    assert!(reply.outcome().starts_with("moved; reason=removed"), "{}", reply.outcome());
}

#[tokio::test]
async fn added_backend_gets_new_sessions_only() {
    let backends = three().await;
    let builder = sticky(&backends);
    let proxy = builder.clone().without("c").start().await;
    let mut old = sessions(&proxy, "old", 40).await;
    let summary = proxy.reload(&builder).await;
    assert_eq!(summary.upstreams[0].added.len(), 1);
    assert_kept(&mut old).await;
    assert_eq!(backends[2].requests(), 0);
    let new = sessions(&proxy, "new", 40).await;
    assert!(how_many_at(&new, "c") > 3);
}

#[tokio::test]
async fn sessions_of_a_removed_backend_move_once_and_idle_ones_stay_bound_to_it() {
    let backends = three().await;
    let builder = sticky(&backends);
    let proxy = builder.clone().start().await;
    let mut old = sessions(&proxy, "s", 30).await;
    let (there, idle): (Vec<_>, Vec<_>) = old.iter().partition(|(_, place)| place == "c");
    assert!(there.len() > 3 && idle.len() > 3);
    proxy.reload(&builder.clone().without("c")).await;
    let mut asleep = 0;
    for (n, (client, place)) in old.iter_mut().enumerate() {
        if place == "c" && n % 2 == 0 {
            asleep += 1;
            continue;
        }
        let reply = client.get("/").await;
        if place == "c" {
            assert!(reply.outcome().starts_with("moved; reason=removed"), "{}", reply.outcome());
            reply.backend().clone_into(place);
        } else {
            assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
            assert_eq!(reply.backend(), place);
        }
    }
    assert!(asleep > 0, "no session at c was left idle");
    // Sessions without a request in between are still bound to c.
    proxy.reload(&builder).await;
    assert_kept(&mut old).await;
}

#[tokio::test]
async fn backend_keeps_its_sessions_when_its_address_changes() {
    let backends = three().await;
    let builder = sticky(&backends);
    let proxy = builder.clone().start().await;
    let mut old = sessions(&proxy, "s", 20).await;
    let moved = Backend::named("a").start().await;
    proxy.reload(&builder.without("a").member("a", moved.address)).await;
    backends[0].stop().await;
    assert_kept(&mut old).await;
    assert!(moved.requests() > 0);
}

#[tokio::test]
async fn order_weights_and_vnodes_do_not_move_existing_sessions() {
    let backends = three().await;
    let builder = sticky(&backends);
    let proxy = builder.clone().start().await;
    let mut old = sessions(&proxy, "s", 20).await;
    for changed in [
        builder.clone().reversed(),
        builder.clone().backend("b", "weight = 7"),
        builder.clone().affinity(r#"key = ["cookie:SID"], report = true, ring = { vnodes = 64 }"#),
    ] {
        proxy.reload(&changed).await;
        assert_kept(&mut old).await;
    }
    // Without memory, the order in the file does not matter either.
    let ring = r#"key = ["cookie:SID"], remember = "none""#;
    let one = builder.clone().affinity(ring).start().await;
    let other = builder.reversed().affinity(ring).start().await;
    for n in 0..20 {
        let mut client = Client::with_sid(one.addr(), &format!("r{n}"));
        let home = client.get("/").await.backend().to_owned();
        assert_eq!(client.at(other.addr()).get("/").await.backend(), home);
    }
}

#[tokio::test]
async fn weight_sets_the_share_of_new_sessions() {
    let backends = three().await;
    let proxy = sticky(&backends).backend("a", "weight = 8").start().await;
    let placed = sessions(&proxy, "s", 100).await;
    let at_a = how_many_at(&placed, "a");
    // The mean is 80; ten standard deviations are 40.
    assert!(at_a > 60, "only {at_a} of 100 sessions are at a, which has weight 8 of 10");
}

#[tokio::test]
async fn invalid_file_is_rejected_and_changes_nothing() {
    let backends = three().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("homing.toml");
    let builder = sticky(&backends);
    let proxy = builder.clone().start_from(&file).await;
    let mut old = sessions(&proxy, "s", 6).await;

    let good = builder.without("c").toml();
    for bad in [
        "this is not TOML".to_owned(),
        good.replace("workers", "wrokers"),
        good.replace("address = \"127.0.0.1:", "address = \"nowhere"),
        "[[listener]]\nbind = \"127.0.0.1:0\"\n".to_owned(),
        String::new(),
    ] {
        assert!(config::parse(&bad, "bad.toml").is_err(), "{bad}");
        std::fs::write(&file, &bad).expect("write");
        let refused = proxy.running().reload_file().await;
        assert!(matches!(refused, Err(AppError::Config(_))), "{refused:?}");
        assert_kept(&mut old).await;
    }
    std::fs::remove_file(&file).expect("remove");
    assert!(proxy.running().reload_file().await.is_err());
    assert_kept(&mut old).await;

    std::fs::write(&file, &good).expect("write");
    let summary = proxy.running().reload_file().await.expect("a reload");
    assert!(summary.contains('c'), "{summary}");
    for (client, place) in &mut old {
        let reply = client.get("/").await;
        assert_eq!(reply.outcome().starts_with("moved; reason=removed"), place == "c", "{}", reply.outcome());
    }
}

#[tokio::test]
async fn reload_adds_and_removes_listeners() {
    let backends = three().await;
    let builder = sticky(&backends);
    let proxy = builder.clone().start().await;
    assert_eq!(proxy.addresses().len(), 1);
    proxy.reload(&builder.clone().listener("127.0.0.2:0")).await;
    let addresses = proxy.addresses();
    assert_eq!(addresses.len(), 2);
    assert_eq!(addresses[0], proxy.addr(), "the existing listener must keep its address");
    let mut second = RawClient::connect(addresses[1]).await;
    assert_eq!(second.get("/", &[]).await.status, 200);

    proxy.reload(&builder).await;
    assert_eq!(proxy.addresses(), [proxy.addr()]);
    eventually("the removed listener is closed", async || {
        tokio::net::TcpStream::connect(addresses[1]).await.is_err()
    })
    .await;
    assert_eq!(second.get("/", &[]).await.status, 200, "an open connection must survive the reload");
    assert_eq!(proxy.client().get("/").await.status, 200);
}

#[tokio::test]
async fn reload_that_cannot_bind_changes_nothing() {
    let backends = three().await;
    let builder = sticky(&backends);
    let proxy = builder.clone().start().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    let refused = proxy.running().reload(builder.without("c").listener(&address).config()).await;
    assert!(matches!(refused, Err(AppError::Bind { .. })), "{refused:?}");
    assert_eq!(proxy.addresses().len(), 1);
    let placed = sessions(&proxy, "s", 30).await;
    assert!(how_many_at(&placed, "c") > 0, "c must still be configured");
}

#[tokio::test]
async fn new_limits_apply_from_the_next_request() {
    let backends = three().await;
    let builder = sticky(&backends);
    let proxy = builder.clone().start().await;
    let mut raw = proxy.raw().await;
    assert_eq!(raw.request("POST", "/", &[], &[b'x'; 100]).await.status, 200);
    proxy.reload(&builder.limits("body_bytes = 10")).await;
    raw.request("POST", "/", &[], &[b'x'; 100]).await.assert_own(413, "request_body_too_large");
}

#[tokio::test]
async fn pooled_buffers_accept_larger_heads_after_a_reload() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).limits("head_bytes = \"16KiB\"").start().await;
    // Concurrent requests, so that the pool has spare buffers.
    let gate = Gate::closed();
    a.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut raw = proxy.raw().await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: t\r\nX-App: {}\r\n\r\n", "v".repeat(10_000))).await;
        clients.push(raw);
    }
    eventually("the backend has all requests", async || a.requests() == 16).await;
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().await.backend(), "a");
    }
    a.set(Script::reply());
    proxy.reload(&in_front_of(&a).limits("head_bytes = \"256KiB\"")).await;
    eventually("the new limit applies", async || {
        let mut raw = proxy.raw().await;
        raw.get("/", &[&format!("X-App: {}", "v".repeat(20_000))]).await.status == 200
    })
    .await;
    let long = format!("X-App: {}", "v".repeat(100_000));
    assert_eq!(clients[0].get("/", &[&long]).await.backend(), "a");
    assert_eq!(a.last().field("x-app").map(str::len), Some(100_000));
}

#[tokio::test]
async fn removed_backend_keeps_only_the_connections_in_use() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let builder = Proxy::builder().workers(1).upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#);
    let proxy = builder.clone().start().await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    let home = if home == "a" { &a } else { &b };
    let gate = Gate::closed();
    let mut slow = proxy.raw().await;
    home.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    slow.send("GET / HTTP/1.1\r\nHost: t\r\nCookie: SID=s\r\n\r\n").await;
    eventually("the backend has the request", async || home.requests() == 2).await;
    home.set(Script::reply());
    client.get("/").await;
    assert_eq!(home.open(), 2, "expected one connection in use and one idle");
    proxy.reload(&builder.without(&home.name)).await;
    eventually("the idle connection is closed", async || home.open() == 1).await;
    gate.open();
    assert_eq!(slow.response().await.backend(), home.name);
    eventually("the other connection is closed", async || home.open() == 0).await;
}
