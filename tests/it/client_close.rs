//! Clients that close the connection before they have the response.

use crate::harness::{Backend, Gate, Proxy, Script, Step, TlsSetup, eventually, in_front_of};

#[tokio::test]
async fn client_that_resets_its_connection_cancels_its_request() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for n in 1..=2 {
        let mut raw = proxy.raw().await;
        raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
        if n == 2 {
            raw.half_close().await;
        }
        eventually("the backend has the request", async || a.requests() == n).await;
        raw.reset();
        eventually("the backend connection is closed", async || a.abandoned() == n).await;
    }
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 2.0).await;
}

#[tokio::test]
async fn client_that_is_gone_is_noticed_when_it_takes_no_more_bytes() {
    let head = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4000000000\r\n\r\n";
    let steps = [Step::ReadHead, Step::Send(head.into()), Step::Zeros(4_000_000_000)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    raw.half_close().await;
    raw.discard(1 << 20).await;
    drop(raw);
    eventually("the backend connection is closed", async || a.open() == 0).await;
}

#[tokio::test]
async fn request_of_a_disconnected_client_finishes_with_on_client_close_finish() {
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
    eventually("the backend has the request", async || a.requests() == 1).await;
    raw.reset();
    // Once the only worker has answered these, it has seen the disconnect.
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
async fn client_that_disconnects_does_not_count_against_the_backend() {
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
        eventually("the backend has the request", async || a.requests() + b.requests() == n).await;
        raw.reset();
        eventually("the backend connection is closed", async || a.abandoned() + b.abandoned() == n).await;
    }
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 6.0).await;
    for name in ["a", "b"] {
        assert!(!proxy.standing("web", name).0.shunned, "{name} is shunned");
    }
}

#[tokio::test]
async fn half_closing_client_gets_its_response() {
    let tls = TlsSetup::new(&["t"]);
    let body = "x".repeat(20_000_000);
    let reply = format!("HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for on_close in ["cancel", "finish"] {
        for secure in [false, true] {
            let gate = Gate::closed();
            let a = Backend::named("a").reply_after(&gate).start().await;
            let proxy = in_front_of(&a).server(&format!("on_client_close = \"{on_close}\""));
            let proxy = if secure { proxy.tls(&tls.keys()) } else { proxy };
            let proxy = proxy.start().await;
            let connect = async || {
                if secure { tls.client().connect(proxy.addr(), "t").await } else { proxy.raw().await }
            };
            // Before the response has begun.
            let mut raw = connect().await;
            raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
            raw.half_close().await;
            eventually("the backend has the request", async || a.requests() == 1).await;
            gate.open();
            raw.response().await.assert_from("a");
            raw.assert_closed().await;
            // During the response.
            a.set(Script::raw(&reply));
            let mut raw = connect().await;
            raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
            raw.head().await.assert_from("a");
            raw.half_close().await;
            raw.discard(body.len()).await;
            raw.assert_closed().await;
        }
    }
}
