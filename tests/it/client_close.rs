//! Clients that close their connection before they have their response.

use crate::harness::{Backend, Gate, Proxy, Script, Step, eventually, in_front_of};

#[tokio::test]
async fn client_that_goes_away_cancels_its_request() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for n in 1..=2 {
        let mut raw = proxy.raw().await;
        raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        eventually("the request is there", async || a.requests() == n).await;
        if n == 1 {
            drop(raw);
        } else {
            raw.reset();
        }
        eventually("the backend is let go", async || a.abandoned() == n).await;
    }
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 2.0).await;
}

#[tokio::test]
async fn request_of_a_client_that_went_away_is_finished_where_that_is_wished() {
    let gate = Gate::closed();
    let steps = [Step::ReadHead, Step::Wait(gate.clone()), Step::Reply];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let b = Backend::start("b").await;
    let proxy = Proxy::builder()
        .workers(1)
        .server("on_client_close = \"finish\"")
        .raw_toml("[[route]]\nupstream = \"slow\"\npath = \"/slow\"\n[[route]]\nupstream = \"web\"")
        .upstream("slow", &[&a])
        .upstream("web", &[&b])
        .start()
        .await;
    let mut raw = proxy.raw().await;
    raw.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("the request is there", async || a.requests() == 1).await;
    drop(raw);
    // The one worker has seen the end by the time it has answered these.
    let mut bystander = proxy.client();
    for _ in 0..10 {
        assert_eq!(bystander.get("/").await.backend(), "b");
    }
    assert_eq!((a.abandoned(), a.open()), (0, 1));
    gate.open();
    proxy.metric_becomes("homing_requests_total", &[("upstream", "slow")], 1.0).await;
    assert_eq!(a.abandoned(), 0);
}

#[tokio::test]
async fn client_that_goes_away_is_not_the_backends_fault() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"]"#)
        .passive("max_fails = 1, penalty = \"1h\"")
        .start()
        .await;
    let hang = Script::new([Step::ReadHead, Step::Hang]);
    a.set(hang.clone());
    b.set(hang);
    for n in 1..=6 {
        let mut raw = proxy.raw().await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: t\r\nCookie: SID=s{n}\r\n\r\n")).await;
        eventually("the request is there", async || a.requests() + b.requests() == n).await;
        drop(raw);
        eventually("the backend is let go", async || a.abandoned() + b.abandoned() == n).await;
    }
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 6.0).await;
    assert!(proxy.metric("homing_backend_up", &[]) > 1.5, "both are up");
}

#[tokio::test]
async fn half_closing_client_gets_its_response_where_requests_are_finished() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = in_front_of(&a).server("on_client_close = \"finish\"").start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    raw.half_close().await;
    eventually("the request is there", async || a.requests() == 1).await;
    gate.open();
    assert_eq!(raw.response().await.backend(), "a");
    raw.assert_closed().await;
}
