//! How connections of HTTP/2 end: told, and with nothing lost.

use std::time::Duration;

use h2::Reason;
use tokio::net::TcpStream;

use crate::harness::frames::{self, DATA, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, block, frame};
use crate::harness::{Backend, Clock, Gate, Proxy, RawClient, Script, Step, eventually, in_time};

const LONG: Duration = Duration::from_secs(60);
/// Responses on their way to a slow client: more than a socket takes.
const STREAMS: u32 = 500;

/// Waits for the GOAWAY that says that all is well, and for the end.
async fn assert_let_go(raw: &mut RawClient) {
    let goaway = raw.next_of(GOAWAY).await.expect("a word before the end");
    assert_eq!(goaway.code(), u32::from(Reason::NO_ERROR));
    while let Some(frame) = raw.next_frame().await {
        if frame.kind == PING && frame.flags & frames::ACK == 0 {
            // How it learns that the client knows (RFC 9113 §6.8).
            raw.try_send(frames::frame(PING, frames::ACK, 0, &frame.payload)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_flight_are_finished_and_no_new_ones_are_taken() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let address = proxy.addr();
    let client = proxy.http2().await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(client.open(client.request("GET", "/"), true).await);
    }
    let mut upload = client.open(client.request("POST", "/"), false).await;
    upload.send(b"bo", false).await.expect("room");
    eventually("the requests are there", async || a.requests() == 11).await;
    let ending = proxy.shutting_down(LONG);
    eventually("nobody is let in", async || TcpStream::connect(address).await.is_err()).await;
    eventually("the client is told", async || {
        match client.try_open(client.request("GET", "/"), true).await {
            // Before it knows, or refused by a server that is leaving.
            Ok(stream) => match stream.try_response().await {
                Ok(_) => panic!("the gate is closed"),
                Err(error) => error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM),
            },
            Err(_) => true,
        }
    })
    .await;
    upload.send(b"dy", true).await.expect("room");
    gate.open();
    assert_eq!(upload.response().await.backend(), "a");
    for stream in streams {
        assert_eq!(stream.response().await.backend(), "a");
    }
    client.ended().await.expect("no error");
    assert!(ending.await.expect("the shutdown"), "everything ended by itself");
    eventually("backends are let go", async || a.open() == 0).await;
    assert!(a.seen().iter().any(|seen| seen.body == b"body"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_told_and_end_at_once() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    assert_eq!(client.get("/", &[]).await.backend(), "a");
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frames::get(1, "/")).await;
    raw.next_on(1, DATA).await;
    let mut fresh = proxy.raw().await;
    fresh.begin_http2().await;
    fresh.next_of(frames::SETTINGS).await.expect("settings");
    let ending = proxy.shutting_down(LONG);
    client.ended().await.expect("no error");
    assert_let_go(&mut raw).await;
    assert_let_go(&mut fresh).await;
    assert!(ending.await.expect("the shutdown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_listen_does_not_hold_the_shutdown() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut deaf = proxy.raw().await;
    deaf.begin_http2().await;
    deaf.send(frames::get(1, "/")).await;
    deaf.next_on(1, DATA).await;
    // Neither settings nor the farewell's ping are ever acknowledged.
    assert!(proxy.shutdown(LONG).await);
    deaf.read_to_any_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_in_time_is_cut_off() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let stream = client.open(client.request("GET", "/"), true).await;
    eventually("the request is there", async || a.requests() == 1).await;
    assert!(!proxy.shutdown(Duration::from_millis(200)).await);
    assert!(stream.try_response().await.is_err());
    eventually("the backend is let go", async || a.abandoned() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails_in_a_shutdown_under_load() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let client = proxy.http2().await;
        clients.spawn(async move {
            let mut answered = 0;
            while let Ok(stream) = client.try_open(client.request("POST", "/"), true).await {
                match stream.try_response().await {
                    Ok(reply) => assert_eq!(reply.status, 200),
                    // Known not to have been looked at: to be sent elsewhere.
                    Err(error) if error.reason() == Some(Reason::NO_ERROR) && error.is_go_away() => break,
                    Err(error) if error.reason() == Some(Reason::REFUSED_STREAM) => break,
                    Err(error) => panic!("{error:?}"),
                }
                answered += 1;
            }
            answered
        });
    }
    eventually("there is load", async || a.requests() + b.requests() > 200).await;
    assert!(proxy.shutdown(LONG).await);
    let answered: u64 = clients.join_all().await.into_iter().sum();
    assert_eq!(answered, a.requests() + b.requests(), "whatever a backend got was answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_that_a_slow_client_still_reads_are_whole_after_the_shutdown_began() {
    let head = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 12000\r\n\r\n".to_vec();
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Send(head), Step::Zeros(12_000)]));
    let a = a.start().await;
    let proxy = Proxy::builder().limits("streams = 1000").upstream("web", &[&a]).start().await;
    let mut raw = backed_up(&proxy).await;
    let ending = proxy.shutting_down(LONG);
    let (mut ended, mut received, mut frames) = (0, 0, 0);
    let clock = Clock::start().await;
    while ended < STREAMS {
        let frame = raw.next_frame().await.expect("all of what was said to be there");
        assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
        if frame.kind == DATA {
            received += frame.payload.len();
            ended += u32::from(frame.flags & END_STREAM != 0);
            frames += 1;
            // Slowly: over far more than the second that a farewell takes.
            if frames % 20 == 0 {
                clock.tick().await;
            }
        }
    }
    assert_eq!(received, 12_000 * STREAMS as usize);
    drop(raw);
    assert!(ending.await.expect("the shutdown"), "it ended by itself");
}

/// A client that has [`STREAMS`] responses waiting for it, all windows open and a
/// socket that is full.
async fn backed_up(proxy: &Proxy) -> RawClient {
    let mut raw = RawClient::connect_narrow(proxy.addr()).await;
    let settings = frame(frames::SETTINGS, 0, 0, &[0, 4, 0x10, 0, 0, 0]);
    let window = frame(frames::WINDOW_UPDATE, 0, 0, &(1u32 << 28).to_be_bytes());
    raw.send([frames::PREFACE, &settings, &window].concat()).await;
    for n in 0..STREAMS {
        raw.send(frames::get(2 * n + 1, "/")).await;
    }
    proxy.metric_becomes("homing_responses_total", &[("class", "2xx")], STREAMS.into()).await;
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_trickles_does_not_hold_the_shutdown_up() {
    let head = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 12000\r\n\r\n".to_vec();
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Send(head), Step::Zeros(12_000)]));
    let a = a.start().await;
    let timeouts = "body_idle = \"3s\"\nmin_body_rate = \"10MiB\"";
    let proxy =
        Proxy::builder().timeouts(timeouts).limits("streams = 1000").upstream("web", &[&a]).start().await;
    let mut raw = backed_up(&proxy).await;
    let ending = proxy.shutting_down(LONG);
    let clock = Clock::start().await;
    // It takes something all the time, and would take long for all.
    let trickle = async {
        while raw.at_most(64 << 10).await.is_ok() {
            clock.tick().await;
        }
    };
    let ended = in_time("the shutdown", ending);
    let ended = tokio::select! {
        ended = ended => ended,
        () = trickle => panic!("it got all that was there for it"),
    };
    assert!(ended.expect("the shutdown"), "it ended by itself");
}

#[tokio::test]
async fn a_connection_that_is_idle_for_too_long_is_told_so() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("keep_alive = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    for stream in [1, 3] {
        raw.send(frames::get(stream, "/")).await;
        raw.next_on(stream, DATA).await;
    }
    assert_let_go(&mut raw).await;
    proxy.metric_becomes("homing_connections", &[], 0.0).await;
    let client = proxy.http2().await;
    assert_eq!(client.get("/", &[]).await.backend(), "a");
    client.ended().await.expect("no error");
}

#[tokio::test]
async fn a_stream_keeps_its_connection_from_being_idle() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder()
        .timeouts("keep_alive = \"150ms\"\nrequest_head = \"150ms\"")
        .upstream("web", &[&a])
        .start()
        .await;
    let client = proxy.http2().await;
    let stream = client.open(client.request("GET", "/"), true).await;
    eventually("it is there", async || a.requests() == 1).await;
    // Others come and go, longer than the connection could be idle.
    let idle = proxy.http2().await;
    idle.ended().await.expect("no error");
    let idle = proxy.http2().await;
    idle.ended().await.expect("no error");
    assert!(client.is_open());
    gate.open();
    assert_eq!(stream.response().await.backend(), "a");
}

#[tokio::test]
async fn pings_keep_no_connection_from_being_idle() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("keep_alive = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frames::get(1, "/")).await;
    raw.next_on(1, DATA).await;
    let ping = frame(PING, 0, 0, b"are you?");
    let clock = Clock::start().await;
    raw.send(&ping).await;
    loop {
        match raw.next_frame().await.expect("a word before the end") {
            frame if frame.kind == GOAWAY => break,
            // One ping at a time, for as long as it is answered.
            frame if frame.kind == PING => assert!(raw.try_send(&ping).await),
            _ => {}
        }
        clock.tick().await;
    }
}

#[tokio::test]
async fn a_connection_that_never_gets_to_a_request_ends() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("request_head = \"200ms\"").upstream("web", &[&a]).start().await;
    let settings = frame(frames::SETTINGS, 0, 0, &[]);
    let fields = block(&[(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/")]);
    let half = frame(HEADERS, END_STREAM, 1, &fields[..5]);
    let partial = &frames::get(1, "/")[..12];
    let mut connections = Vec::new();
    for bytes in [
        vec![],
        frames::PREFACE[..12].to_vec(),
        frames::PREFACE.to_vec(),
        [frames::PREFACE, &settings].concat(),
        [frames::PREFACE, &settings, &half].concat(),
        [frames::PREFACE, &settings, partial].concat(),
    ] {
        let mut raw = proxy.raw().await;
        raw.send(bytes).await;
        connections.push(raw);
    }
    for mut raw in connections {
        raw.read_to_any_end().await;
    }
    proxy.metric_becomes("homing_connections", &[], 0.0).await;
    assert_eq!(a.requests(), 0);
}

#[tokio::test]
async fn a_connection_whose_requests_are_all_malformed_ends_when_it_is_idle() {
    let a = Backend::start("a").await;
    let timeouts = "request_head = \"200ms\"\nkeep_alive = \"200ms\"";
    let proxy = Proxy::builder().timeouts(timeouts).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let head = block(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "t"),
        (":path", "/"),
        ("x", " spaced out "),
    ]);
    raw.send(frame(HEADERS, END_STREAM | frames::END_HEADERS, 1, &head)).await;
    raw.next_on(1, RST_STREAM).await;
    proxy.metric_becomes("homing_http2_streams_total", &[("result", "malformed")], 1.0).await;
    assert_let_go(&mut raw).await;
}

#[tokio::test]
async fn half_a_head_does_not_keep_a_used_connection() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("keep_alive = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frames::get(1, "/")).await;
    raw.next_on(1, DATA).await;
    raw.send(frame(HEADERS, END_STREAM, 3, &block(&[(":method", "GET")]))).await;
    raw.read_to_any_end().await;
    proxy.metric_becomes("homing_connections", &[], 0.0).await;
}

#[tokio::test]
async fn a_client_that_says_goodbye_gets_the_rest_and_the_connection_ends() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frames::get(1, "/")).await;
    eventually("it is there", async || a.requests() == 1).await;
    raw.send(frame(GOAWAY, 0, 0, &[0; 8])).await;
    gate.open();
    let data = raw.next_on(1, DATA).await;
    assert!(!data.payload.is_empty());
    raw.read_to_any_end().await;
    proxy.metric_becomes("homing_connections", &[], 0.0).await;
}
