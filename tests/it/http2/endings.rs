//! How HTTP/2 connections close: announced, and without losing a response.

use std::time::Duration;

use h2::Reason;
use tokio::net::TcpStream;

use crate::harness::frames::{self, DATA, END_STREAM, GET, GOAWAY, HEADERS, PING, RST_STREAM, block, frame};
use crate::harness::{Backend, Clock, Gate, Proxy, RawClient, Script, Step, eventually, in_time};

const LONG: Duration = Duration::from_secs(60);
/// Number of responses to a slow client: more than a socket buffers.
const STREAMS: u32 = 500;

/// Waits for a GOAWAY without an error, then for the close.
async fn assert_closed_gracefully(raw: &mut RawClient) {
    let goaway = raw.next_of(GOAWAY).await.expect("a GOAWAY before the close");
    assert_eq!(goaway.code(), u32::from(Reason::NO_ERROR));
    while let Some(received) = raw.next_frame().await {
        if received.kind == PING && received.flags & frames::ACK == 0 {
            // The ACK tells the server that the client has seen the GOAWAY (RFC 9113 §6.8).
            raw.try_send(frame(PING, frames::ACK, 0, &received.payload)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_finishes_open_streams_and_accepts_no_new_ones() {
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
    upload.send(b"bo", false).await.expect("send body");
    eventually("the requests arrive", async || a.requests() == 11).await;
    let ending = proxy.shutting_down(LONG);
    eventually("new connections are refused", async || TcpStream::connect(address).await.is_err()).await;
    eventually("the client sees the GOAWAY", async || {
        match client.try_open(client.request("GET", "/"), true).await {
            // Sent before the client saw the GOAWAY, or refused because of it.
            Ok(stream) => match stream.try_response().await {
                Ok(_) => panic!("the gate is closed"),
                Err(error) => error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM),
            },
            Err(_) => true,
        }
    })
    .await;
    upload.send(b"dy", true).await.expect("send body");
    gate.open();
    assert_eq!(upload.response().await.backend(), "a");
    for stream in streams {
        assert_eq!(stream.response().await.backend(), "a");
    }
    client.ended().await.expect("a clean end of the connection");
    assert!(ending.await.expect("shutdown"), "the grace period expired");
    eventually("the backend connections close", async || a.open() == 0).await;
    assert!(a.seen().iter().any(|seen| seen.body == b"body"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_do_not_hold_up_the_shutdown() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let first = format!("{head}8\r\ndata: 1\n\r\n");
    let steps = [Step::ReadHead, Step::Send(first.into_bytes()), Step::Hang];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let mut stream = client.open(client.request("GET", "/"), true).await;
    let (_, mut body) = stream.head().await;
    assert_eq!(crate::harness::http2::exactly(&mut body, 8).await, b"data: 1\n");
    let began = std::time::Instant::now();
    let ending = proxy.shutting_down(LONG);
    let end = in_time("the end of the stream", crate::harness::http2::rest(&mut body)).await;
    assert!(end.is_err(), "the stream must be reset, not look complete");
    client.ended().await.expect("a clean end of the connection");
    assert!(ending.await.expect("the shutdown"));
    assert!(began.elapsed() < Duration::from_secs(20), "took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_closes_idle_connections_at_once_with_a_goaway() {
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
    client.ended().await.expect("a clean end of the connection");
    assert_closed_gracefully(&mut raw).await;
    assert_closed_gracefully(&mut fresh).await;
    assert!(ending.await.expect("the shutdown"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_ignores_the_goaway_does_not_delay_shutdown() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut deaf = proxy.raw().await;
    deaf.begin_http2().await;
    deaf.send(frames::get(1, "/")).await;
    deaf.next_on(1, DATA).await;
    // This client acknowledges neither the settings nor the ping that follows the GOAWAY.
    assert!(proxy.shutdown(LONG).await);
    deaf.read_to_any_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_outlast_the_grace_period_are_cut_off() {
    let a = Backend::named("a").stall_before_head().start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let client = proxy.http2().await;
    let stream = client.open(client.request("GET", "/"), true).await;
    eventually("the request arrives", async || a.requests() == 1).await;
    assert!(!proxy.shutdown(Duration::from_millis(200)).await);
    assert!(stream.try_response().await.is_err());
    eventually("the backend connection closes", async || a.abandoned() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_during_a_shutdown_under_load() {
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
                    // Known to be unprocessed: safe to send elsewhere.
                    Err(error) if error.reason() == Some(Reason::NO_ERROR) && error.is_go_away() => break,
                    Err(error) if error.reason() == Some(Reason::REFUSED_STREAM) => break,
                    Err(error) => panic!("{error:?}"),
                }
                answered += 1;
            }
            answered
        });
    }
    eventually("200 requests are served", async || a.requests() + b.requests() > 200).await;
    assert!(proxy.shutdown(LONG).await);
    let answered: u64 = clients.join_all().await.into_iter().sum();
    assert_eq!(answered, a.requests() + b.requests(), "a request reached a backend and got no response");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_client_gets_complete_responses_during_shutdown() {
    let head = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 12000\r\n\r\n".to_vec();
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Send(head), Step::Zeros(12_000)]));
    let a = a.start().await;
    let proxy = Proxy::builder().limits("streams = 1000").upstream("web", &[&a]).start().await;
    let mut raw = with_pending_responses(&proxy).await;
    let ending = proxy.shutting_down(LONG);
    let (mut ended, mut received, mut frames) = (0, 0, 0);
    let clock = Clock::start().await;
    while ended < STREAMS {
        let frame = raw.next_frame().await.expect("all responses");
        assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
        if frame.kind == DATA {
            received += frame.payload.len();
            ended += u32::from(frame.flags & END_STREAM != 0);
            frames += 1;
            // Slowly: this takes much longer than the second that a closing connection lingers.
            if frames % 20 == 0 {
                clock.tick().await;
            }
        }
    }
    assert_eq!(received, 12_000 * STREAMS as usize);
    drop(raw);
    assert!(ending.await.expect("shutdown"), "the grace period expired");
}

/// Connects a client with [`STREAMS`] pending responses, open windows and a full socket. Only some of
/// the responses fit into the connection's buffer; the others wait at the backend.
async fn with_pending_responses(proxy: &Proxy) -> RawClient {
    let mut raw = RawClient::connect_narrow(proxy.addr()).await;
    let settings = frame(frames::SETTINGS, 0, 0, &[0, 4, 0x10, 0, 0, 0]);
    let window = frame(frames::WINDOW_UPDATE, 0, 0, &(1u32 << 28).to_be_bytes());
    raw.send([frames::PREFACE, &settings, &window].concat()).await;
    for n in 0..STREAMS {
        raw.send(frames::get(2 * n + 1, "/")).await;
    }
    proxy.metric_becomes("homing_http2_streams_total", &[("result", "served")], STREAMS.into()).await;
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trickling_client_does_not_delay_shutdown() {
    let head = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 12000\r\n\r\n".to_vec();
    let a = Backend::named("a").script(Script::new([Step::ReadHead, Step::Send(head), Step::Zeros(12_000)]));
    let a = a.start().await;
    let timeouts = "body_idle = \"3s\"\nmin_body_rate = \"10MiB\"";
    let proxy =
        Proxy::builder().timeouts(timeouts).limits("streams = 1000").upstream("web", &[&a]).start().await;
    let mut raw = with_pending_responses(&proxy).await;
    let ending = proxy.shutting_down(LONG);
    let clock = Clock::start().await;
    // Keeps reading, but would take too long to read everything.
    let trickle = async {
        while raw.at_most(64 << 10).await.is_ok() {
            clock.tick().await;
        }
    };
    let ended = in_time("the shutdown", ending);
    let ended = tokio::select! {
        ended = ended => ended,
        () = trickle => panic!("the client read everything"),
    };
    assert!(ended.expect("shutdown"), "the grace period expired");
}

#[tokio::test]
async fn idle_connection_gets_a_goaway() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("keep_alive = \"200ms\"").upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    for stream in [1, 3] {
        raw.send(frames::get(stream, "/")).await;
        raw.next_on(stream, DATA).await;
    }
    assert_closed_gracefully(&mut raw).await;
    proxy.metric_becomes("homing_connections", &[], 0.0).await;
    let client = proxy.http2().await;
    assert_eq!(client.get("/", &[]).await.backend(), "a");
    client.ended().await.expect("a clean end of the connection");
}

#[tokio::test]
async fn connection_with_an_open_stream_is_not_idle() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder()
        .timeouts("keep_alive = \"150ms\"\nrequest_head = \"150ms\"")
        .upstream("web", &[&a])
        .start()
        .await;
    let client = proxy.http2().await;
    let stream = client.open(client.request("GET", "/"), true).await;
    eventually("the request arrives", async || a.requests() == 1).await;
    // Two connections time out one after the other, which takes longer than the idle timeout.
    let idle = proxy.http2().await;
    idle.ended().await.expect("a clean end of the connection");
    let idle = proxy.http2().await;
    idle.ended().await.expect("a clean end of the connection");
    assert!(client.is_open());
    gate.open();
    assert_eq!(stream.response().await.backend(), "a");
}

#[tokio::test]
async fn pings_do_not_keep_a_connection_alive() {
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
        match raw.next_frame().await.expect("a GOAWAY before the close") {
            frame if frame.kind == GOAWAY => break,
            // The next ping follows the ACK of the last.
            frame if frame.kind == PING => assert!(raw.try_send(&ping).await),
            _ => {}
        }
        clock.tick().await;
    }
}

#[tokio::test]
async fn connection_without_a_request_is_closed() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().timeouts("request_head = \"200ms\"").upstream("web", &[&a]).start().await;
    let settings = frame(frames::SETTINGS, 0, 0, &[]);
    let fields = block(&GET);
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
async fn connection_with_only_malformed_requests_is_closed_when_idle() {
    let a = Backend::start("a").await;
    let timeouts = "request_head = \"200ms\"\nkeep_alive = \"200ms\"";
    let proxy = Proxy::builder().timeouts(timeouts).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    let head = block(&[&GET[..], &[("x", " spaced out ")]].concat());
    raw.send(frame(HEADERS, END_STREAM | frames::END_HEADERS, 1, &head)).await;
    raw.next_on(1, RST_STREAM).await;
    proxy.metric_becomes("homing_http2_streams_total", &[("result", "malformed")], 1.0).await;
    assert_closed_gracefully(&mut raw).await;
}

#[tokio::test]
async fn incomplete_head_does_not_keep_a_connection_alive() {
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
async fn client_goaway_finishes_open_streams_and_closes_the_connection() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.begin_http2().await;
    raw.send(frames::get(1, "/")).await;
    eventually("the request arrives", async || a.requests() == 1).await;
    raw.send(frame(GOAWAY, 0, 0, &[0; 8])).await;
    gate.open();
    let data = raw.next_on(1, DATA).await;
    assert!(!data.payload.is_empty());
    raw.read_to_any_end().await;
    proxy.metric_becomes("homing_connections", &[], 0.0).await;
}
