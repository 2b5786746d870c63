//! Bodies: framing, trailers, memory use and backpressure.

use crate::harness::{Backend, Gate, Proxy, RawClient, Script, Step, eventually, in_front_of, settles};

#[tokio::test]
async fn close_delimited_response_becomes_chunked() {
    let a = Backend::named("a").until_close("as long as it lasts").start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..3 {
        let reply = raw.get("/", &[]).await;
        assert_eq!(reply.text(), "as long as it lasts");
        assert_eq!(reply.field("transfer-encoding"), Some("chunked"));
    }
}

#[tokio::test]
async fn chunk_extensions_are_not_forwarded() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let head = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = "4;name=value\r\nWiki\r\n5;q=\"a;b\"\r\npedia\r\n00A\r\n0123456789\r\n0;last\r\n\r\n";
    for piece in [1, 7, body.len()] {
        raw.send(head).await;
        for bytes in body.as_bytes().chunks(piece) {
            raw.send(bytes).await;
        }
        assert_eq!(raw.response().await.backend(), "a");
        let seen = a.last();
        assert_eq!(seen.body, b"Wikipedia0123456789");
        assert_eq!(seen.field("transfer-encoding"), Some("chunked"));
    }
    assert_eq!(a.connections(), 1);
}

#[tokio::test]
async fn te_trailers_is_forwarded_and_other_codings_are_not() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for (te, told) in [
        ("TE: trailers", Some("trailers")),
        ("TE: gzip;q=0.5, Trailers", Some("trailers")),
        ("TE: gzip", None),
        ("X: y", None),
    ] {
        proxy.raw().await.get("/", &[te, "Connection: TE"]).await;
        let seen = a.last();
        assert_eq!(seen.field("te"), told, "{te}");
        assert_eq!(seen.field("connection"), told.map(|_| "te"), "{te}: Connection must name te");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_except_forbidden_ones() {
    let trailers = ["X-Number: 17", "Content-Length: 3", "Set-Cookie: a=b", "X-Affinity-Backend: x"];
    let a = Backend::named("a").chunked(&["hello"], &trailers).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(
        "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\n\
         X-Sum: 42\r\nHost: evil\r\nAuthorization: x\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    )
    .await;
    let reply = raw.response().await;
    assert_eq!(reply.text(), "hello");
    assert_eq!(reply.trailers.0, [("x-number".to_owned(), "17".to_owned())]);
    let seen = a.last();
    assert_eq!(seen.trailers.0, [("x-sum".to_owned(), "42".to_owned())]);
    assert_eq!(seen.field("trailer"), Some("X-Sum"));
    assert_eq!(seen.body, b"ok");
}

#[tokio::test]
async fn response_may_come_before_the_end_of_the_upload() {
    let refusal = b"HTTP/1.1 413 Too Large\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nstop";
    for last in [Step::Hang, Step::Close, Step::HalfClose] {
        let steps = [Step::ReadHead, Step::Send(refusal.to_vec()), last.clone()];
        let a = Backend::named("a").script(Script::new(steps)).start().await;
        let proxy = in_front_of(&a).start().await;
        let mut raw = proxy.raw().await;
        raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\nonly the beginning").await;
        let reply = raw.response().await;
        assert_eq!((reply.status, reply.text().as_str()), (413, "stop"), "{last:?}");
        raw.assert_closed().await;
        eventually("the backend connection is closed", async || a.open() == 0).await;
    }
}

#[tokio::test]
async fn early_response_announces_that_the_connection_closes() {
    let steps = [Step::ReadHead, Step::Reply, Step::Hang];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\nonly the beginning").await;
    let head = raw.head().await;
    assert_eq!((head.status, head.field("connection")), (200, Some("close")));
}

/// Returns the resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

const LARGE: usize = 64 << 20;
/// The most that memory may grow, in bytes: half of one body.
const BOUND: u64 = 32 << 20;

/// Memory is per process: the test that measures it needs a process of its own.
#[test]
fn large_bodies_pass_with_little_memory() {
    let this = std::env::current_exe().expect("path of the test program");
    let alone = ["--exact", "body::large_bodies_in_their_own_process", "--ignored"];
    let output = std::process::Command::new(this).args(alone).output().expect("run the test program");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by large_bodies_pass_with_little_memory"]
async fn large_bodies_in_their_own_process() {
    let head = format!("HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: {LARGE}\r\n\r\n");
    let steps = [Step::ReadHead, Step::ReadBody, Step::Send(head.into()), Step::Zeros(LARGE)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let start = resident();
    let mut most = start;

    raw.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..LARGE / piece.len() {
        raw.send(&piece).await;
        most = most.max(resident());
    }
    assert_eq!(raw.head().await.backend(), "a");
    assert_eq!(a.last().body_len, LARGE);
    for _ in 0..LARGE / piece.len() {
        raw.discard(piece.len()).await;
        most = most.max(resident());
    }
    raw.assert_quiet();
    assert!(most - start < BOUND, "memory grew by {} MiB", (most - start) >> 20);
}

#[tokio::test]
async fn slow_client_slows_the_backend_down() {
    let head = "HTTP/1.1 200 OK\r\nX-Backend: a\r\nContent-Length: 4000000000\r\n\r\n";
    let steps = [Step::ReadHead, Step::Send(head.into()), Step::Zeros(4_000_000_000)];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = RawClient::connect_narrow(proxy.addr()).await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("the response starts", async || a.sent() > 0).await;
    let stalled = settles("the backend cannot send more", || a.sent()).await;
    assert!(stalled < 32 << 20, "{} MiB are buffered", stalled >> 20);
    assert_eq!(raw.head().await.status, 200);
    raw.discard(16 << 20).await;
    eventually("the backend sends more", async || a.sent() > stalled).await;
    drop(raw);
    eventually("the backend connection is closed", async || a.open() == 0).await;
}

#[tokio::test]
async fn slow_backend_slows_the_upload_down() {
    let gate = Gate::closed();
    let steps = [Step::ReadHead, Step::Pause(gate.clone()), Step::ReadBody, Step::Reply];
    let a = Backend::named("a").script(Script::new(steps)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {LARGE}\r\n\r\n")).await;
    eventually("the backend has the request head", async || a.requests() == 1).await;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..LARGE / piece.len() {
            raw.send(&piece).await;
            counter.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::Relaxed);
        }
        raw
    });
    let stalled =
        settles("the client cannot send more", || sent.load(std::sync::atomic::Ordering::Relaxed)).await;
    assert!(stalled < (LARGE as u64) / 2, "{} MiB are buffered", stalled >> 20);
    gate.open();
    let mut raw = sending.await.expect("the upload");
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(a.last().body_len, LARGE);
}

#[tokio::test]
async fn rejection_of_a_large_upload_reaches_the_client() {
    let refusal = b"HTTP/1.1 413 Too Large\r\nX-Backend: a\r\nContent-Length: 4\r\n\r\nstop";
    // The gate is never opened: that backend neither reads nor closes.
    for last in [Step::Close, Step::HalfClose, Step::Hang, Step::Pause(Gate::closed())] {
        let steps = [Step::ReadHead, Step::Send(refusal.to_vec()), last];
        let a = Backend::named("a").script(Script::new(steps)).start().await;
        let proxy = in_front_of(&a).lines("pool = { max_idle = 0 }").start().await;
        for _ in 0..10 {
            let mut raw = proxy.raw().await;
            raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 900000\r\n\r\n").await;
            // The proxy keeps reading for a while, so that these bytes do not cause a reset.
            raw.try_send(vec![b'x'; 900_000]).await;
            let reply = raw.response().await;
            assert_eq!((reply.status, reply.text().as_str()), (413, "stop"));
        }
    }
}

/// Returns at least `total` bytes, in chunks of random sizes, and their content.
fn chunks(total: usize) -> (Vec<u8>, Vec<u8>) {
    let mut random = fastrand::Rng::with_seed(7);
    let (mut framed, mut content) = (Vec::new(), Vec::new());
    while content.len() < total {
        let size = if random.bool() { random.usize(1..20) } else { random.usize(1..70_000) };
        let piece: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
        framed.extend(format!("{size:X}{}\r\n", if random.bool() { "" } else { ";ext=1" }).into_bytes());
        framed.extend_from_slice(&piece);
        framed.extend_from_slice(b"\r\n");
        content.extend(piece);
    }
    framed.extend_from_slice(b"0\r\n\r\n");
    (framed, content)
}

#[tokio::test]
async fn large_chunked_bodies_arrive_unchanged() {
    let (framed, content) = chunks(900_000);
    let mut response = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    response.extend_from_slice(&framed);
    let a = Backend::named("a").script(Script::raw(&response)).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for piece in framed.chunks(7_001) {
        raw.send(piece).await;
    }
    assert!(raw.response().await.body == content, "the chunked response differs");
    assert!(a.last().body == content, "the upload differs");
    let mut old = proxy.raw().await;
    old.send("GET / HTTP/1.0\r\nHost: t\r\n\r\n").await;
    assert!(old.response().await.body == content, "the response to HTTP/1.0 differs");
    let mut until_close = b"HTTP/1.1 200 OK\r\nX-Backend: a\r\n\r\n".to_vec();
    until_close.extend_from_slice(&content);
    a.set(Script::raw_then(&until_close, Step::Close));
    assert!(raw.get("/", &[]).await.body == content, "the close-delimited response differs");
}
