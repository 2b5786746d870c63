//! HTTP/2 to backends.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::{
    Authority, Backend, Http2Backend, Http2Client, PemFiles, Proxy, ProxyBuilder, eventually,
    http2_server_config, server_config,
};
use crate::tunnel::UPGRADE;

/// A proxy of one worker in front of these, so that what is shared is.
fn over_http2(backends: &[&Http2Backend]) -> ProxyBuilder {
    let mut builder = Proxy::builder().workers(1).listener_line("http2 = true").upstream("web", &[]);
    for backend in backends {
        builder = builder.member(&backend.name, backend.address);
    }
    builder.lines("protocol = \"h2c\"")
}

fn request(method: &str, path: &str) -> Request<()> {
    let uri = format!("http://web.test{path}");
    Request::builder().method(method).uri(uri).body(()).expect("a request")
}

fn some_bytes(n: usize) -> Vec<u8> {
    (0..=250u8).cycle().step_by(7).take(n).collect()
}

#[tokio::test]
async fn a_client_of_http1_gets_bodies_and_trailers_both_ways() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    for size in [1, 5_000, 3_000_000] {
        let body = some_bytes(size);
        let response = proxy.client().post("/echo", &body).await;
        assert_eq!((response.status, response.body == body), (200, true), "{size}");
        assert_eq!(response.trailers.get("grpc-status"), Some("0"));
        assert_eq!(response.backend(), "a");
    }
    let mut raw = proxy.raw().await;
    raw.send(
        "POST /echo HTTP/1.1\r\nHost: web.test\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    .await;
    let response = raw.response().await;
    assert_eq!((response.text().as_str(), response.trailers.get("x-sum")), ("abc", Some("7")));
    let seen = a.last();
    assert_eq!(seen.uri().to_string(), "http://web.test/echo");
    assert_eq!(seen.headers()["te"], "trailers");
    assert!(!seen.headers().contains_key("transfer-encoding") && !seen.headers().contains_key("host"));
}

#[tokio::test]
async fn a_client_of_http2_gets_bodies_and_trailers_both_ways() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let client = Http2Client::connect(proxy.addr()).await;
    for size in [1, 5_000, 3_000_000] {
        let body = some_bytes(size);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("7"));
        let response = client.ask(request("POST", "/echo"), &body, trailers).await.expect("a response");
        assert!(response.body == body, "{size}");
        assert_eq!(response.trailers["grpc-status"], "0");
        assert_eq!(response.trailers["x-sum"], "7");
    }
    let only = client.ask(request("POST", "/only"), b"x", HeaderMap::new()).await.expect("a response");
    assert_eq!((&only.head.headers()["grpc-status"], only.bare), (&HeaderValue::from_static("12"), true));
}

#[tokio::test]
async fn heads_without_bodies_and_interim_ones_arrive() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    // One connection: what is framed wrong would spoil what follows.
    let mut client = proxy.client();
    let hints = client.get("/hints").await;
    assert_eq!((hints.status, hints.field("content-length")), (200, Some("0")));
    assert_eq!(hints.interim[0].field("link"), Some("</a.css>"));
    for status in [204, 304] {
        let bare = client.get(&format!("/status/{status}")).await;
        assert_eq!((bare.status, bare.fields.has("content-length")), (status, false));
    }
    let head = client.request("HEAD", "/", b"").await;
    assert_eq!((head.field("content-length"), head.body.len()), (Some("1"), 0));
    let bare = client.request("HEAD", "/status/200", b"").await;
    assert!(!bare.fields.has("content-length") && !bare.fields.has("transfer-encoding"));
    assert_eq!(client.get("/").await.text(), "a");
    let empty = client.get("/status/404").await;
    assert_eq!((empty.status, empty.field("content-length")), (404, Some("0")));
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn sessions_stay_and_the_backend_is_told_of_them() {
    let (a, b) = (Http2Backend::start("a").await, Http2Backend::start("b").await);
    let affinity = "key = [\"cookie:SID\"], remember = \"table\", announce = true";
    let proxy = over_http2(&[&a, &b]).affinity(affinity).start().await;
    let client = Http2Client::connect(proxy.addr()).await;
    let mut homes = Vec::new();
    for round in 0..2 {
        for session in 0..16 {
            let mut asked = request("GET", "/");
            let cookie = HeaderValue::from_str(&format!("SID=s{session}")).expect("a value");
            asked.headers_mut().append("cookie", HeaderValue::from_static("x=y"));
            asked.headers_mut().append("cookie", cookie);
            let response = client.ask(asked, b"", HeaderMap::new()).await.expect("a response");
            let name = String::from_utf8(response.body).expect("text");
            let seen = if name == "a" { a.last() } else { b.last() };
            assert_eq!(seen.headers()["cookie"], format!("x=y; SID=s{session}"));
            assert_eq!(seen.headers()["x-affinity-backend"], name);
            assert!(seen.headers().contains_key("x-affinity-successor"));
            if round == 0 { homes.push(name) } else { assert_eq!(homes[session], name) }
        }
    }
    assert!(homes.contains(&"a".to_owned()) && homes.contains(&"b".to_owned()));
}

#[tokio::test]
async fn concurrent_requests_share_a_connection_as_far_as_the_backend_allows() {
    for (max_streams, connections) in [(None, 1), (Some(4), 5)] {
        let a = Http2Backend::with("a", max_streams, None).await;
        let proxy = over_http2(&[&a]).start().await;
        let client = Http2Client::connect(proxy.addr()).await;
        let asked = (0..20).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.ask(request("GET", "/gate"), b"", HeaderMap::new()).await })
        });
        let asked: Vec<_> = asked.collect();
        eventually("all are there", async || a.streams() == 20).await;
        a.open_gate();
        for response in asked {
            assert_eq!(response.await.expect("no panic").expect("a response").head.status(), 200);
        }
        assert_eq!((a.connections(), a.most_streams(), a.refused()), (connections, 20, 0));
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let opened = connections as f64;
        proxy.metric_becomes("homing_backend_connections", &[("backend", "a")], opened).await;
    }
}

#[tokio::test]
async fn connections_that_leave_fail_no_request() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let client = Http2Client::connect(proxy.addr()).await;
    let asking: Vec<_> = (0..8)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    let asked = client.ask(request("POST", "/echo"), b"some", HeaderMap::new()).await;
                    let response = asked.expect("a response");
                    assert_eq!((response.head.status().as_u16(), response.body.len()), (200, 4));
                }
            })
        })
        .collect();
    for round in 1..5 {
        eventually("some were served", async || a.count("/echo") > round * 60).await;
        a.leave();
    }
    for asked in asking {
        asked.await.expect("all were answered");
    }
    assert_eq!(a.count("/echo"), 400, "each exactly once");
    assert!(a.connections() > 1);
}

#[tokio::test]
async fn what_a_backend_refuses_unprocessed_is_sent_elsewhere() {
    let (a, b) = (Http2Backend::start("a").await, Http2Backend::start("b").await);
    let proxy = over_http2(&[&a, &b]).affinity("key = [\"header:X-Key\"]").start().await;
    a.refuse(true);
    let body = some_bytes(6_000);
    for key in 0..8 {
        let response = proxy.client().field(&format!("X-Key: {key}")).post("/echo", &body).await;
        assert_eq!((response.status, response.backend(), response.body == body), (200, "b", true));
        // Its body comes in a piece of its own.
        let mut raw = proxy.raw().await;
        raw.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\nContent-Length: 3\r\n\r\n"))
            .await;
        raw.send("abc").await;
        assert_eq!(raw.response().await.text(), "abc");
    }
    assert!(a.refused() > 0);
    assert_eq!((a.count("/echo"), b.count("/echo")), (0, 16), "each exactly once");
}

#[tokio::test]
async fn a_refused_request_with_a_large_body_fails_and_says_so() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    a.refuse(true);
    let response = proxy.client().post("/echo", &some_bytes(200_000)).await;
    response.assert_own(502, "backend_refused");
    proxy.client().get("/").await.assert_own(503, "backend_refused");
    a.refuse(false);
    assert_eq!(proxy.client().get("/").await.status, 200);
}

#[tokio::test]
async fn a_backend_that_dies_fails_what_it_was_at_and_nothing_after() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    assert_eq!(proxy.client().get("/").await.status, 200);
    // What may have been done is not done again.
    proxy.client().post("/die", b"x").await.assert_own(502, "backend_closed");
    assert_eq!(a.count("/die"), 1);
    assert_eq!(proxy.client().get("/").await.status, 200);
    proxy.client().get("/reset").await.assert_own(502, "backend_reset");
    assert_eq!(proxy.client().get("/").await.status, 200);
    assert_eq!(a.connections(), 2, "a reset is of one stream");
}

#[tokio::test]
async fn a_response_that_is_cut_is_seen_to_be() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 200);
    let client = Http2Client::connect(proxy.addr()).await;
    let asked = tokio::spawn(async move { client.ask(request("GET", "/cut"), b"", HeaderMap::new()).await });
    eventually("both are there", async || a.streams() == 2).await;
    a.open_gate();
    let error = asked.await.expect("no panic").expect_err("a reset");
    assert!(error.is_reset(), "{error}");
    raw.assert_broken().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /short HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.assert_broken().await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_stream() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is there", async || a.streams() == 1).await;
    drop(raw);
    eventually("it is cancelled", async || a.resets() == [h2::Reason::CANCEL]).await;
    let client = Http2Client::connect(proxy.addr()).await;
    let asked =
        tokio::spawn(async move { client.ask(request("POST", "/hang"), b"x", HeaderMap::new()).await });
    eventually("it is there", async || a.streams() == 1).await;
    asked.abort();
    eventually("it is cancelled", async || a.resets() == [h2::Reason::CANCEL; 2]).await;
    assert_eq!(proxy.client().get("/").await.status, 200);
    assert_eq!(a.connections(), 1, "the others go on");
}

#[tokio::test]
async fn over_tls_the_backend_must_choose_http2() {
    let (authority, files) = (Authority::new(), PemFiles::new());
    let pair = authority.server(&["127.0.0.1"]);
    let ca = files.write("ca.pem", &authority.pem);
    let lines = format!("protocol = \"h2\"\ntls = {{ ca = \"{ca}\" }}");
    let a = Http2Backend::with("a", None, Some(http2_server_config(&pair))).await;
    let proxy =
        over_http2(&[&a]).lines(&lines).health_check("path = \"/up\", interval = \"50ms\"").start().await;
    assert_eq!(proxy.client().get("/").await.text(), "a");
    assert_eq!(a.last().uri().scheme_str(), Some("https"));
    eventually("checks come over HTTP/2", async || a.count("/up") > 2).await;

    let silent = Http2Backend::with("b", None, Some(server_config(&pair, None))).await;
    let proxy = over_http2(&[&silent]).lines(&lines).start().await;
    proxy.client().get("/").await.assert_own(502, "backend_not_http2");
    let mut other = rustls::ServerConfig::clone(&server_config(&pair, None));
    other.alpn_protocols = vec![b"http/1.1".to_vec()];
    let refusing = Http2Backend::with("c", None, Some(Arc::new(other))).await;
    let proxy = over_http2(&[&refusing]).lines(&lines).start().await;
    proxy.client().get("/").await.assert_own(502, "backend_not_http2");
}

#[tokio::test]
async fn checks_speak_what_the_backend_does() {
    let a = Http2Backend::start("a").await;
    let check = "path = \"/status/500\", interval = \"20ms\", fast_interval = \"20ms\"";
    let builder = over_http2(&[&a]);
    let proxy = builder.clone().health_check(check).start().await;
    proxy.backend_is("web", "a", false).await;
    assert_eq!(a.last().uri().authority().expect("an authority"), &a.address.to_string());
    proxy.reload(&builder.health_check("path = \"/up\", interval = \"20ms\"")).await;
    proxy.backend_is("web", "a", true).await;
}

#[tokio::test]
async fn a_backend_that_speaks_http1_is_told_apart() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).lines("protocol = \"h2c\"").start().await;
    proxy.client().get("/").await.assert_own(502, "backend_not_http2");
}

/// Answers requests with this header block; not at all if it is empty.
async fn answering(block: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
                socket.read_exact(&mut [0; 24]).await?;
                loop {
                    let mut head = [0; 9];
                    socket.read_exact(&mut head).await?;
                    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                    socket.read_exact(&mut vec![0; length]).await?;
                    // HEADERS; the answer has END_STREAM and END_HEADERS.
                    if head[3] == 1 && !block.is_empty() {
                        let length = u8::try_from(block.len()).expect("a small block");
                        let mut frame = vec![0, 0, length, 1, 5];
                        frame.extend_from_slice(&head[5..]);
                        frame.extend_from_slice(block);
                        socket.write_all(&frame).await?;
                    }
                }
                #[expect(unreachable_code, reason = "the type of the block")]
                std::io::Result::Ok(())
            });
        }
    });
    address
}

#[tokio::test]
async fn malformed_responses_are_refused() {
    let blocks: [(&str, &[u8], u16); 6] = [
        ("right", b"\x88\x00\x05x-app\x01y", 200),
        ("a field of connections", b"\x88\x00\x0aconnection\x05close", 502),
        ("a coding of HTTP/1", b"\x88\x00\x11transfer-encoding\x07chunked", 502),
        ("a name in upper case", b"\x88\x00\x01X\x01y", 502),
        ("no status", b"\x00\x01x\x01y", 502),
        ("space around a value", b"\x88\x00\x01x\x02 y", 502),
    ];
    for (what, block, status) in blocks {
        let address = answering(block).await;
        let proxy = over_http2(&[]).member("a", address).start().await;
        let response = proxy.client().get("/").await;
        assert_eq!(response.status, status, "{what}");
        if status == 502 {
            response.assert_own(502, "response_malformed");
        }
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_comes_is_given_up() {
    let address = answering(b"").await;
    let lines = "protocol = \"h2c\"\ntimeouts = { response_head = \"1s\" }";
    let proxy = over_http2(&[]).member("a", address).lines(lines).start().await;
    proxy.client().get("/").await.assert_own(504, "response_head_timeout");
    proxy.metric_becomes("homing_backend_connections", &[("backend", "a")], 0.0).await;
}

#[tokio::test]
async fn no_tunnel_leads_to_a_backend_of_http2() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE).await;
    raw.response().await.assert_own(501, "no_tunnel");
}

#[tokio::test]
async fn a_request_that_http2_cannot_say_is_the_clients_fault() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /`x` HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let response = raw.response().await;
    assert!(response.status == 400 || response.status == 200, "{}", response.status);
}

#[tokio::test]
async fn idle_connections_go_and_a_reload_lets_streams_finish() {
    let (a, b) = (Http2Backend::start("a").await, Http2Backend::start("b").await);
    let builder = over_http2(&[&a]).lines("protocol = \"h2c\"\npool = { idle_timeout = \"50ms\" }");
    let proxy = builder.start().await;
    assert_eq!(proxy.client().get("/").await.status, 200);
    proxy.metric_becomes("homing_backend_connections", &[("backend", "a")], 0.0).await;

    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is there", async || a.streams() == 1).await;
    proxy.reload(&over_http2(&[&b])).await;
    a.open_gate();
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(proxy.client().get("/").await.backend(), "b");
    assert!(proxy.shutdown(Duration::from_secs(5)).await);
}
