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
async fn get_of_a_session_is_retried_only_at_its_backend_up_to_the_attempt_limit() {
    for (attempts, expected) in [(3, 3), (1, 1)] {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let builder = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#);
        let proxy = builder.lines(&format!("retry = {{ attempts = {attempts} }}")).start().await;
        let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
        home.set(Script::new([Step::ReadHead, Step::Close]));
        let before = home.requests();
        client.get("/").await.assert_own(502, "backend_closed");
        // A request that kills its backend must not take its session to the next one.
        assert_eq!((home.requests() - before, heir.requests()), (expected, 0));
        home.set(Script::reply());
        assert_eq!(client.get("/").await.backend(), home.name);
    }
}

/// Ways not to answer a request.
fn unanswered() -> [(Step, &'static str); 3] {
    [(Step::Close, "backend_closed"), (Step::Reset, "backend_closed"), (Step::Hang, "response_head_timeout")]
}

#[tokio::test]
async fn get_of_a_new_session_goes_on_along_the_walk_until_a_backend_answers() {
    for (step, code) in unanswered() {
        let steps = Script::new([Step::ReadHead, step]);
        let a = Backend::named("a").script(steps.clone()).start().await;
        let b = Backend::named("b").script(steps.clone()).start().await;
        let c = Backend::start("c").await;
        let proxy = Proxy::builder()
            .upstream("web", &[&a, &b, &c])
            .affinity(r#"key = ["cookie:SID"]"#)
            .timeouts("response_head = \"100ms\"")
            .lines("retry = { budget = \"100%\" }")
            .start()
            .await;
        for n in 0..6 {
            let mut client = proxy.session(&format!("s{n}"));
            assert_eq!(client.get("/").await.backend(), "c", "{code}");
            let (at_a, at_b) = (a.requests(), b.requests());
            assert_eq!(client.get("/").await.backend(), "c");
            assert_eq!((a.requests(), b.requests()), (at_a, at_b), "the session was not bound to c");
            // A request that belongs to no session has nothing to lose either.
            assert_eq!(proxy.client().get("/").await.backend(), "c", "{code}");
        }
        assert!(a.requests() + b.requests() > 0, "no session had its home there");
        c.set(steps);
        proxy
            .session("new")
            .get("/")
            .await
            .assert_own(if code == "backend_closed" { 502 } else { 504 }, code);
    }
}

#[tokio::test]
async fn requests_of_a_session_stay_at_a_backend_that_does_not_answer() {
    for (step, code) in unanswered() {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let proxy = Proxy::builder()
            .upstream("web", &[&a, &b])
            .affinity(r#"key = ["cookie:SID"]"#)
            .timeouts("response_head = \"100ms\"")
            .start()
            .await;
        let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
        home.set(Script::new([Step::ReadHead, step]));
        let status = if code == "backend_closed" { 502 } else { 504 };
        client.get("/").await.assert_own(status, code);
        client.post("/", b"x").await.assert_own(status, code);
        home.set(Script::reply());
        assert_eq!(client.get("/").await.backend(), home.name);
        assert_eq!(heir.requests(), 0);
    }
}

#[tokio::test]
async fn new_session_does_not_stay_where_it_was_refused_an_answer() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"]"#)
        .passive("max_fails = 1, penalty = \"1h\", window = \"1h\"")
        .start()
        .await;
    a.set(Script::new([Step::ReadHead, Step::ReadBody, Step::Close]));
    let mut refused = None;
    for n in 0..100 {
        let mut client = proxy.session(&format!("s{n}"));
        // A POST is not sent twice.
        if client.post("/login", b"x").await.status == 502 {
            refused = Some(client);
            break;
        }
    }
    let mut refused = refused.expect("no session had its home at a");
    proxy.backend_is_shunned("web", "a", true).await;
    assert_eq!(refused.post("/login", b"x").await.backend(), "b");
    a.set(Script::reply());
    assert_eq!(refused.get("/").await.backend(), "b");
}

#[tokio::test]
async fn slow_first_request_does_not_unbind_a_session_that_others_have_found() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"]"#)
        .passive("max_fails = 1, penalty = \"1h\", window = \"1h\"")
        .timeouts("response_head = \"500ms\"")
        .start()
        .await;
    let answering = [&a, &b].map(|backend| {
        backend.set(Script::new([Step::ReadHead, Step::Hang]));
        backend
    });
    let slow = tokio::spawn({
        let mut client = proxy.session("the-session");
        async move { client.post("/slow", b"x").await.assert_own(504, "response_head_timeout") }
    });
    eventually("the slow request is at a backend", async || a.requests() + b.requests() == 1).await;
    let home = answering.into_iter().find(|backend| backend.requests() == 1).expect("a backend");
    home.set(Script::reply());
    assert_eq!(proxy.session("the-session").get("/").await.backend(), home.name);
    slow.await.expect("the slow request");
    proxy.backend_is_shunned("web", &home.name, true).await;
    a.set(Script::reply());
    b.set(Script::reply());
    assert_eq!(proxy.session("the-session").get("/").await.backend(), home.name, "the session was moved");
}

#[tokio::test]
async fn session_is_bound_to_its_heir_only_when_the_heir_has_answered() {
    for (step, code) in unanswered() {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let proxy = Proxy::builder()
            .upstream("web", &[&a, &b])
            .affinity(r#"key = ["cookie:SID"]"#)
            .timeouts("response_head = \"100ms\"")
            .start()
            .await;
        let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
        home.stop().await;
        heir.set(Script::new([Step::ReadHead, step]));
        let status = if code == "backend_closed" { 502 } else { 504 };
        client.get("/").await.assert_own(status, code);
        home.restart();
        assert_eq!(client.get("/").await.backend(), home.name, "an heir that did not answer got the session");
        home.stop().await;
        heir.set(Script::reply());
        assert_eq!(client.get("/").await.backend(), heir.name);
        home.restart();
        assert_eq!(client.get("/").await.backend(), heir.name);
    }
}

#[tokio::test]
async fn session_whose_backend_refused_stays_at_its_heir_although_checks_saw_nothing() {
    for (key, remember) in [("cookie:SID", "table"), ("cookie:SID", "cookie"), ("ip", "table")] {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let proxy = Proxy::builder()
            .upstream("web", &[&a, &b])
            .affinity(&format!("key = [\"{key}\"], remember = \"{remember}\""))
            .health_check(r#"path = "/healthz", interval = "1h""#)
            .start()
            .await;
        eventually("both are checked", async || a.checks() > 0 && b.checks() > 0).await;
        let (mut client, home, heir) = session_and_heir(&proxy, [&a, &b]).await;
        home.stop().await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.backend(), heir.name);
        }
        home.restart();
        assert_eq!(client.get("/").await.backend(), heir.name, "{key}, {remember}: it has begun anew there");
    }
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
