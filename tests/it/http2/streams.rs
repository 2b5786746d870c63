//! Many requests on one connection: each belongs to its own session, and none blocks another.

use std::collections::BTreeMap;

use h2::Reason;

use crate::harness::frames::{self, GOAWAY, HEADERS, RST_STREAM, frame};
use crate::harness::{Backend, Gate, H2Client, Proxy, RawClient, Script, Step, eventually};

async fn three() -> [Backend; 3] {
    [Backend::start("a").await, Backend::start("b").await, Backend::start("c").await]
}

#[tokio::test]
async fn one_connection_carries_many_sessions_and_each_keeps_its_backend() {
    let backends = three().await;
    let [a, b, c] = &backends;
    let proxy =
        Proxy::builder().upstream("web", &[a, b, c]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let client = proxy.http2().await;
    let mut homes = BTreeMap::new();
    for round in 0..3 {
        for session in 0..24 {
            // Split into several fields, as HTTP/2 clients send cookies.
            let sid = format!("SID=s{session}");
            let fields = [("cookie", "theme=dark"), ("cookie", sid.as_str()), ("cookie", "x=y")];
            let reply = client.get("/", &fields).await;
            let home = homes.entry(session).or_insert_with(|| reply.backend().to_owned());
            assert_eq!(reply.backend(), home, "session {session}, round {round}");
        }
    }
    for backend in &backends {
        assert!(homes.values().any(|home| *home == backend.name), "{} has no sessions", backend.name);
        for seen in backend.seen() {
            let cookie = seen.field("cookie").expect("a single cookie field");
            assert!(cookie.starts_with("theme=dark; SID=s") && cookie.ends_with("; x=y"), "{cookie}");
        }
    }
    // HTTP/1.1 requests of a session go to the same backend.
    for (session, home) in homes {
        assert_eq!(proxy.session(&format!("s{session}")).get("/").await.backend(), home);
    }
}

#[tokio::test]
async fn all_streams_of_a_moved_session_go_to_the_same_backend() {
    let backends = three().await;
    let [a, b, c] = &backends;
    let proxy =
        Proxy::builder().upstream("web", &[a, b, c]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let client = proxy.http2().await;
    let home = client.get("/", &[("cookie", "SID=s")]).await.backend().to_owned();
    backends.iter().find(|b| b.name == home).expect("a known backend").stop().await;
    let fields = [("cookie", "SID=s")];
    let (one, two, three) =
        tokio::join!(client.get("/1", &fields), client.get("/2", &fields), client.get("/3", &fields));
    assert_ne!(one.backend(), home);
    assert_eq!([two.backend(), three.backend()], [one.backend(); 2]);
}

#[tokio::test]
async fn sealed_cookie_is_set_honored_and_hidden_from_backends() {
    let backends = three().await;
    let [a, b, c] = &backends;
    let directory = tempfile::tempdir().expect("a directory");
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f").expect("write");
    let affinity = format!(
        r#"key = ["cookie:SID"], remember = "cookie", cookie = {{ keys_file = "{}" }}"#,
        keys.display()
    );
    let proxy = Proxy::builder().upstream("web", &[a, b, c]).affinity(&affinity).start().await;
    let client = proxy.http2().await;
    for n in 0..8 {
        let key = format!("SID={n}");
        let first = client.get("/", &[("cookie", &key)]).await;
        let set = first.field("set-cookie").expect("a cookie");
        let sealed = set.split(';').next().expect("a pair");
        assert!(sealed.starts_with("homing-web="), "{set}");
        // Another client on the same connection, with the cookie split.
        for fields in [[("cookie", key.as_str()), ("cookie", sealed)], [("cookie", sealed), ("cookie", &key)]]
        {
            let next = client.get("/", &fields).await;
            assert_eq!(next.backend(), first.backend());
            let seen = backends.iter().find(|b| b.name == next.backend()).expect("a known backend").last();
            assert_eq!(seen.field("cookie"), Some(key.as_str()));
        }
        client.get("/", &[("cookie", sealed)]).await;
        let seen = backends.iter().find(|b| b.name == first.backend()).expect("a known backend").last();
        assert!(!seen.fields.has("cookie"), "part of the cookie reached the backend: {:?}", seen.fields);
    }
}

#[tokio::test]
async fn slow_response_does_not_block_others() {
    let gate = Gate::closed();
    let slow = Backend::named("slow").reply_after(&gate).start().await;
    let fast = Backend::start("fast").await;
    let proxy = Proxy::builder()
        .raw_toml("[[route]]\npath = \"/slow\"\nupstream = \"slow\"\n[[route]]\nupstream = \"fast\"")
        .upstream("slow", &[&slow])
        .upstream("fast", &[&fast])
        .start()
        .await;
    let client = proxy.http2().await;
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(client.open(client.request("GET", "/slow"), true).await);
    }
    eventually("the slow requests arrive", async || slow.requests() == 5).await;
    for _ in 0..50 {
        assert_eq!(client.get("/", &[]).await.backend(), "fast");
    }
    gate.open();
    for stream in waiting {
        assert_eq!(stream.response().await.backend(), "slow");
    }
    proxy.metric_becomes("homing_http2_connections_total", &[], 1.0).await;
    proxy.metric_becomes("homing_http2_streams_total", &[("result", "served")], 55.0).await;
}

#[tokio::test]
async fn stream_beyond_the_limit_is_refused_and_the_others_are_served() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder().limits("streams = 3").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let settings = raw.next_of(frames::SETTINGS).await.expect("settings");
    let told = settings.payload.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 3]);
    assert!(told, "SETTINGS_MAX_CONCURRENT_STREAMS is 3: {settings:?}");
    for stream in [1, 3, 5, 7] {
        raw.send(frames::get(stream, "/")).await;
    }
    let refused = raw.next_of(RST_STREAM).await.expect("a reset");
    assert_eq!((refused.stream, refused.code()), (7, u32::from(Reason::REFUSED_STREAM)));
    eventually("three requests arrive", async || a.requests() == 3).await;
    gate.open();
    for _ in 0..3 {
        let head = raw.next_of(HEADERS).await.expect("a response");
        assert!([1, 3, 5].contains(&head.stream), "{head:?}");
    }
    raw.send(frames::get(9, "/")).await;
    raw.next_on(9, HEADERS).await;
    assert_eq!(a.requests(), 4, "the refused request reached the backend");
}

#[tokio::test]
async fn client_that_waits_for_free_streams_is_served() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().limits("streams = 4").upstream("web", &[&a]).start().await;
    let raw = RawClient::connect(proxy.addr()).await;
    let client = H2Client::over(raw, "http://t", H2Client::builder().initial_max_send_streams(4)).await;
    let numbers: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    let requests = numbers.iter().map(|number| {
        let request = client.request("GET", "/").header("x-number", number);
        async { client.open(request, true).await.response().await }
    });
    let mut replies = Vec::new();
    for request in requests {
        replies.push(request.await);
    }
    for (number, reply) in numbers.iter().zip(&replies) {
        assert_eq!(reply.field("x-number"), Some(number.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousand_concurrent_streams_each_get_their_own_response() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).start().await;
    let client = std::sync::Arc::new(proxy.http2().await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let client = std::sync::Arc::clone(&client);
        tasks.spawn(async move {
            let number = n.to_string();
            let reply = client.get("/", &[("x-number", &number)]).await;
            assert_eq!(reply.field("x-number"), Some(number.as_str()));
            assert!(reply.text().ends_with(&number));
        });
    }
    tasks.join_all().await;
    proxy.metric_becomes("homing_http2_connections_total", &[], 1.0).await;
}

#[tokio::test]
async fn client_reset_cancels_only_its_stream_at_the_backend() {
    let a = Backend::named("a").stall_before_head().start().await;
    let gate = Gate::closed();
    let other = Backend::named("other").reply_after(&gate).start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("access.log");
    let proxy = Proxy::builder()
        .raw_toml(&format!("[access_log]\nformat = \"json\"\noutput = \"{}\"", log.display()))
        .raw_toml("[[route]]\npath = \"/other\"\nupstream = \"other\"\n[[route]]\nupstream = \"web\"")
        .upstream("web", &[&a])
        .upstream("other", &[&other])
        .start()
        .await;
    let client = proxy.http2().await;
    let stays = client.open(client.request("GET", "/other"), true).await;
    let mut whole = client.open(client.request("GET", "/"), true).await;
    let mut begun = client.open(client.request("POST", "/"), false).await;
    begun.send(b"some", false).await.expect("send body");
    eventually("all requests arrive", async || a.requests() == 2 && other.requests() == 1).await;
    whole.send.send_reset(Reason::CANCEL);
    begun.send.send_reset(Reason::CANCEL);
    eventually("the backend connections close", async || a.open() == 0).await;
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 2.0).await;
    assert_eq!(other.open(), 1);
    gate.open();
    assert_eq!(stays.response().await.backend(), "other");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("three log lines", async || lines().lines().count() == 3).await;
    let lines = lines();
    let gone = lines.lines().filter(|line| line.contains("\"status\":499"));
    assert_eq!(gone.filter(|line| line.contains("\"client_gone\"")).count(), 2, "{lines}");
    assert_eq!(lines.matches("HTTP/2").count(), 3, "{lines}");
}

#[tokio::test]
async fn client_reset_during_the_response_frees_the_backend() {
    let endless = Script::new([
        Step::ReadHead,
        Step::Send(b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 1000000000\r\n\r\n".to_vec()),
        Step::Zeros(1_000_000_000),
    ]);
    let a = Backend::named("a").script(endless).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.open(client.request("GET", "/"), true).await;
    let (head, body) = stream.head().await;
    assert_eq!(head.status, 200);
    stream.send.send_reset(Reason::CANCEL);
    drop((stream, body));
    eventually("the backend connections close", async || a.open() == 0).await;
    a.set(Script::reply());
    assert_eq!(client.get("/", &[]).await.backend(), "a");
}

#[tokio::test]
async fn broken_connection_cancels_all_its_streams() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(client.open(client.request("GET", "/"), true).await);
    }
    eventually("the requests arrive", async || a.requests() == 5).await;
    client.vanish().await;
    eventually("the backend connections close", async || a.open() == 0).await;
    proxy.metric_becomes("homing_errors_total", &[("error", "client_gone")], 5.0).await;
    proxy.metric_becomes("homing_connections", &[], 0.0).await;
}

#[tokio::test]
async fn goaway_names_the_connection_error_before_the_close() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frame(frames::DATA, 0, 0, b"on no stream")).await;
    let goaway = raw.next_of(GOAWAY).await.expect("a GOAWAY");
    assert_eq!(goaway.code(), u32::from(Reason::PROTOCOL_ERROR));
    raw.read_to_any_end().await;
}
