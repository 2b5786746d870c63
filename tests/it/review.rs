//! What a hostile client, a broken backend or an unlucky moment could bring out of step.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use crate::harness::{Backend, Gate, Proxy, ProxyBuilder, RawClient, Script, Step, eventually};
use crate::tunnel::UPGRADE;

/// One worker before this backend.
fn before(backend: &Backend) -> ProxyBuilder {
    Proxy::builder().workers(1).upstream("web", &[backend])
}

#[tokio::test]
async fn malformed_first_chunk_leaves_no_connection_counted() {
    let a = Backend::start("a").await;
    let proxy = before(&a).limits("body_bytes = 4").start().await;
    let head = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, status) in [("zz\r\n", 400), ("5\r\nhello\r\n0\r\n\r\n", 413)] {
        let mut raw = proxy.raw().await;
        raw.send(format!("{head}{body}")).await;
        assert_eq!(raw.response().await.status, status);
    }
    eventually("the backend is let go", async || a.open() == 0).await;
    proxy.metric_becomes("homing_backend_connections", &[], 0.0).await;
}

#[tokio::test]
async fn held_request_survives_a_reload_that_takes_its_route_away() {
    let (a, b, z) = (Backend::start("a").await, Backend::start("b").await, Backend::start("z").await);
    let routes = |upstreams: &[(&str, &str)]| {
        let route = |(host, upstream): &(&str, &str)| {
            format!("[[route]]\nhost = \"{host}\"\npath = \"/\"\nupstream = \"{upstream}\"\n")
        };
        upstreams.iter().map(route).collect::<String>()
    };
    let plain = || Proxy::builder().workers(1).upstream("app", &[&z]);
    let proxy = plain()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "60s""#)
        .raw_toml(&routes(&[("test", "web"), ("other", "app")]))
        .start()
        .await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    let home = if home == "a" { &a } else { &b };
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET /held HTTP/1.1\r\nHost: test\r\nCookie: SID=s\r\n\r\n").await;
    eventually("it is held", async || {
        proxy.metric("homing_backend_requests_total", &[("upstream", "web")]) >= 2.0
    })
    .await;
    // One upstream is left, and no route for this host.
    proxy.reload(&plain().raw_toml(&routes(&[("other", "app")]))).await;
    held.response().await.assert_own(404, "no_route");
    held.send("GET / HTTP/1.1\r\nHost: other\r\n\r\n").await;
    assert_eq!(held.response().await.backend(), "z", "the connection goes on");
}

#[tokio::test]
async fn held_request_follows_its_session_where_it_went_meanwhile() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let builder = |hold: &str| {
        Proxy::builder()
            .workers(1)
            .upstream("web", &[&a, &b])
            .affinity(&format!(r#"key = ["cookie:SID"], hold = "{hold}""#))
    };
    let proxy = builder("60s").start().await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    let (home, heir) = if home == "a" { (&a, &b) } else { (&b, &a) };
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET /held HTTP/1.1\r\nHost: test\r\nCookie: SID=s\r\n\r\n").await;
    eventually("it is held", async || {
        proxy.metric("homing_backend_requests_total", &[("backend", &home.name)]) >= 2.0
    })
    .await;
    // Without holding, another request of the session fails over.
    proxy.reload(&builder("0s")).await;
    assert_eq!(client.get("/").await.backend(), heir.name);
    home.restart();
    assert_eq!(held.response().await.backend(), heir.name, "the session is there now");
}

#[tokio::test]
async fn connections_made_before_a_shutdown_are_served() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
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
    assert!(stopping.await.expect("the shutdown"), "everything has ended by itself");
}

#[tokio::test]
async fn silent_connection_does_not_hold_a_shutdown_up() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut silent = proxy.raw().await;
    let began = Instant::now();
    assert!(proxy.shutdown(Duration::from_secs(9)).await);
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    silent.assert_closed().await;
}

#[tokio::test]
async fn connection_too_many_is_told_so() {
    let a = Backend::start("a").await;
    let proxy = before(&a).limits("connections = 1").start().await;
    let mut first = proxy.raw().await;
    assert_eq!(first.get("/", &[]).await.backend(), "a");
    let mut second = proxy.raw().await;
    let reply = second.response().await;
    reply.assert_own(503, "too_many_connections");
    assert_eq!(reply.field("retry-after"), Some("1"));
    second.assert_closed().await;
    assert_eq!(first.get("/", &[]).await.backend(), "a");
}

#[tokio::test]
async fn options_of_a_whole_server_in_absolute_form_goes_on() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("OPTIONS http://shop.example HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(a.last().line, "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn pause_in_an_early_response_is_judged_by_the_body_timeout() {
    let gate = Gate::closed();
    let begin = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nab";
    let steps = [
        Step::ReadHead,
        Step::Send(begin.to_vec()),
        Step::ReadBody,
        Step::Pause(gate.clone()),
        Step::Send(b"cd".to_vec()),
    ];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).timeouts("response_head = \"200ms\"\nbody_idle = \"30s\"").start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n12").await;
    assert_eq!(raw.head().await.status, 200);
    assert_eq!(raw.exactly(2).await, b"ab");
    raw.send("34").await;
    eventually("the upload is there", async || a.received() == 4).await;
    // Longer than the response's head may take: three times as long.
    let began = Instant::now();
    eventually("time goes by", async || began.elapsed() > Duration::from_millis(900)).await;
    gate.open();
    assert_eq!(raw.exactly(2).await, b"cd");
}

#[tokio::test]
async fn error_does_not_land_in_the_middle_of_an_interim_response() {
    let gate = Gate::closed();
    // More than two sockets hold, in heads within the limit.
    let hints = format!("HTTP/1.1 103 Early Hints\r\nLink: {}\r\n\r\n", "x".repeat(900_000));
    let mut bytes = Vec::new();
    for _ in 0..6 {
        bytes.extend_from_slice(hints.as_bytes());
    }
    let steps = [Step::ReadHead, Step::Send(bytes), Step::Pause(gate.clone()), Step::Close];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).limits("head_bytes = \"1MiB\"").start().await;
    let mut raw = RawClient::connect_narrow(proxy.addr()).await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    eventually("the request is there", async || a.requests() == 1).await;
    gate.open();
    eventually("the backend is gone", async || a.open() == 0).await;
    let got = raw.read_to_any_end().await;
    let text = String::from_utf8_lossy(&got);
    let mut rest = &*text;
    while let Some(after) = rest.strip_prefix(&*hints) {
        rest = after;
    }
    let what: String = rest.chars().take(30).collect();
    assert!(rest.starts_with("HTTP/1.1 502") || hints.starts_with(rest), "{what:?} of {}", rest.len());
}

#[tokio::test]
async fn upgrade_before_the_request_has_ended_is_refused() {
    let a = Backend::named("a").upgrade_echo("").start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE.replace("Host: t\r\n", "Host: t\r\nContent-Length: 9\r\n")).await;
    raw.response().await.assert_own(502, "unasked_upgrade");
    raw.assert_closed().await;
}

#[tokio::test]
async fn response_before_the_end_of_the_upload_says_that_the_connection_ends() {
    let steps = [Step::ReadHead, Step::Reply, Step::Hang];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nonly the beginning").await;
    let head = raw.head().await;
    assert_eq!((head.status, head.field("connection")), (200, Some("close")));
}

#[tokio::test]
async fn temporary_failover_returns_home_although_the_heir_repeats_the_cookie() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    for backend in [&a, &b] {
        backend.set_fields(&["Set-Cookie: SID=the-session; Path=/"]);
    }
    let proxy = Proxy::builder()
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], failover = "temporary""#)
        .start()
        .await;
    let mut client = proxy.session("the-session");
    let home = client.get("/").await.backend().to_owned();
    let (home, heir) = if home == "a" { (&a, &b) } else { (&b, &a) };
    home.stop().await;
    assert_eq!(client.get("/").await.backend(), heir.name);
    home.restart();
    assert_eq!(client.get("/").await.backend(), home.name);
}

#[tokio::test]
async fn new_session_whose_home_refuses_is_at_one_backend_whoever_comes_first() {
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
    eventually("all requests are at backends", async || {
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
async fn reload_that_allows_larger_heads_is_believed_by_old_buffers() {
    let a = Backend::start("a").await;
    let proxy = before(&a).limits("head_bytes = \"16KiB\"").start().await;
    // All at once, so that there are buffers left over.
    let gate = Gate::closed();
    a.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    let mut clients = Vec::new();
    for _ in 0..16 {
        let mut raw = proxy.raw().await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: t\r\nX-App: {}\r\n\r\n", "v".repeat(10_000))).await;
        clients.push(raw);
    }
    eventually("all are there", async || a.requests() == 16).await;
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().await.backend(), "a");
    }
    a.set(Script::reply());
    proxy.reload(&before(&a).limits("head_bytes = \"256KiB\"")).await;
    eventually("the reload has arrived", async || {
        let mut raw = proxy.raw().await;
        raw.get("/", &[&format!("X-App: {}", "v".repeat(20_000))]).await.status == 200
    })
    .await;
    let long = format!("X-App: {}", "v".repeat(100_000));
    assert_eq!(clients[0].get("/", &[&long]).await.backend(), "a");
    assert_eq!(a.last().field("x-app").map(str::len), Some(100_000));
}

#[tokio::test]
async fn http10_client_is_not_left_waiting_after_an_error() {
    let a = Backend::named("a").refuse().start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.0\r\nHost: t\r\nConnection: keep-alive\r\n\r\n").await;
    let reply = raw.response().await;
    reply.assert_own(503, "connect_failed");
    assert_eq!(reply.field("connection"), Some("close"));
    raw.assert_closed().await;
}

#[tokio::test]
async fn empty_line_behind_a_request_begins_no_other() {
    let a = Backend::start("a").await;
    let proxy = before(&a).timeouts("request_head = \"200ms\"\nkeep_alive = \"60s\"").start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nok\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    let began = Instant::now();
    eventually("time goes by", async || began.elapsed() > Duration::from_millis(700)).await;
    assert_eq!(raw.get("/", &[]).await.backend(), "a", "and no 408 before it");
    raw.send("\r\n").await;
    assert!(proxy.shutdown(Duration::from_secs(9)).await);
    raw.assert_closed().await;
}

#[tokio::test]
async fn interim_and_bodiless_responses_say_no_length_and_nothing_of_affinity() {
    let hints =
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nContent-Length: 7\r\nX-Affinity-Outcome: kept\r\n\r\n";
    let end = "HTTP/1.1 204 No Content\r\nX-Backend: a\r\nContent-Length: 7\r\n\r\n";
    let a = Backend::named("a").reply_raw(format!("{hints}{end}")).start().await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &[]).await;
    assert_eq!(reply.interim[0].fields.names(), ["link"]);
    assert_eq!(reply.fields.names(), ["x-backend", "via"]);
}

#[tokio::test]
async fn removed_backend_keeps_only_the_connections_in_use() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let builder = Proxy::builder().workers(1).upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#);
    let proxy = builder.clone().start().await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    let home = if home == "a" { &a } else { &b };
    let gate = Gate::closed();
    let mut slow = proxy.raw().await;
    home.set(Script::new([Step::ReadHead, Step::Pause(gate.clone()), Step::Reply]));
    slow.send("GET / HTTP/1.1\r\nHost: t\r\nCookie: SID=s\r\n\r\n").await;
    eventually("it is there", async || home.requests() == 2).await;
    home.set(Script::reply());
    client.get("/").await;
    assert_eq!(home.open(), 2, "one in use, one idle");
    proxy.reload(&builder.without(&home.name)).await;
    eventually("the idle one is closed", async || home.open() == 1).await;
    gate.open();
    assert_eq!(slow.response().await.backend(), home.name);
    eventually("the other one too", async || home.open() == 0).await;
}

#[tokio::test]
async fn what_a_backend_said_before_it_broke_a_tunnel_arrives() {
    const LENGTH: usize = 60_000;
    let gate = Gate::closed();
    let head = b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for last in [Step::Close, Step::Reset] {
        let steps =
            [Step::ReadHead, Step::Send(head.to_vec()), Step::Zeros(LENGTH), Step::Pause(gate.clone()), last];
        let a = Backend::named("a").script(Script::new(steps)).start().await;
        let proxy = before(&a).start().await;
        let mut raw = RawClient::connect_narrow(proxy.addr()).await;
        raw.send(UPGRADE).await;
        eventually("all is at the proxy", async || a.sent() >= LENGTH as u64).await;
        // Never read there, so that closing breaks the connection.
        raw.send("unread").await;
        assert_eq!(raw.head().await.status, 101);
        assert_eq!(raw.exactly(10_000).await.len(), 10_000);
        gate.open();
        eventually("the backend is gone", async || a.open() == 0).await;
        raw.discard(LENGTH - 10_000).await;
        raw.read_to_any_end().await;
    }
}

#[tokio::test]
async fn forged_forwarding_fields_do_not_pass_where_none_are_sent() {
    let a = Backend::start("a").await;
    let proxy = before(&a).raw_toml("[forwarding]\nx_forwarded = false\nvia = \"off\"").start().await;
    let mut raw = proxy.raw().await;
    let forged = [
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "Forwarded: for=6.6.6.6",
    ];
    raw.get("/", &forged).await;
    assert_eq!(a.last().fields.names(), ["host"]);
}

#[tokio::test]
async fn bytes_of_a_request_are_counted_once() {
    let a = Backend::start("a").await;
    let proxy = before(&a).start().await;
    let mut raw = proxy.raw().await;
    let request = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello";
    raw.send(request).await;
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(request.len(), 52);
    proxy.metric_becomes("homing_received_bytes_total", &[], 52.0).await;
    a.set(Script::new([Step::ReadHead, Step::ReadBody, Step::Close]));
    raw.send(request).await;
    raw.response().await.assert_own(502, "backend_closed");
    proxy.metric_becomes("homing_received_bytes_total", &[], 104.0).await;
}

#[tokio::test]
async fn client_that_stalls_its_upload_is_not_the_backends_fault() {
    let begin = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nab";
    let steps = [Step::ReadHead, Step::Send(begin.to_vec()), Step::ReadBody, Step::Send(b"cd".to_vec())];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = before(&a).timeouts("body_idle = \"150ms\"").passive("max_fails = 1").start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\n12").await;
    assert_eq!(raw.head().await.status, 200);
    raw.assert_broken().await;
    proxy.metric_becomes("homing_errors_total", &[("error", "request_body_timeout")], 1.0).await;
    // Once is enough to be ejected, but this was not once.
    a.set(Script::reply());
    assert_eq!(proxy.client().get("/").await.backend(), "a");
}

/// Answers requests with their own path and the length of their body, framed
/// in one of several ways, now and then with extra turns; ends sometimes.
async fn echo(mut stream: tokio::net::TcpStream, mut random: fastrand::Rng) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut held = Vec::new();
    loop {
        let (head, len) = loop {
            if let Some(at) = held.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = held.split_off(at + 4);
                let head = String::from_utf8(std::mem::replace(&mut held, rest)).expect("ASCII");
                break (head.to_ascii_lowercase(), at);
            }
            if !matches!(stream.read_buf(&mut held).await, Ok(1..)) {
                return;
            }
        };
        assert!(len > 0, "an empty head");
        let path = head.split(' ').nth(1).expect("a path").to_owned();
        let fields: Vec<(&str, &str)> = head.lines().filter_map(|l| l.split_once(": ")).collect();
        let field = |name| fields.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        if field("expect").is_some() && stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err() {
            return;
        }
        let chunked = field("transfer-encoding").is_some();
        let length: usize = field("content-length").map_or(0, |v| v.parse().expect("a length"));
        let ended = |held: &[u8]| {
            if chunked {
                held.windows(5).position(|w| w == b"0\r\n\r\n").map(|at| at + 5)
            } else {
                (held.len() >= length).then_some(length)
            }
        };
        let end = loop {
            if let Some(end) = ended(&held) {
                break end;
            }
            if !matches!(stream.read_buf(&mut held).await, Ok(1..)) {
                return;
            }
        };
        held.drain(..end);
        let body = format!("{path} {}", "x".repeat(random.usize(0..20_000)));
        let is_head = head.starts_with("head ");
        // Writing into a string cannot fail.
        let mut out = String::new();
        if random.u8(..) < 40 {
            out.push_str("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        let mut last = false;
        let _ = write!(out, "HTTP/1.1 200 OK\r\nX-Seen: {path}\r\n");
        match random.u8(0..4) {
            0 if !is_head => {
                out.push_str("\r\n");
                out.push_str(&body);
                last = true;
            }
            1 => {
                out.push_str("Transfer-Encoding: chunked\r\n\r\n");
                if !is_head {
                    let (a, b) = body.split_at(random.usize(1..body.len()));
                    let (x, y) = (a.len(), b.len());
                    let _ = write!(out, "{x:x}\r\n{a}\r\n{y:x};e=1\r\n{b}\r\n0\r\n\r\n");
                }
            }
            _ => {
                last = random.u8(..) < 20;
                let close = if last { "Connection: close\r\n" } else { "" };
                let _ = write!(out, "{close}Content-Length: {}\r\n\r\n", body.len());
                if !is_head {
                    out.push_str(&body);
                }
            }
        }
        let mut rest = out.as_bytes();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(random.usize(1..=rest.len()));
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
            rest = after;
        }
        if last {
            return;
        }
    }
}

#[tokio::test]
async fn responses_belong_to_their_requests_however_they_are_cut() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move {
        for seed in 0.. {
            let (stream, _) = listener.accept().await.expect("accept");
            tokio::spawn(echo(stream, fastrand::Rng::with_seed(seed)));
        }
    });
    let proxy = Proxy::builder().workers(1).upstream("web", &[]).member("echo", address).start().await;
    let client = |seed: u64, mut raw: RawClient| async move {
        let mut random = fastrand::Rng::with_seed(seed);
        for round in 0..12 {
            let mut sent = Vec::new();
            let mut asked = Vec::new();
            for n in 0..random.usize(1..6) {
                let path = format!("/{seed}/{round}/{n}");
                let head = format!("{path} HTTP/1.1\r\nHost: t\r\n");
                let body = "y".repeat(random.usize(0..9_000));
                let (method, text) = match random.u8(0..5) {
                    0 => ("HEAD", format!("HEAD {head}\r\n")),
                    1 => ("GET", format!("\r\nGET {head}Content-Length: 0\r\n\r\n")),
                    2 => ("POST", format!("POST {head}Content-Length: {}\r\n\r\n{body}", body.len())),
                    3 => {
                        let length = body.len() + 1;
                        let chunk = format!("{length:x};ext\r\nz{body}\r\n0\r\n\r\n");
                        let expect = if random.bool() { "Expect: 100-continue\r\n" } else { "" };
                        ("POST", format!("POST {head}{expect}Transfer-Encoding: chunked\r\n\r\n{chunk}"))
                    }
                    _ => ("GET", format!("GET {head}\r\n")),
                };
                sent.extend_from_slice(text.as_bytes());
                asked.push((method, path));
            }
            let mut rest = &*sent;
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(random.usize(1..=rest.len()));
                raw.send(piece).await;
                tokio::task::yield_now().await;
                rest = after;
            }
            for (method, path) in asked {
                let reply = raw.response_to(method).await;
                assert_eq!((reply.status, reply.field("x-seen")), (200, Some(&*path)), "{}", reply.text());
                assert!(method == "HEAD" || reply.text().starts_with(&path), "{path}: {}", reply.text());
            }
            raw.assert_quiet();
        }
    };
    let mut clients = tokio::task::JoinSet::new();
    for seed in 0..12 {
        clients.spawn(client(seed, proxy.raw().await));
    }
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client");
    }
}

#[tokio::test]
async fn one_held_request_is_one_failure() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], hold = "9s""#)
        .passive(r#"max_fails = 3, penalty = "60s", max_penalty = "60s""#)
        .start()
        .await;
    let home = proxy.session("s").get("/").await.backend().to_owned();
    let home = if home == "a" { &a } else { &b };
    home.stop().await;
    let mut held = proxy.raw().await;
    held.send("GET /held HTTP/1.1\r\nHost: test\r\nCookie: SID=s\r\n\r\n").await;
    // It is looked for again and again, more often than an ejection takes.
    eventually("it is held", async || {
        proxy.metric("homing_backend_requests_total", &[("backend", &home.name)]) >= 6.0
    })
    .await;
    home.restart();
    assert_eq!(held.response().await.backend(), home.name);
}
