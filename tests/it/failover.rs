//! What happens to a session when its backend cannot serve it, and which requests are retried:
//! none is ever processed twice.

use crate::harness::{Backend, Gate, Proxy, Script, Step, eventually, session_and_heir};

#[tokio::test]
async fn sticky_session_stays_at_its_heir() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    assert_eq!(client.get("/").await.backend(), heir.name);
    home.restart();
    for _ in 0..5 {
        assert_eq!(client.get("/").await.backend(), heir.name);
    }
}

#[tokio::test]
async fn temporary_failover_returns_home() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], failover = "temporary""#)
        .start()
        .await;
    let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    assert_eq!(client.get("/").await.backend(), heir.name);
    home.restart();
    assert_eq!(client.get("/").await.backend(), home.name);
}

#[tokio::test]
async fn temporary_failover_returns_home_even_if_the_heir_repeats_the_cookie() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    for backend in [&a, &b] {
        backend.set_fields(&["Set-Cookie: SID=the-session; Path=/"]);
    }
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], failover = "temporary""#)
        .start()
        .await;
    let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    assert_eq!(client.get("/").await.backend(), heir.name);
    home.restart();
    assert_eq!(client.get("/").await.backend(), home.name);
}

#[tokio::test]
async fn without_failover_requests_get_503_until_the_backend_returns() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], failover = "none""#)
        .lines("retry = { retry_after = \"7s\" }")
        .start()
        .await;
    let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    home.stop().await;
    let before = heir.requests();
    let refused = client.get("/").await;
    refused.assert_own(503, "unavailable");
    assert_eq!(refused.field("retry-after"), Some("7"));
    assert_eq!(heir.requests(), before);
    home.restart();
    assert_eq!(client.get("/").await.backend(), home.name);
}

#[tokio::test]
async fn refused_connections_continue_along_the_walk() {
    let mut refusing = Vec::new();
    for n in 0..6 {
        refusing.push(Backend::named(&format!("refusing-{n}")).refuse().start().await);
    }
    let good = Backend::start("good").await;
    let mut backends: Vec<&Backend> = refusing.iter().collect();
    backends.push(&good);
    let proxy = Proxy::builder().upstream("web", &backends).affinity(r#"key = ["cookie:SID"]"#).start().await;
    for n in 0..5 {
        assert_eq!(proxy.session(&format!("s{n}")).get("/").await.backend(), "good");
        // No backend has received the request, so a POST may be retried too.
        assert_eq!(proxy.session(&format!("p{n}")).post("/", b"body").await.backend(), "good");
    }
    assert_eq!(good.last().body, b"body");
}

#[tokio::test]
async fn post_is_never_sent_twice() {
    let a = Backend::named("a").die_after_request().start().await;
    let b = Backend::named("b").die_after_request().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    proxy.session("x").post("/order", b"one book").await.assert_own(502, "backend_closed");
    assert_eq!(a.requests() + b.requests(), 1);
}

#[tokio::test]
async fn post_is_not_retried_on_a_stale_connection() {
    let die = [Step::ReadHead, Step::ReadBody, Step::Close];
    let a = Backend::named("a").script(Script::reply().then(die)).start().await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    let mut client = proxy.client();
    assert_eq!(client.get("/").await.backend(), "a");
    client.post("/order", b"one book").await.assert_own(502, "backend_closed");
    assert_eq!(a.requests(), 2);
}

#[tokio::test]
async fn get_is_retried_on_a_stale_connection() {
    // The second request of every connection is never answered.
    let a = Backend::named("a").script(Script::reply().then([Step::ReadHead, Step::Close])).start().await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    let mut client = proxy.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").await.backend(), "a");
    }
    assert_eq!(a.requests(), 7, "three of the four requests must be retried");
    proxy.metric_becomes("homing_retries_total", &[], 3.0).await;
}

#[tokio::test]
async fn get_is_retried_only_at_its_backend_up_to_the_attempt_limit() {
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Close])).start().await;
    let b = Backend::named("b").script(Script::new([Step::ReadHead, Step::Close])).start().await;
    let builder = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#);
    let proxy = builder.clone().start().await;
    proxy.session("s").get("/").await.assert_own(502, "backend_closed");
    // A request that kills its backend must not go to the next one.
    let mut requests = [a.requests(), b.requests()];
    requests.sort_unstable();
    assert_eq!(requests, [0, 3]);
    let once = builder.lines("retry = { attempts = 1 }").start().await;
    once.session("s").get("/").await.assert_own(502, "backend_closed");
    assert_eq!(a.requests() + b.requests(), 4);
}

#[tokio::test]
async fn refused_connections_do_not_count_as_attempts() {
    let (a, b) = (Backend::named("a").refuse().start().await, Backend::named("b").refuse().start().await);
    // Each connection serves one request and closes at the second.
    let c = Backend::named("c").script(Script::reply().then([Step::ReadHead, Step::Close])).start().await;
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"]"#)
        .lines("retry = { attempts = 2, budget = \"100%\" }")
        .start()
        .await;
    for n in 0..8 {
        assert_eq!(proxy.session(&format!("s{n}")).get("/").await.backend(), "c");
    }
    assert_eq!(c.requests(), 15, "all requests but the first must be retried");
}

#[tokio::test]
async fn session_moves_only_to_an_heir_that_accepts_a_connection() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"]"#)
        .start()
        .await;
    let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
    for n in 0..8 {
        proxy.session(&format!("s{n}")).get("/").await;
    }
    assert_eq!((heir.connections(), heir.open()), (1, 1), "the heir must have one idle connection");
    home.stop().await;
    assert_eq!(client.get("/").await.backend(), heir.name);
    assert_eq!(heir.connections(), 2, "the heir must be tried with a new connection");
    for _ in 0..3 {
        client.get("/").await;
    }
    assert_eq!(heir.connections(), 2);
}

#[tokio::test]
async fn request_is_not_retried_after_the_first_response_byte() {
    let begin = Script::reply().then([Step::ReadHead, Step::Send(b"H".to_vec()), Step::Close]);
    let a = Backend::named("a").script(begin).start().await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    let mut client = proxy.client();
    assert_eq!(client.get("/").await.backend(), "a");
    client.get("/").await.assert_own(502, "response_truncated");
    assert_eq!(a.requests(), 2);
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let a = Backend::named("a").script(Script::reply().then([Step::ReadHead, Step::Close])).start().await;
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a])
        .lines("retry = { budget = \"0%\", min_per_second = 0 }")
        .start()
        .await;
    let mut client = proxy.client();
    assert_eq!(client.get("/").await.backend(), "a");
    client.get("/").await.assert_own(502, "backend_closed");
    assert_eq!(a.requests(), 2);
}

#[tokio::test]
async fn service_resumes_when_all_backends_return() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    a.stop().await;
    b.stop().await;
    for _ in 0..3 {
        client.get("/").await.assert_own(503, "connect_failed");
    }
    a.restart();
    b.restart();
    assert!(["a", "b"].contains(&client.get("/").await.backend()));
    assert!(["a", "b"].contains(&home.as_str()));
}

#[tokio::test]
async fn concurrent_first_requests_of_a_session_go_to_one_backend() {
    let (a, b, c) = (Backend::start("a").await, Backend::start("b").await, Backend::start("c").await);
    // With a load cap, the backend of a new session depends on timing.
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b, &c])
        .affinity(r#"key = ["cookie:SID"], ring = { balance_factor = 1.01 }"#)
        .start()
        .await;
    let gate = Gate::closed();
    for backend in [&a, &b, &c] {
        backend.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    }
    let request = |n: u32| {
        let mut client = proxy.session(&format!("s{}", n / 8));
        tokio::spawn(async move { (n / 8, client.get("/").await.backend().to_owned()) })
    };
    let requests: Vec<_> = (0..64).map(request).collect();
    eventually("the backends have all requests", async || a.requests() + b.requests() + c.requests() == 64)
        .await;
    gate.open();
    let mut met = std::collections::BTreeMap::new();
    for request in requests {
        let (session, backend) = request.await.expect("a request");
        assert_eq!(*met.entry(session).or_insert_with(|| backend.clone()), backend, "session {session}");
    }
}

#[tokio::test]
async fn concurrent_first_requests_go_to_one_backend_even_if_the_home_refuses() {
    let mut backends = Vec::new();
    for n in 0..4 {
        backends.push(Backend::start(&format!("b{n}")).await);
    }
    for n in 0..4 {
        backends.push(Backend::named(&format!("refusing-{n}")).refuse().start().await);
    }
    let all: Vec<&Backend> = backends.iter().collect();
    let proxy = Proxy::builder()
        .workers(2)
        .upstream("web", &all)
        .affinity(r#"key = ["cookie:SID"], ring = { balance_factor = 1.01 }"#)
        .start()
        .await;
    let gate = Gate::closed();
    for backend in &backends {
        backend.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    }
    let mut connections = Vec::new();
    for _ in 0..64 {
        connections.push(proxy.raw().await);
    }
    let requests: Vec<_> = (0..64u32)
        .zip(connections)
        .map(|(n, mut raw)| {
            tokio::spawn(async move {
                let cookie = format!("Cookie: SID=s{}", n / 8);
                (n / 8, raw.get("/", &[&cookie]).await.backend().to_owned())
            })
        })
        .collect();
    eventually("the backends have all requests", async || {
        backends.iter().map(Backend::requests).sum::<u64>() == 64
    })
    .await;
    gate.open();
    let mut met = std::collections::BTreeMap::new();
    for request in requests {
        let (session, backend) = request.await.expect("a request");
        assert_eq!(*met.entry(session).or_insert_with(|| backend.clone()), backend, "session {session}");
    }
}

#[tokio::test]
async fn get_with_a_body_is_not_retried() {
    let die = [Step::ReadHead, Step::ReadBody, Step::Close];
    let a = Backend::named("a").script(Script::reply().then(die)).start().await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a");
    raw.request("GET", "/", &[], b"body").await.assert_own(502, "backend_closed");
    assert_eq!(a.requests(), 2);
}

#[tokio::test]
async fn retried_request_is_unchanged() {
    let a = Backend::named("a").script(Script::reply().then([Step::ReadHead, Step::Close])).start().await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.get("/1", &[]).await;
    let fields = ["Via: 1.1 front", "Cookie: a=b", "X-App: 1"];
    assert_eq!(raw.get("/2?q", &fields).await.backend(), "a");
    let seen = a.seen();
    let [_, lost, again] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&lost.line, &lost.text), (&again.line, &again.text));
    let [front, own] = again.fields.all("via")[..] else { panic!("{:?}", again.fields) };
    assert!(front == "1.1 front" && own.starts_with("1.1 homing ("), "{:?}", again.fields);
}

#[tokio::test]
async fn pipelined_requests_survive_a_stale_connection() {
    let a = Backend::named("a").script(Script::reply().then([Step::ReadHead, Step::Close])).start().await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n".repeat(4)).await;
    for _ in 0..4 {
        assert_eq!(raw.response().await.backend(), "a");
    }
}
