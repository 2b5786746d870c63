//! Several requests on one connection, sent without waiting for responses.

use std::fmt::Write as _;

use crate::harness::{Backend, Proxy, RawClient, in_front_of};

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(
        "GET /1 HTTP/1.1\r\nHost: t\r\n\r\nPOST /2 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello\
         POST /3 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
         HEAD /4 HTTP/1.1\r\nHost: t\r\n\r\n\r\nGET /5 HTTP/1.1\r\nHost: t\r\n\r\n",
    )
    .await;
    for method in ["GET", "POST", "POST", "HEAD", "GET"] {
        assert_eq!(raw.response_to(method).await.status, 200);
    }
    raw.assert_quiet();
    let seen: Vec<_> = a.seen().iter().map(|s| (s.line.clone(), s.body.clone())).collect();
    let expected: [(&str, &[u8]); 5] =
        [("GET /1", b""), ("POST /2", b"hello"), ("POST /3", b"abc"), ("HEAD /4", b""), ("GET /5", b"")];
    let expected: Vec<_> = expected.map(|(l, b)| (format!("{l} HTTP/1.1"), b.to_vec())).into();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn hundreds_of_pipelined_requests_are_answered_in_order() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let requests: Vec<_> = (0..300).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: t\r\n\r\n")).collect();
    raw.send(requests.concat()).await;
    for _ in 0..300 {
        assert_eq!(raw.response().await.backend(), "a");
    }
    let lines: Vec<_> = a.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines, (0..300).map(|n| format!("GET /{n} HTTP/1.1")).collect::<Vec<_>>());
}

#[tokio::test]
async fn requests_after_close_are_not_served() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET /1 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\nGET /2 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    assert_eq!(raw.response().await.backend(), "a");
    raw.assert_closed().await;
    assert_eq!(a.requests(), 1);
}

/// Answers requests with their own path and filler, in random framing and pieces, sometimes after
/// an interim response. Sometimes closes after a response.
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
        assert!(len > 0, "the proxy sent an empty head");
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
async fn responses_match_their_requests_wherever_the_bytes_are_split() {
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
