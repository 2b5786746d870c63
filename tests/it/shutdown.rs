//! Graceful shutdown, and what survives a restart.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{
    Backend, Client, Gate, Proxy, ProxyBuilder, Script, Step, eventually, in_front_of, three,
};
use crate::tunnel;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_finishes_requests_in_flight_and_refuses_connections() {
    let gate = Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let address = proxy.addr();
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let mut upload = proxy.raw().await;
    upload.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbo").await;
    eventually("the backend has both requests", async || a.requests() == 2).await;
    let ending = proxy.shutting_down(LONG);
    eventually("new connections are refused", async || TcpStream::connect(address).await.is_err()).await;
    upload.send("dy").await;
    gate.open();
    for raw in [&mut raw, &mut upload] {
        let reply = raw.response().await;
        assert_eq!((reply.backend(), reply.field("connection")), ("a", Some("close")));
        raw.assert_closed().await;
    }
    drop((raw, upload));
    assert!(ending.await.expect("the shutdown"), "not everything ended within the grace period");
    eventually("the backend connections are closed", async || a.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_closed_at_once() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut used = proxy.raw().await;
    assert_eq!(used.get("/", &[]).await.backend(), "a");
    let mut fresh = proxy.raw().await;
    let mut more = Vec::new();
    for _ in 0..10 {
        more.push(proxy.raw().await);
    }
    eventually("all connections are accepted", async || proxy.metric("homing_connections", &[]) >= 12.0)
        .await;
    let ending = proxy.shutting_down(LONG);
    used.assert_closed().await;
    fresh.assert_closed().await;
    for raw in &mut more {
        raw.assert_closed().await;
    }
    assert!(ending.await.expect("the shutdown"));
}

#[tokio::test]
async fn connections_opened_before_the_shutdown_are_served() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut clients = Vec::new();
    for _ in 0..16 {
        clients.push(proxy.raw().await);
    }
    let stopping = proxy.shutting_down(Duration::from_secs(9));
    for client in &mut clients {
        let reply = client.get("/", &[]).await;
        assert_eq!((reply.backend(), reply.field("connection")), ("a", Some("close")));
        client.assert_closed().await;
    }
    assert!(stopping.await.expect("the shutdown"), "not everything ended within the grace period");
}

#[tokio::test]
async fn silent_connection_does_not_delay_the_shutdown() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut silent = proxy.raw().await;
    let began = Instant::now();
    assert!(proxy.shutdown(Duration::from_secs(9)).await);
    assert!(began.elapsed() < Duration::from_secs(6), "the shutdown took {:?}", began.elapsed());
    silent.assert_closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxy_without_connections_stops_at_once() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    assert!(proxy.shutdown(LONG).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_cancelled_after_the_grace_period() {
    let a = Backend::named("a").stall_before_head().start().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("access.log");
    let log = format!("[access_log]\nformat = \"json\"\noutput = \"{}\"", file.display());
    let proxy = Proxy::builder().raw_toml(&log).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /cut HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("the backend has the request", async || a.requests() == 1).await;
    assert!(!proxy.shutdown(Duration::from_millis(200)).await);
    let log = std::fs::read_to_string(&file).expect("the access log");
    assert!(log.contains("\"path\":\"/cut\"") && log.contains("\"error\":\"shutdown\""), "{log}");
    raw.read_to_any_end().await;
    eventually("the backend connection is closed", async || a.abandoned() == 1).await;
}

/// An unmasked WebSocket text frame.
fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81, u8::try_from(text.len()).expect("a short text")];
    frame.extend_from_slice(text.as_bytes());
    frame
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnel_gets_a_close_frame_on_shutdown() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let (mut raw, _) = tunnel::open(&proxy, "").await;
    raw.send(frame("hello")).await;
    assert_eq!(raw.exactly(7).await, frame("hello"));
    let received = a.received();
    let ending = proxy.shutting_down(Duration::from_millis(1300));
    assert_eq!(raw.exactly(4).await, [0x88, 2, 0x03, 0xE9], "expected a Close frame with 1001 (going away)");
    raw.send([0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE9]).await;
    assert_eq!(raw.read_to_any_end().await, b"");
    drop(raw);
    assert!(ending.await.expect("the shutdown"), "the tunnel did not end within the grace period");
    eventually("the backend has a masked Close frame", async || a.received() == received + 8).await;
    eventually("the backend connection is closed", async || a.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_close_frame_is_sent_in_the_middle_of_another_frame() {
    let bytes = [tunnel::SWITCHED, &frame("half of it")[..7]].concat();
    let steps = [Step::ReadHead, Step::Send(bytes), Step::Hang];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let (mut raw, _) = tunnel::open(&proxy, "").await;
    assert_eq!(raw.exactly(7).await, frame("half of it")[..7]);
    let ending = proxy.shutting_down(Duration::from_millis(1100));
    assert_eq!(raw.read_to_any_end().await, b"");
    ending.await.expect("the shutdown");
}

/// A response that goes on for ever.
fn event_stream(content_type: &str) -> Script {
    let head =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let first = format!("{head}8\r\ndata: 1\n\r\n");
    Script::new([Step::ReadHead, Step::Send(first.into_bytes()), Step::Hang])
}

/// Opens an event stream and reads its first event.
async fn open_stream(proxy: &Proxy) -> crate::harness::RawClient {
    let mut raw = proxy.raw().await;
    raw.send("GET /events HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 200);
    assert_eq!(raw.exactly(13).await, b"8\r\ndata: 1\n\r\n");
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_streams_have_a_short_grace_of_their_own() {
    for content_type in ["text/event-stream; charset=utf-8", "multipart/x-mixed-replace;boundary=x"] {
        let a = Backend::named("a").script(event_stream(content_type)).start().await;
        let echo = Backend::named("echo").upgrade_echo("").start().await;
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("access.log");
        let log = format!(
            "[access_log]\nformat = \"json\"\noutput = \"{}\"\n[[route]]\nupstream = \"web\"\n\
             [[route]]\npath = \"/chat\"\nupstream = \"echo\"\n",
            file.display()
        );
        let proxy =
            Proxy::builder().raw_toml(&log).upstream("web", &[&a]).upstream("echo", &[&echo]).start().await;
        let mut events = open_stream(&proxy).await;
        let (mut socket, _) = tunnel::open(&proxy, "").await;
        proxy.metric_becomes("homing_event_streams", &[], 1.0).await;
        let began = Instant::now();
        let ending = proxy.shutting_down(LONG);
        assert_eq!(socket.exactly(4).await, [0x88, 2, 0x03, 0xE9], "no Close frame");
        assert_eq!(events.read_to_any_end().await, b"", "the end is visible as a cut");
        socket.read_to_any_end().await;
        drop((events, socket));
        assert!(ending.await.expect("the shutdown"), "not everything ended within the grace period");
        assert!(began.elapsed() < Duration::from_secs(20), "took {:?}", began.elapsed());
        eventually("the backend connection is closed", async || a.open() == 0).await;
        let log = std::fs::read_to_string(&file).expect("the access log");
        assert!(log.contains("\"path\":\"/events\"") && log.contains("\"error\":\"shutdown\""), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_refused_while_endless_streams_end() {
    let a = Backend::named("a").script(event_stream("text/event-stream")).start().await;
    let b = Backend::start("b").await;
    let routes = "[[route]]\nupstream = \"web\"\n[[route]]\npath = \"/events\"\nupstream = \"events\"\n";
    let proxy = Proxy::builder()
        .server("stream_grace = \"30s\"")
        .raw_toml(routes)
        .upstream("web", &[&b])
        .upstream("events", &[&a])
        .start()
        .await;
    let address = proxy.addr();
    let stream = open_stream(&proxy).await;
    let ending = proxy.shutting_down(LONG);
    for _ in 0..20 {
        let mut raw = crate::harness::RawClient::connect(address).await;
        assert_eq!(raw.get("/", &[]).await.backend(), "b");
        tokio::task::yield_now().await;
    }
    // The last stream ends: so does the proxy.
    drop(stream);
    assert!(ending.await.expect("the shutdown"));
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tunnel_begins_once_tunnels_must_close() {
    // In the middle of a frame: this tunnel has a second to end.
    let bytes = [tunnel::SWITCHED, &frame("half of it")[..7]].concat();
    let a = Backend::named("a")
        .script(Script::new([Step::ReadHead, Step::Send(bytes), Step::Echo]))
        .start()
        .await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let address = proxy.addr();
    let (mut open, _) = tunnel::open(&proxy, "").await;
    assert_eq!(open.exactly(7).await, frame("half of it")[..7]);
    let received = a.received();
    let ending = proxy.shutting_down(LONG);
    eventually("the backend has a Close frame", async || a.received() > received).await;
    // Homing still accepts connections, unless this test was stopped for that second.
    if let Ok(mut raw) = crate::harness::RawClient::try_connect(address).await
        && raw.try_send(tunnel::UPGRADE).await
        && let Some(reply) = raw.try_head().await
    {
        assert_eq!((reply.status, reply.field("connection")), (503, Some("close")));
    }
    drop(open);
    ending.await.expect("the shutdown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn table_is_saved_when_a_shutdown_begins() {
    let backends = three().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("sessions");
    let proxy = with_table(&backends, &file).start().await;
    let sessions = away_from_home(&proxy, &backends).await;
    let gate = Gate::closed();
    for backend in &backends {
        backend.set(Script::new([Step::ReadHead, Step::ReadBody, Step::Pause(gate.clone()), Step::Reply]));
    }
    let before: u64 = backends.iter().map(Backend::requests).sum();
    let mut slow = proxy.raw().await;
    slow.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("a request is in flight", async || {
        backends.iter().map(Backend::requests).sum::<u64>() > before
    })
    .await;
    let ending = proxy.shutting_down(LONG);
    eventually("the table is saved", async || file.exists()).await;
    // The next process starts while the first one still has a request in flight.
    let next = with_table(&backends, &file).start().await;
    gate.open();
    for (client, place) in &sessions {
        let reply = client.at(next.addr()).get("/").await;
        assert_eq!(reply.backend(), place);
        assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
    }
    assert_eq!(slow.response().await.status, 200);
    drop(slow);
    assert!(ending.await.expect("the shutdown"));
}

fn with_table(backends: &[Backend; 3], file: &std::path::Path) -> ProxyBuilder {
    let [a, b, c] = backends;
    let affinity =
        format!(r#"key = ["cookie:SID"], report = true, table = {{ file = "{}" }}"#, file.display());
    Proxy::builder().upstream("web", &[a, b, c]).affinity(&affinity)
}

/// Starts sessions, some of them away from their homes; returns their clients and backends.
async fn away_from_home(proxy: &Proxy, backends: &[Backend; 3]) -> Vec<(Client, String)> {
    let mut list = Vec::new();
    for n in 0..12 {
        let mut client = proxy.session(&format!("s{n}"));
        client.get("/").await;
        list.push((client, String::new()));
    }
    backends[0].stop().await;
    for (client, place) in &mut list {
        client.get("/").await.backend().clone_into(place);
    }
    backends[0].restart();
    list
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_survive_a_restart_of_the_proxy() {
    let backends = three().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("sessions");
    let proxy = with_table(&backends, &file).start().await;
    let sessions = away_from_home(&proxy, &backends).await;
    assert!(proxy.shutdown(LONG).await);
    assert!(file.exists());
    for round in 0..2 {
        // Slots are numbered per process: a new order of ids must not matter.
        let zero = Backend::start("0").await;
        let proxy = with_table(&backends, &file).member("0", zero.address).start().await;
        for (client, place) in &sessions {
            let reply = client.at(proxy.addr()).get("/").await;
            assert_eq!(reply.backend(), place, "round {round}");
            assert!(reply.outcome().starts_with("kept"), "{}", reply.outcome());
        }
        assert!(proxy.shutdown(LONG).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_table_file_is_moved_aside_and_replaced() {
    let backends = three().await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("sessions");
    let proxy = with_table(&backends, &file).start().await;
    let sessions = away_from_home(&proxy, &backends).await;
    assert!(proxy.shutdown(LONG).await);
    let good = std::fs::read(&file).expect("read");
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for bad in [b"garbage".to_vec(), Vec::new(), good[..good.len() - 1].to_vec(), flipped] {
        std::fs::write(&file, &bad).expect("write");
        let proxy = with_table(&backends, &file).start().await;
        let aside = std::fs::read(directory.path().join("sessions.bad")).expect("the old file");
        assert!(aside == bad, "the old file was changed");
        for (client, _) in &sessions {
            let reply = client.at(proxy.addr()).get("/").await;
            assert!(reply.outcome().starts_with("new"), "{}", reply.outcome());
        }
        assert!(proxy.shutdown(LONG).await);
        let proxy = with_table(&backends, &file).start().await;
        let reply = sessions[0].0.at(proxy.addr()).get("/").await;
        assert!(
            reply.outcome().starts_with("kept"),
            "the new file did not restore the session: {}",
            reply.outcome()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_request_does_not_delay_the_shutdown() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "300s""#)
        .start()
        .await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    if home == "a" { &a } else { &b }.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET / HTTP/1.1\r\nHost: t\r\nCookie: SID=s\r\n\r\n").await;
    eventually("both connections are open", async || proxy.metric("homing_connections", &[]) > 1.5).await;
    drop(client);
    // It ends after the grace period at the latest.
    proxy.shutdown(Duration::from_millis(300)).await;
    held.read_to_any_end().await;
}
