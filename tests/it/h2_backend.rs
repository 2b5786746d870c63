//! HTTP/2 to backends: messages, connections and failures.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::harness::http2::rest;
use crate::harness::{
    Authority, Backend, Http2Backend, Http2Client, PemFiles, Proxy, ProxyBuilder, eventually,
    http2_server_config, server_config,
};
use crate::tunnel::{self, UPGRADE};

/// One worker in front of these backends, so that requests share connections.
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
async fn http1_client_exchanges_bodies_and_trailers() {
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
async fn http2_client_exchanges_bodies_and_trailers() {
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
async fn bodiless_and_interim_responses_arrive() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    // One connection: a framing error would break the next response.
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
async fn sessions_stick_and_are_announced_to_the_backend() {
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
            let name = String::from_utf8(response.body).expect("UTF-8");
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
async fn concurrent_requests_share_connections_up_to_the_stream_limit() {
    for (max_streams, connections) in [(None, 1), (Some(4), 5)] {
        let a = Http2Backend::with("a", max_streams, None).await;
        let proxy = over_http2(&[&a]).start().await;
        let client = Http2Client::connect(proxy.addr()).await;
        let asked = (0..20).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.ask(request("GET", "/gate"), b"", HeaderMap::new()).await })
        });
        let asked: Vec<_> = asked.collect();
        eventually("the backend has all streams", async || a.streams() == 20).await;
        a.open_gate();
        for response in asked {
            assert_eq!(response.await.expect("request task").expect("a response").head.status(), 200);
        }
        assert_eq!((a.connections(), a.most_streams(), a.refused()), (connections, 20, 0));
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let opened = connections as f64;
        proxy.metric_becomes("homing_backend_connections", &[("backend", "a")], opened).await;
    }
}

#[tokio::test]
async fn goaway_fails_no_request() {
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
        eventually("some requests are served", async || a.count("/echo") > round * 60).await;
        a.leave();
    }
    for asked in asking {
        asked.await.expect("no request fails");
    }
    assert_eq!(a.count("/echo"), 400, "each request must be processed exactly once");
    assert!(a.connections() > 1);
}

#[tokio::test]
async fn refused_streams_are_retried_at_another_backend() {
    let (a, b) = (Http2Backend::start("a").await, Http2Backend::start("b").await);
    let proxy = over_http2(&[&a, &b]).affinity("key = [\"header:X-Key\"]").start().await;
    a.refuse(true);
    let body = some_bytes(6_000);
    for key in 0..8 {
        let response = proxy.client().field(&format!("X-Key: {key}")).post("/echo", &body).await;
        assert_eq!((response.status, response.backend(), response.body == body), (200, "b", true));
        // The body arrives after the head.
        let mut raw = proxy.raw().await;
        raw.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\nContent-Length: 3\r\n\r\n"))
            .await;
        raw.send("abc").await;
        assert_eq!(raw.response().await.text(), "abc");
    }
    assert!(a.refused() > 0);
    assert_eq!((a.count("/echo"), b.count("/echo")), (0, 16), "each request must be processed exactly once");
}

#[tokio::test]
async fn refused_request_with_a_large_body_fails_with_backend_refused() {
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
async fn backend_that_dies_fails_only_the_requests_in_flight() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    assert_eq!(proxy.client().get("/").await.status, 200);
    // A request that may have been processed is not retried.
    proxy.client().post("/die", b"x").await.assert_own(502, "backend_closed");
    assert_eq!(a.count("/die"), 1);
    assert_eq!(proxy.client().get("/").await.status, 200);
    proxy.client().get("/reset").await.assert_own(502, "backend_reset");
    assert_eq!(proxy.client().get("/").await.status, 200);
    assert_eq!(a.connections(), 2, "a reset must end only its stream");
}

#[tokio::test]
async fn truncated_response_is_truncated_for_the_client() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 200);
    let client = Http2Client::connect(proxy.addr()).await;
    let asked = tokio::spawn(async move { client.ask(request("GET", "/cut"), b"", HeaderMap::new()).await });
    eventually("the backend has both streams", async || a.streams() == 2).await;
    a.open_gate();
    let error = asked.await.expect("request task").expect_err("a reset");
    assert!(error.is_reset(), "{error}");
    raw.assert_broken().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /short HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.assert_broken().await;
}

#[tokio::test]
async fn client_that_disconnects_cancels_its_stream() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the backend has the stream", async || a.streams() == 1).await;
    raw.reset();
    eventually("the stream is cancelled", async || a.resets() == [h2::Reason::CANCEL]).await;
    let client = Http2Client::connect(proxy.addr()).await;
    let asked =
        tokio::spawn(async move { client.ask(request("POST", "/hang"), b"x", HeaderMap::new()).await });
    eventually("the backend has the stream", async || a.streams() == 1).await;
    asked.abort();
    eventually("the stream is cancelled", async || a.resets() == [h2::Reason::CANCEL; 2]).await;
    assert_eq!(proxy.client().get("/").await.status, 200);
    assert_eq!(a.connections(), 1, "the connection must stay open");
}

#[tokio::test]
async fn tls_backend_must_negotiate_http2() {
    let (authority, files) = (Authority::new(), PemFiles::new());
    let pair = authority.server(&["127.0.0.1"]);
    let ca = files.write("ca.pem", &authority.pem);
    let lines = format!("protocol = \"h2\"\ntls = {{ ca = \"{ca}\" }}");
    let a = Http2Backend::with("a", None, Some(http2_server_config(&pair))).await;
    let proxy =
        over_http2(&[&a]).lines(&lines).health_check("path = \"/up\", interval = \"50ms\"").start().await;
    assert_eq!(proxy.client().get("/").await.text(), "a");
    assert_eq!(a.last().uri().scheme_str(), Some("https"));
    eventually("health checks arrive over HTTP/2", async || a.count("/up") > 2).await;

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
async fn health_checks_use_the_protocol_of_the_backend() {
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
async fn http1_backend_configured_as_h2c_is_502() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).lines("protocol = \"h2c\"").start().await;
    proxy.client().get("/").await.assert_own(502, "backend_not_http2");
}

/// Starts a backend that answers requests with this header block, or not at all if it is empty.
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
                    // A HEADERS frame. The answer has END_STREAM and END_HEADERS set.
                    if head[3] == 1 && !block.is_empty() {
                        let length = u8::try_from(block.len()).expect("a small block");
                        let mut frame = vec![0, 0, length, 1, 5];
                        frame.extend_from_slice(&head[5..]);
                        frame.extend_from_slice(block);
                        socket.write_all(&frame).await?;
                    }
                }
                #[expect(unreachable_code, reason = "gives the block its type")]
                std::io::Result::Ok(())
            });
        }
    });
    address
}

#[tokio::test]
async fn malformed_responses_are_502() {
    let blocks: [(&str, &[u8], u16); 8] = [
        ("valid", b"\x88\x00\x05x-app\x01y", 200),
        ("Connection header", b"\x88\x00\x0aconnection\x05close", 502),
        ("Transfer-Encoding header", b"\x88\x00\x11transfer-encoding\x07chunked", 502),
        ("uppercase header name", b"\x88\x00\x01X\x01y", 502),
        ("request pseudo-header", b"\x88\x84", 502),
        ("request pseudo-header, literal", b"\x88\x00\x07:method\x03GET", 502),
        ("missing :status", b"\x00\x01x\x01y", 502),
        ("whitespace around a value", b"\x88\x00\x01x\x02 y", 502),
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
async fn silent_connection_is_closed_after_a_timeout() {
    let address = answering(b"").await;
    let lines = "protocol = \"h2c\"\ntimeouts = { response_head = \"1s\" }";
    let proxy = over_http2(&[]).member("a", address).lines(lines).start().await;
    proxy.client().get("/").await.assert_own(504, "response_head_timeout");
    proxy.metric_becomes("homing_backend_connections", &[("backend", "a")], 0.0).await;
}

#[tokio::test]
async fn websocket_to_a_backend_without_extended_connect_is_501() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE).await;
    raw.response().await.assert_own(501, "no_tunnel");
}

#[tokio::test]
async fn target_that_http2_cannot_carry_is_not_a_backend_error() {
    let a = Http2Backend::start("a").await;
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /`x` HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let response = raw.response().await;
    assert!(response.status == 400 || response.status == 200, "{}", response.status);
}

#[tokio::test]
async fn idle_connections_close_and_a_reload_lets_streams_finish() {
    let (a, b) = (Http2Backend::start("a").await, Http2Backend::start("b").await);
    let builder = over_http2(&[&a]).lines("protocol = \"h2c\"\npool = { idle_timeout = \"50ms\" }");
    let proxy = builder.start().await;
    assert_eq!(proxy.client().get("/").await.status, 200);
    proxy.metric_becomes("homing_backend_connections", &[("backend", "a")], 0.0).await;

    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the backend has the stream", async || a.streams() == 1).await;
    proxy.reload(&over_http2(&[&b])).await;
    a.open_gate();
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(proxy.client().get("/").await.backend(), "b");
    assert!(proxy.shutdown(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn websocket_reaches_a_backend_that_offers_extended_connect() {
    let a = Http2Backend::start("a").await;
    a.offer_websocket();
    let proxy = over_http2(&[&a]).start().await;
    let (mut raw, response) = tunnel::open(&proxy, "eager").await;
    assert_eq!(response.field("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((response.field("upgrade"), response.backend()), (Some("websocket"), "a"));
    assert_eq!(raw.exactly(5).await, b"eager");
    let seen = a.last();
    assert_eq!((seen.method().as_str(), seen.uri().path()), ("CONNECT", "/chat"));
    assert!(!seen.headers().contains_key("sec-websocket-key"), "{seen:?}");
    for size in [1, 1000, 300_000] {
        raw.send(vec![7; size]).await;
        assert_eq!(raw.exactly(size).await, vec![7; size]);
    }
    // Each direction ends on its own.
    raw.half_close().await;
    raw.assert_closed().await;
    eventually("the stream has ended", async || a.streams() == 0).await;
    assert_eq!(proxy.client().get("/").await.status, 200);
    assert_eq!(a.connections(), 1, "the connection must stay open");

    // HTTP/2 on both sides.
    let client = proxy.http2().await;
    let mut stream = client.websocket("/chat", &[]).await;
    let (head, mut back) = stream.head().await;
    assert_eq!(head.status, 200);
    stream.send(b"hello", true).await.unwrap();
    assert_eq!(rest(&mut back).await.unwrap(), b"hello");
}

#[tokio::test]
async fn websocket_that_an_http2_backend_refuses_is_an_ordinary_response() {
    let a = Http2Backend::start("a").await;
    a.offer_websocket();
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send(UPGRADE.replace("/chat", "/refuse")).await;
    assert_eq!(raw.response().await.status, 403);
    assert_eq!(raw.get("/", &[]).await.status, 200);
    eventually("the stream has ended", async || a.streams() == 0).await;
}

#[tokio::test]
async fn request_with_more_headers_than_the_backend_accepts_is_431() {
    let a = Http2Backend::start("a").await;
    a.accept_header_list(1000);
    let proxy = over_http2(&[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.get("/", &[&format!("X-App: {}", "x".repeat(900))]).await.assert_own(431, "head_too_large");
    assert_eq!(proxy.client().get("/").await.status, 200);
    assert_eq!(a.count("/"), 1);
}
