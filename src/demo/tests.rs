use std::fmt::Write as _;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

const TIMEOUT: Duration = Duration::from_secs(20);

async fn node1() -> Running {
    start("node1", SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("starts")
}

struct DemoResponse {
    status: u16,
    head: String,
    body: String,
}

impl DemoResponse {
    fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the session cookie that the response sets.
    fn cookie(&self) -> String {
        let field = self.field("set-cookie").expect("a cookie is set");
        field.split(';').next().expect("a pair").to_owned()
    }
}

/// Sends one request on a new connection and reads until it is closed.
async fn ask(running: &Running, request_line: &str, fields: &[&str], body: &[u8]) -> DemoResponse {
    let mut request = format!("{request_line} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n");
    for field in fields {
        request.push_str(field);
        request.push_str("\r\n");
    }
    if !body.is_empty() {
        let _ = write!(request, "Content-Length: {}\r\n", body.len());
    }
    request.push_str("\r\n");
    let exchange = async {
        let mut stream = TcpStream::connect(running.local_addr()).await.expect("connects");
        stream.write_all(&[request.as_bytes(), body].concat()).await.expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.expect("read");
        String::from_utf8(answer).expect("UTF-8")
    };
    let answer = tokio::time::timeout(TIMEOUT, exchange).await.expect("in time");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    DemoResponse { status, head: head.to_owned(), body: body.to_owned() }
}

async fn get(running: &Running, path: &str, fields: &[&str]) -> DemoResponse {
    ask(running, &format!("GET {path}"), fields, b"").await
}

#[tokio::test]
async fn visits_are_counted_by_cookie() {
    let node1 = node1().await;
    let first = get(&node1, "/", &[]).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.field("x-backend"), Some("node1"));
    let cookie = first.cookie();
    assert_eq!(first.field("set-cookie"), Some(&*format!("{cookie}; Path=/; HttpOnly; SameSite=Lax")));
    let session = cookie.strip_prefix("SID=").expect("SID");
    assert_eq!(first.body, format!("node1: visit 1 of session {}… (new session)\n", &session[..8]));

    let second = get(&node1, "/", &[&format!("Cookie: a=b; {cookie}; c=d")]).await;
    assert_eq!(second.body, format!("node1: visit 2 of session {}…\n", &session[..8]));
    assert_eq!(second.field("set-cookie"), None, "the cookie of a known session must not be set again");
}

#[tokio::test]
async fn another_instance_does_not_know_the_session() {
    let node1 = node1().await;
    let node2 = start("node2", SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("starts");
    let cookie = get(&node1, "/", &[]).await.cookie();
    let elsewhere = get(&node2, "/", &[&format!("Cookie: {cookie}")]).await;
    assert!(elsewhere.body.starts_with("node2: visit 1 of session "), "{}", elsewhere.body);
    assert!(elsewhere.body.ends_with("(new session: unknown session in the cookie)\n"), "{}", elsewhere.body);
    assert_ne!(elsewhere.cookie(), cookie);
}

/// Answers every request with the addresses of these instances.
async fn stage_of(peers: String) -> Stage {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{peers}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Stage { address, secret: "secret".to_owned() }
}

#[tokio::test]
async fn session_goes_on_at_the_announced_successor() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let stage = stage_of(String::new()).await;
    let node2 = start_on(Some(stage), "node2", any).await.expect("starts");
    let stage = stage_of(format!("peer node2 {}\n", node2.local_addr())).await;
    let node1 = start_on(Some(stage), "node1", any).await.expect("starts");
    let announced = "X-Affinity-Successor: node2";
    let first = get(&node1, "/", &[announced]).await;
    assert!(first.body.ends_with("(new session), copied to node2\n"), "{}", first.body);
    let cookie = format!("Cookie: {}", first.cookie());
    get(&node1, "/", &[announced, &cookie]).await;
    node1.stop().await;
    let after = get(&node2, "/", &[&cookie]).await;
    assert!(after.body.starts_with("node2: visit 3 of session "), "{}", after.body);
    assert!(after.body.contains("(taken over from node1, which had copied it here)"), "{}", after.body);
    assert_eq!(after.field("set-cookie"), None, "the session keeps its id");
    assert!(get(&node2, "/", &[&cookie]).await.body.starts_with("node2: visit 4 "));
}

#[tokio::test]
async fn clients_cannot_write_sessions() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let node1 = start_on(Some(stage_of(String::new()).await), "node1", any).await.expect("starts");
    let line = format!("PUT /replica/{}?visits=7&from=x", "a".repeat(32));
    for (fields, status) in
        [(&[][..], 403), (&["X-Demo-Secret: guess"], 403), (&["X-Demo-Secret: secret"], 204)]
    {
        assert_eq!(ask(&node1, &line, fields, b"").await.status, status, "{fields:?}");
    }
    let bad = ask(&node1, "PUT /replica/..?visits=7", &["X-Demo-Secret: secret"], b"").await;
    assert_eq!(bad.status, 400);
    let alone = start("alone", any).await.expect("starts");
    assert_eq!(ask(&alone, &line, &["X-Demo-Secret: "], b"").await.status, 403);
}

#[tokio::test]
async fn accept_header_selects_html_or_json() {
    let node1 = node1().await;
    let told = ["X-Affinity-Backend: node1", "X-Affinity-Successor: <b>node2"];
    let page = get(&node1, "/", &[told[0], told[1], "Accept: text/html,application/json;q=0.5"]).await;
    assert_eq!(page.field("content-type"), Some("text/html; charset=utf-8"));
    assert!(
        page.field("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'"))
    );
    assert!(page.body.contains("<h1>node1</h1>") && page.body.contains("<b>1</b> visit<"), "{}", page.body);
    assert!(page.body.contains("&lt;b&gt;node2") && !page.body.contains("<b>node2"), "{}", page.body);

    let json = get(&node1, "/", &[told[0], told[1], "Accept: application/json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.body).expect("valid JSON");
    assert_eq!(value["backend"], "node1");
    assert_eq!(value["visits"], 1);
    assert_eq!(value["new"], true);
    assert_eq!(value["affinity_successor"], "<b>node2");
    assert_eq!(value["sessions"], 2);
}

#[tokio::test]
async fn logging_out_ends_the_session_and_expires_the_cookie() {
    let node1 = node1().await;
    let cookie = format!("Cookie: {}", get(&node1, "/", &[]).await.cookie());
    let logout = get(&node1, "/logout", &[&cookie]).await;
    assert_eq!((logout.status, logout.field("location")), (303, Some("/")));
    assert_eq!(logout.field("set-cookie"), Some("SID=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"));
    let after = get(&node1, "/", &[&cookie]).await;
    assert!(after.body.contains("unknown session"), "{}", after.body);
}

#[tokio::test]
async fn draining_instance_reports_it_and_keeps_its_sessions() {
    let node1 = node1().await;
    let cookie = format!("Cookie: {}", get(&node1, "/", &[]).await.cookie());
    assert_eq!(get(&node1, "/healthz", &[]).await.status, 200);
    assert_eq!(get(&node1, "/drain", &[]).await.status, 405, "GET must not drain");
    assert_eq!(ask(&node1, "POST /drain", &[], b"").await.body, "node1: draining\n");
    assert_eq!(get(&node1, "/healthz", &[]).await.status, 404);
    assert!(get(&node1, "/", &[&cookie]).await.body.starts_with("node1: visit 2 "));
    let from_page = ask(&node1, "POST /drain", &["Accept: text/html"], b"").await;
    assert_eq!((from_page.status, from_page.field("location")), (303, Some("/")));
    assert_eq!(get(&node1, "/healthz", &[]).await.status, 200);
}

#[tokio::test]
async fn echo_returns_and_counts_the_body() {
    let node1 = node1().await;
    let body = "<script>é</script>".repeat(10_000);
    let answer = ask(&node1, "POST /echo", &["Content-Type: text/html"], body.as_bytes()).await;
    assert_eq!((answer.status, &answer.body), (200, &body));
    assert_eq!(answer.field("x-echo-bytes"), Some(&*body.len().to_string()));
    assert_eq!(answer.field("content-type"), Some("application/octet-stream"));
    let empty = ask(&node1, "POST /echo", &["Content-Length: 0"], b"").await;
    assert_eq!((empty.status, empty.field("x-echo-bytes")), (200, Some("0")));
}

#[tokio::test]
async fn echo_is_bounded() {
    let node1 = node1().await;
    let length = format!("Content-Length: {}", 9 * 1024 * 1024);
    let request = format!("POST /echo HTTP/1.1\r\nHost: demo\r\n{length}\r\n\r\n");
    let (mut reader, mut writer) =
        TcpStream::connect(node1.local_addr()).await.expect("connects").into_split();
    let send = async move {
        let chunk = vec![b'x'; 64 * 1024];
        let mut sent = writer.write_all(request.as_bytes()).await;
        for _ in 0..9 * 16 {
            if sent.is_ok() {
                sent = writer.write_all(&chunk).await;
            }
        }
        // The rest is rejected after the response.
        let _ = sent;
        writer
    };
    let read = async move {
        let mut start = [0; 12];
        reader.read_exact(&mut start).await.expect("an answer");
        start
    };
    let (_writer, start) =
        tokio::time::timeout(TIMEOUT, async { tokio::join!(send, read) }).await.expect("in time");
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[tokio::test]
async fn slow_takes_the_requested_time() {
    let node1 = node1().await;
    let begun = std::time::Instant::now();
    assert_eq!(get(&node1, "/slow?ms=30", &[]).await.body, "node1: 30 ms\n");
    assert!(begun.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn stream_sends_a_bounded_number_of_events() {
    let node1 = node1().await;
    let answer = get(&node1, "/stream?ticks=3&ms=10", &[]).await;
    assert_eq!(answer.field("content-type"), Some("text/event-stream"));
    let events: Vec<_> = answer.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(events, ["node1 tick 1", "node1 tick 2", "node1 tick 3"]);
    assert!(answer.body.trim_end().ends_with('0'), "the last chunk is missing: {}", answer.body);
}

#[tokio::test]
async fn a_websocket_echoes_through_the_upgrade() {
    let node1 = node1().await;
    let mut stream = TcpStream::connect(node1.local_addr()).await.expect("connects");
    let handshake = "GET /ws HTTP/1.1\r\nHost: demo\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // The first frame arrives together with the handshake.
    stream
        .write_all(&[handshake.as_bytes(), b"\x81\x82\0\0\0\0hi\x88\x80\0\0\0\0"].concat())
        .await
        .expect("sent");
    let mut answer = Vec::new();
    tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut answer)).await.expect("in time").expect("read");
    let answer = String::from_utf8_lossy(&answer);
    let (head, frames) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert!(head.contains("x-backend: node1"), "{head}");
    // The first bytes of the frames are not UTF-8.
    assert_eq!(frames, "\u{fffd}\u{2}hi\u{fffd}\u{0}");
}

#[tokio::test]
async fn invalid_handshakes_get_426() {
    let node1 = node1().await;
    assert_eq!(get(&node1, "/ws", &[]).await.status, 426);
    let old = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
    let answer = ask(&node1, "GET /ws", &old, b"").await;
    assert_eq!((answer.status, answer.field("sec-websocket-version")), (426, Some("13")));
}

#[tokio::test]
async fn unknown_paths_do_not_count_as_visits() {
    let node1 = node1().await;
    let answer = get(&node1, "/favicon.ico", &[]).await;
    assert_eq!((answer.status, answer.field("set-cookie")), (404, None));
    assert_eq!(answer.field("x-backend"), Some("node1"));
}

#[tokio::test]
async fn stopping_closes_streams_and_frees_the_address() {
    let node1 = node1().await;
    let address = node1.local_addr();
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(b"GET /stream?ticks=1000&ms=60000 HTTP/1.1\r\nHost: demo\r\n\r\n").await.expect("sent");
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    tokio::time::timeout(TIMEOUT, node1.stop()).await.expect("stops in time");
    let mut rest = Vec::new();
    // Complete or truncated: the stream ends.
    let _ = tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut rest)).await.expect("ends");
    assert!(TcpStream::connect(address).await.is_err());
    let again = start("node1", address).await.expect("starts again");
    assert_eq!(again.local_addr(), address);
}

#[tokio::test]
async fn dropping_stops_the_instance() {
    let node1 = node1().await;
    let address = node1.local_addr();
    drop(node1);
    let gone = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, gone).await.expect("still listening");
}
