//! Interim (1xx) responses, and requests that expect `100 Continue`.

use crate::harness::{Backend, Gate, RawClient, Script, Step, eventually, in_front_of};

#[tokio::test]
async fn backends_100_continue_reaches_the_client() {
    let steps =
        [Step::ReadHead, Step::Send(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()), Step::ReadBody, Step::Reply];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        raw.send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
        assert_eq!(raw.one_head().await.status, 100);
        raw.send("body").await;
        assert_eq!(raw.response().await.backend(), "a");
        assert_eq!(a.last().body, b"body");
        assert_eq!(a.last().field("expect"), Some("100-continue"));
    }
}

#[tokio::test]
async fn client_that_expects_100_may_get_a_final_response_instead() {
    let steps = [
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 401 No\r\nX-Backend: a\r\nContent-Length: 0\r\n\r\n".to_vec()),
    ];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 401);
    // The body may or may not follow, so the connection cannot be reused.
    raw.assert_closed().await;
}

#[tokio::test]
async fn early_hints_arrive_before_the_response() {
    let gate = Gate::closed();
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
    let steps = [
        Step::ReadHead,
        Step::Send(hints.into()),
        Step::Send(b"HTTP/1.1 102 Processing\r\n\r\n".to_vec()),
        Step::Pause(gate.clone()),
        Step::Reply,
    ];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let early = raw.one_head().await;
    assert_eq!((early.status, early.field("link")), (103, Some("</a.css>; rel=preload")));
    assert_eq!(raw.one_head().await.status, 102);
    gate.open();
    assert_eq!(raw.response().await.backend(), "a");
}

#[tokio::test]
async fn interim_and_final_responses_may_arrive_together() {
    let bytes = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
                 HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 2\r\n\r\nok";
    let a = Backend::named("a").script(Script::raw(bytes)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..3 {
        let reply = raw.get("/", &[]).await;
        assert_eq!(reply.interim.iter().map(|r| r.status).collect::<Vec<_>>(), [103, 100]);
        assert_eq!((reply.backend(), reply.text().as_str()), ("a", "ok"));
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn http10_client_gets_no_interim_response() {
    let a = Backend::named("a").interim("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.0\r\nHost: t\r\n\r\n").await;
    let reply = raw.response().await;
    assert_eq!((reply.backend(), reply.interim.len()), ("a", 0));
}

#[tokio::test]
async fn too_many_interim_responses_are_502() {
    let many = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
    let a = Backend::named("a").script(Script::raw_then(many, Step::Hang)).start().await;
    let proxy = in_front_of(&a).start().await;
    proxy.raw().await.get("/", &[]).await.assert_own(502, "too_many_interim");
}

#[tokio::test]
async fn interim_and_bodiless_responses_have_no_length_and_no_report() {
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nContent-Length: 7\r\nX-Affinity-Outcome: kept\r\n\r\n";
    let end = "HTTP/1.1 204 No Content\r\nX-Backend: a\r\nContent-Length: 7\r\n\r\n";
    let a = Backend::named("a").reply_raw(format!("{hints}{end}")).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &[]).await;
    assert_eq!(reply.interim[0].fields.names(), ["link"]);
    assert_eq!(reply.fields.names(), ["x-backend", "via"]);
}

#[tokio::test]
async fn error_response_never_splits_an_interim_response() {
    let gate = Gate::closed();
    // More than the two sockets buffer, in heads within the limit.
    let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(900_000));
    let mut bytes = Vec::new();
    for _ in 0..6 {
        bytes.extend_from_slice(hints.as_bytes());
    }
    let steps = [Step::ReadHead, Step::Send(bytes), Step::Pause(gate.clone()), Step::Close];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).limits("head_bytes = \"1MiB\"").start().await;
    let mut raw = RawClient::connect_narrow(proxy.addr()).await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    eventually("the backend has the request", async || a.requests() == 1).await;
    gate.open();
    eventually("the backend connection is closed", async || a.open() == 0).await;
    let got = raw.read_to_any_end().await;
    let text = String::from_utf8_lossy(&got);
    let mut rest = &*text;
    while let Some(after) = rest.strip_prefix(&*hints) {
        rest = after;
    }
    let what: String = rest.chars().take(30).collect();
    assert!(
        rest.starts_with("HTTP/1.1 502") || hints.starts_with(rest),
        "{what:?} starts the last {} bytes",
        rest.len()
    );
}
