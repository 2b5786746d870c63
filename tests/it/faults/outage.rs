//! Unreachable backends: one or all of them, temporarily or permanently.

use std::fmt::Display;

use tokio::time::Instant;

use super::crowd::{Answer, Asked, CLIENTS, Crowd, Load, deliveries};
use crate::harness::{Backend, Gate, Proxy, ProxyBuilder, Script, Step, eventually};
use crate::timeouts::full;

async fn three() -> [Backend; 3] {
    [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await]
}

fn before([a, b, c]: &[Backend; 3], affinity: &str) -> ProxyBuilder {
    let affinity = format!(r#"key = ["cookie:SID"], {affinity}"#);
    Proxy::builder().upstream("web", &[a, b, c]).affinity(&affinity)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_refuses_loses_its_sessions_to_their_heirs_and_no_requests() {
    let backends = three().await;
    let [a, b, c] = &backends;
    let proxy = before(&backends, "").start().await;
    let mut crowd = Crowd::settled(proxy.addr(), 2).await;
    a.stop().await;
    // A POST on a connection that has just closed could not be retried.
    proxy.metric_becomes("homing_backend_connections", &[("backend", "a")], 0.0).await;
    for method in ["POST", "GET", "POST"] {
        for asked in crowd.ask(method).await {
            let Answer::Backend(now) = &asked.answer else { panic!("{asked:?}") };
            assert!(*now != "a" && (*now == asked.place || asked.place == "a"), "{asked:?}");
        }
    }
    let places = crowd.places();
    a.restart();
    crowd.assert_kept("GET").await;
    assert_eq!(crowd.places(), places, "sticky sessions left their heirs");
    assert!(deliveries(&[a, b, c]).values().all(|times| *times == 1));
}

/// Stops a backend while it is processing requests. Returns the requests it was processing, and the
/// backends.
async fn stop_while_processing(method: &'static str, max_idle: usize) -> (Vec<Asked>, [Backend; 3]) {
    let backends = three().await;
    let a = &backends[0];
    let pool = format!("pool = {{ max_idle = {max_idle} }}");
    let proxy = before(&backends, "").lines(&pool).start().await;
    let mut crowd = Crowd::settled(proxy.addr(), 6).await;
    let here = crowd.places()["a"];
    a.set(Script::new([Step::ReadHead, Step::ReadBody, Step::Wait(Gate::closed()), Step::Reply]));
    let arrived = a.requests();
    let dying = async {
        eventually("the requests arrive", async || a.requests() == arrived + here as u64).await;
        a.stop().await;
    };
    let (all, ()) = tokio::join!(crowd.ask(method), dying);
    let (lost, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|asked| asked.place == "a");
    for asked in others {
        assert_eq!(
            asked.answer,
            Answer::Backend(asked.place.clone()),
            "a healthy backend's client saw the fault"
        );
    }
    assert_eq!(lost.len(), here);
    for asked in crowd.ask("GET").await {
        assert!(matches!(&asked.answer, Answer::Backend(name) if name != "a"), "{asked:?}");
    }
    (lost, backends)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn get_in_flight_at_a_dying_backend_is_served_by_the_heir() {
    // On reused connections, and on new ones.
    for max_idle in [256, 0] {
        let (lost, _backends) = stop_while_processing("GET", max_idle).await;
        for asked in lost {
            assert!(matches!(&asked.answer, Answer::Backend(heir) if heir != "a"), "{asked:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn post_in_flight_at_a_dying_backend_is_502_and_delivered_once() {
    let (lost, [a, b, c]) = stop_while_processing("POST", 256).await;
    let delivered = deliveries(&[&a, &b, &c]);
    for asked in lost {
        assert_eq!(asked.answer, Answer::Own(502, "backend_closed".into()), "{asked:?}");
        assert_eq!(delivered[&asked.number], 1);
    }
}

const CHECKED: &str = r#"path = "/healthz", interval = "50ms", fast_interval = "50ms", rise = 1, fall = 1"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_restarts_under_load_without_a_failed_get_or_a_post_delivered_twice() {
    let backends = three().await;
    let [a, b, c] = &backends;
    let proxy = before(&backends, r#"failover = "temporary""#).health_check(CHECKED).start().await;
    for name in ["a", "b", "c"] {
        proxy.backend_is("web", name, true).await;
    }
    let load = Load::start(Crowd::settled(proxy.addr(), 6).await);
    for _ in 0..3 {
        load.continues(2 * CLIENTS).await;
        a.stop().await;
        load.continues(2 * CLIENTS).await;
        let (arrived, began) = (a.requests(), Instant::now());
        a.restart();
        eventually("the backend serves again", async || a.requests() > arrived).await;
        println!("the restarted backend serves its sessions again after {:?}", began.elapsed());
    }
    let all = load.stop().await;
    let delivered = deliveries(&[a, b, c]);
    let (mut requests, mut lost) = (0, 0);
    for asked in all {
        requests += 1;
        match (&asked.answer, asked.method) {
            (Answer::Backend(name), _) if *name == asked.place => {}
            // Away from a, or back to it.
            (Answer::Backend(name), _) => assert!(name == "a" || asked.place == "a", "{asked:?}"),
            (Answer::Own(502, _), "POST") => {
                lost += 1;
                assert_eq!(asked.place, "a", "{asked:?}");
            }
            _ => panic!("{asked:?}"),
        }
        if asked.method == "POST" {
            assert!(delivered.get(&asked.number).is_none_or(|times| *times == 1), "{asked:?}");
        }
    }
    println!("{requests} requests over 3 restarts: {lost} POSTs failed with 502, no other errors");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_backends_down_is_503_with_retry_after_and_recovers_quickly() {
    for checked in [false, true] {
        let backends = three().await;
        let mut builder = before(&backends, "");
        if checked {
            builder = builder.health_check(CHECKED);
        }
        let proxy = builder.start().await;
        let mut crowd = Crowd::settled(proxy.addr(), 6).await;
        let places = crowd.places();
        for backend in &backends {
            backend.stop().await;
        }
        for round in 0..5 {
            if checked && round == 2 {
                for backend in &backends {
                    proxy.backend_is("web", &backend.name, false).await;
                }
            }
            for asked in crowd.ask(if round % 2 == 0 { "GET" } else { "POST" }).await {
                assert!(matches!(asked.answer, Answer::Own(503, _)), "{asked:?}");
            }
        }
        let began = Instant::now();
        for backend in &backends {
            backend.restart();
        }
        eventually("all requests are served", async || {
            let all = crowd.ask("GET").await;
            assert!(all.iter().all(|asked| matches!(asked.answer, Answer::Backend(_) | Answer::Own(503, _))));
            all.iter().all(|asked| matches!(asked.answer, Answer::Backend(_)))
        })
        .await;
        println!(
            "all requests served {:?} after all backends restarted (checked: {checked})",
            began.elapsed()
        );
        if !checked {
            assert_eq!(crowd.places(), places, "a session moved although no heir was up");
        }
    }
}

/// One of three backends is permanently unreachable.
async fn unreachable(address: impl Display) {
    let (b, c) = (Backend::start("b").await, Backend::start("c").await);
    let builder = Proxy::builder().timeouts("connect = \"300ms\"");
    let alone = builder.clone().upstream("web", &[]).member("nowhere", &address).start().await;
    for asked in Crowd::of(alone.addr()).ask("GET").await {
        let codes = ["connect_failed", "connect_timeout"];
        assert!(
            matches!(&asked.answer, Answer::Own(503 | 504, code) if codes.contains(&&**code)),
            "{asked:?}"
        );
    }
    let proxy = builder
        .upstream("web", &[&b, &c])
        .member("nowhere", &address)
        .affinity(r#"key = ["cookie:SID"]"#)
        // Trying the next backend after a connect timeout counts against the retry budget.
        .lines("retry = { budget = \"100%\" }")
        .start()
        .await;
    let mut crowd = Crowd::of(proxy.addr());
    let began = Instant::now();
    for asked in crowd.ask("POST").await {
        assert!(matches!(asked.answer, Answer::Backend(_)), "{asked:?}");
    }
    println!("{CLIENTS} new sessions served around {address} after {:?}", began.elapsed());
    assert!(proxy.metric("homing_retries_total", &[]) > 5.0, "no session had its home there");
    for method in ["GET", "POST"] {
        crowd.assert_kept(method).await;
    }
    assert!(deliveries(&[&b, &c]).values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_whose_name_does_not_resolve_is_skipped() {
    unreachable("does-not-exist.invalid:80").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_that_does_not_answer_a_syn_is_skipped() {
    let (_socket, address, _queue) = full().await;
    unreachable(address).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connection_that_times_out_moves_only_its_request_until_checks_agree() {
    let (home, heir) = (Backend::start("home").await, Backend::start("heir").await);
    let (_socket, silent, _queue) = full().await;
    let at = |address: &dyn Display| {
        let builder = Proxy::builder().timeouts("connect = \"200ms\"").upstream("web", &[&heir]);
        builder
            .member("home", address)
            .affinity(r#"key = ["cookie:SID"]"#)
            .lines("retry = { budget = \"100%\" }")
            // Checks see nothing.
            .health_check(r#"path = "/healthz", interval = "1h", fast_interval = "1h", fall = 100"#)
    };
    let proxy = at(&home.address).start().await;
    eventually("both are checked", async || home.checks() > 0 && heir.checks() > 0).await;
    let mut client = proxy.session("s0");
    for n in 1.. {
        if client.get("/").await.backend() == home.name {
            break;
        }
        client = proxy.session(&format!("s{n}"));
    }
    proxy.reload(&at(&silent)).await;
    assert_eq!(client.get("/").await.backend(), heir.name);
    proxy.reload(&at(&home.address)).await;
    assert_eq!(client.get("/").await.backend(), home.name, "the backend may have been there all the time");
}
