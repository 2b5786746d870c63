use std::net::SocketAddr;
use std::time::Duration;

use hyper::StatusCode;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::affinity::Health;
use crate::affinity::recall::Layer;
use crate::model::snapshot::{Standing, UpstreamState};
use crate::telemetry::{Metrics, fixture};

struct Fake {
    snapshot: Mutex<Arc<Snapshot>>,
    metrics: Metrics,
    draining: Mutex<bool>,
    reload: Mutex<Result<String, String>>,
    set: Mutex<Vec<(String, String, AdminState)>>,
}

impl AdminBackend for Fake {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.lock())
    }

    fn recalled(&self, _: &str) -> Vec<(Layer, u64)> {
        vec![(Layer::Table, 7)]
    }

    fn metrics_text(&self) -> String {
        self.metrics.render(&self.snapshot())
    }

    fn draining(&self) -> bool {
        *self.draining.lock()
    }

    fn last_reload(&self) -> Option<LastReload> {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Some(LastReload { at, outcome: self.reload.lock().clone() })
    }

    fn started(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn set_state(
        &self,
        upstream: String,
        backend: BackendId,
        state: AdminState,
    ) -> BoxFuture<Result<(), String>> {
        let answer = if state == AdminState::Maint { Err("not now".to_owned()) } else { Ok(()) };
        self.set.lock().push((upstream, backend.to_string(), state));
        Box::pin(async move { answer })
    }

    fn reload(&self) -> BoxFuture<Result<String, String>> {
        let answer = self.reload.lock().clone();
        Box::pin(async move { answer })
    }
}

struct Running {
    address: SocketAddr,
    fake: Arc<Fake>,
    cancel: CancellationToken,
    server: JoinHandle<()>,
}

async fn start(upstreams: Vec<UpstreamState>) -> Running {
    start_within(server::ConnectionLimits::default(), upstreams).await
}

async fn start_within(limits: server::ConnectionLimits, upstreams: Vec<UpstreamState>) -> Running {
    let fake = Arc::new(Fake {
        snapshot: Mutex::new(Arc::new(fixture::snapshot(42, upstreams))),
        metrics: Metrics::new(1),
        draining: Mutex::new(false),
        reload: Mutex::new(Ok("nothing changed".to_owned())),
        set: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let cancel = CancellationToken::new();
    let backend = Arc::<Fake>::clone(&fake);
    let server = tokio::spawn(server::serve_within(limits, listener, backend, cancel.clone()));
    Running { address, fake, cancel, server }
}

async fn shop() -> Running {
    start(vec![fixture::upstream("shop", &["[::1]:8080", "zone/a"])]).await
}

impl Running {
    async fn get(&self, path: &str) -> (StatusCode, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
    }

    async fn set_state(&self, upstream: &str, id: &str, state: &str) -> (StatusCode, String) {
        self.change(&format!("/upstreams/{upstream}/backends/{id}/state?state={state}")).await
    }

    async fn change(&self, path: &str) -> (StatusCode, String) {
        let headers = "Host: localhost\r\nX-Homing-Admin: 1\r\nContent-Length: 0\r\n";
        self.request(&format!("POST {path} HTTP/1.1\r\n{headers}\r\n")).await
    }

    /// Sends a request and returns the status and body of the response.
    async fn request(&self, request: &str) -> (StatusCode, String) {
        let response = self.raw(request).await;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{response}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{head}")), body.to_owned())
    }

    /// Sends these bytes and reads until the connection is closed.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connects");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        read.expect("closed in time").expect("read");
        String::from_utf8(answer).expect("UTF-8")
    }

    async fn status_of(&self, request: &str) -> u16 {
        self.request(request).await.0.as_u16()
    }
}

#[tokio::test]
async fn metrics_are_served_as_prometheus_text() {
    let running = shop().await;
    let answer = running.raw("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nhoming_snapshot_generation 42\n"), "{answer}");
    assert!(answer.contains("homing_backend_up{upstream=\"shop\",backend=\"zone/a\"} 1"), "{answer}");
}

#[tokio::test]
async fn health_is_503_while_draining() {
    let running = shop().await;
    assert_eq!(running.get("/health").await, (StatusCode::OK, "ok\n".to_owned()));
    *running.fake.draining.lock() = true;
    assert_eq!(running.get("/health").await, (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned()));
    assert_eq!(running.get("/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn ready_while_any_backend_can_serve() {
    let running = shop().await;
    assert_eq!(running.get("/ready").await.0, StatusCode::OK);
    let down = |members: &mut [crate::affinity::Member], until: usize| {
        for member in &mut members[..until] {
            member.health = Health::Down;
        }
    };
    let upstream = fixture::upstream("shop", &["a", "b"]);
    for (until, expected) in [(1, StatusCode::OK), (2, StatusCode::SERVICE_UNAVAILABLE)] {
        let upstream = fixture::with_members(&upstream, |members| down(members, until));
        *running.fake.snapshot.lock() = Arc::new(fixture::snapshot(43, vec![upstream]));
        assert_eq!(running.get("/ready").await.0, expected, "{until} down");
    }
}

#[tokio::test]
async fn status_shows_backends_and_tables() {
    let upstream = fixture::upstream_with_table("shop", &["node1", "node2"]);
    upstream.live[1].begin(0);
    upstream.live[0].checked(crate::model::live::LastCheck {
        at: SystemTime::UNIX_EPOCH,
        latency: Duration::from_micros(1500),
        result: "unexpected status 500".to_owned(),
    });
    let upstream = fixture::with_members(&upstream, |members| {
        members[0].admin = AdminState::Drain;
        members[1].active_points /= 2;
        members[1].shunned = true;
    });
    let upstream = UpstreamState {
        standings: vec![
            Standing { why: None, since: Duration::ZERO, until: None },
            Standing {
                why: Some("requests failed".into()),
                since: Duration::from_millis(1_500),
                until: Some(Duration::from_secs(61)),
            },
        ],
        ..upstream
    };
    let digest = format!("{:016x}", upstream.cluster.ring().digest());
    let running = start(vec![upstream]).await;
    let (status, body) = running.get("/status").await;
    assert_eq!(status, StatusCode::OK);
    let mut value: Value = serde_json::from_str(&body).expect("valid JSON");
    let within = |share: f64, nominal: f64| (share / nominal - 1.0).abs() < 0.5;
    for (index, nominal) in [(0, 1.0 / 3.0), (1, 2.0 / 3.0)] {
        let share = value["upstreams"][0]["backends"][index]["ring_share"].take();
        assert!(share.as_f64().is_some_and(|share| within(share, nominal)), "{share}");
    }
    assert_eq!(
        value,
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"), "generation": 42, "draining": false, "workers": 1,
            "started": "1970-01-01T00:00:00Z",
            "last_reload": {
                "at": "2027-01-15T08:00:00Z", "success": true, "changes": "nothing changed", "error": null,
            },
            "listeners": [{ "bind": "127.0.0.1:8080" }],
            "upstreams": [{
                "name": "shop", "remember": "table", "recalled": { "table": 7 }, "ring": { "digest": digest, "vnodes": 64 },
                "table": { "entries": 0, "max_entries": 1000 },
                "backends": [
                    { "id": "node1", "address": "127.0.0.1:8001", "state": "drain", "health": "up", "shunned": false,
                      "why": null, "since": "1970-01-01T00:00:00.000Z", "until": null, "weight": 1,
                      "ring_share": null, "ring_active": 1.0, "in_flight": 0, "connections": 0, "requests": 0, "sessions": 0,
                      "last_check": { "at": "1970-01-01T00:00:00Z", "result": "unexpected status 500", "latency_ms": 1.5 } },
                    { "id": "node2", "address": "127.0.0.1:8001", "state": "ready", "health": "up", "shunned": true,
                      "why": "requests failed", "since": "1970-01-01T00:00:01.500Z",
                      "until": "1970-01-01T00:01:01.000Z", "weight": 2,
                      "ring_share": null, "ring_active": 0.5, "in_flight": 1, "connections": 0, "requests": 1, "sessions": 0, "last_check": null },
                ],
            }],
        })
    );
}

#[tokio::test]
async fn status_says_why_a_reload_was_refused() {
    let running = shop().await;
    *running.fake.reload.lock() = Err("unknown key".to_owned());
    let value: Value = serde_json::from_str(&running.get("/status").await.1).expect("valid JSON");
    assert_eq!(value["last_reload"]["success"], false);
    assert_eq!(value["last_reload"]["error"], "unknown key");
}

#[tokio::test]
async fn state_is_set_for_ids_with_special_characters() {
    let running = shop().await;
    for (id, encoded, state) in
        [("[::1]:8080", "%5B%3A%3A1%5D:8080", AdminState::Drain), ("zone/a", "zone%2Fa", AdminState::Ready)]
    {
        let answer = running.set_state("shop", encoded, state.as_str()).await;
        assert_eq!(answer, (StatusCode::OK, format!("shop/{id} is {}\n", state.as_str())));
        assert_eq!(running.fake.set.lock().pop(), Some(("shop".to_owned(), id.to_owned(), state)));
    }
}

#[tokio::test]
async fn state_may_be_sent_in_the_body() {
    let running = shop().await;
    let head =
        "POST /upstreams/shop/backends/zone/a/state HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Homing-Admin: 1\r\n";
    let status = running.status_of(&format!("{head}Content-Length: 12\r\n\r\nstate=drain\n")).await;
    assert_eq!(status, 200);
    assert_eq!(running.fake.set.lock().pop().map(|(.., state)| state), Some(AdminState::Drain));
    let long = "x".repeat(2_000);
    assert_eq!(running.status_of(&format!("{head}Content-Length: 2000\r\n\r\n{long}")).await, 400);
    assert_eq!(running.status_of(&format!("{head}Content-Length: 10\r\n\r\nstate=gone")).await, 400);
    assert!(running.fake.set.lock().is_empty());
}

#[tokio::test]
async fn unknown_backends_are_not_found() {
    let running = shop().await;
    for (upstream, id) in [("shop", "node9"), ("blog", "zone/a")] {
        let (status, body) = running.set_state(upstream, id, "drain").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        let listed =
            if upstream == "shop" { "possible values: [::1]:8080, zone/a" } else { "possible values: shop" };
        assert!(body.contains(listed), "{body}");
    }
    assert!(running.fake.set.lock().is_empty());
    let refused = running.set_state("shop", "zone/a", "maint").await;
    assert_eq!(refused, (StatusCode::CONFLICT, "not now\n".to_owned()));
}

#[tokio::test]
async fn reload_returns_the_summary_or_the_errors() {
    let running = shop().await;
    assert_eq!(running.change("/reload").await, (StatusCode::OK, "nothing changed\n".to_owned()));
    *running.fake.reload.lock() = Err("error: unknown key\n  --> homing.toml:3\n".to_owned());
    let (status, body) = running.change("/reload").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.ends_with("homing.toml:3\n"), "{body}");
}

#[tokio::test]
async fn untrusted_requests_are_rejected() {
    let running = shop().await;
    let change = "POST /upstreams/shop/backends/zone/a/state?state=drain HTTP/1.1\r\nContent-Length: 0\r\n";
    let ours = "Host: 127.0.0.1:9900\r\nX-Homing-Admin: 1\r\n";
    for (request, status) in [
        // A form on a web page.
        (format!("{change}Host: 127.0.0.1\r\nOrigin: https://evil.example\r\n\r\n"), 403),
        // The same from a browser that does not send Origin.
        (format!("{change}Host: 127.0.0.1\r\n\r\n"), 403),
        // A rebound domain.
        (format!("{change}Host: evil.example:9900\r\nX-Homing-Admin: 1\r\n\r\n"), 421),
        ("GET /status HTTP/1.1\r\nHost: evil.example:9900\r\n\r\n".to_owned(), 421),
        ("GET /status HTTP/1.0\r\n\r\n".to_owned(), 421),
        // A preflight.
        (format!("OPTIONS /reload HTTP/1.1\r\n{ours}Origin: https://evil.example\r\n\r\n"), 403),
        // The wrong method.
        (format!("GET /reload HTTP/1.1\r\n{ours}\r\n"), 405),
        (format!("OPTIONS /reload HTTP/1.1\r\n{ours}\r\n"), 405),
        (format!("DELETE /status HTTP/1.1\r\n{ours}\r\n"), 405),
        (format!("POST /metrics HTTP/1.1\r\n{ours}Content-Length: 0\r\n\r\n"), 405),
        (format!("GET /nothing HTTP/1.1\r\n{ours}\r\n"), 404),
    ] {
        assert_eq!(running.status_of(&request).await, status, "{request}");
    }
    assert!(running.fake.set.lock().is_empty());
    assert_eq!(
        running.status_of(&format!("{change}{ours}\r\n")).await,
        200,
        "a valid change must be accepted"
    );
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let running = shop().await;
    let answer = running.raw("HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn oversized_heads_are_rejected() {
    let running = shop().await;
    let long = "x".repeat(64 * 1024);
    let mut stream = TcpStream::connect(running.address).await.expect("connects");
    // The connection may be closed before everything is written.
    let _ =
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n").as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn one_connection_serves_one_request() {
    let running = shop().await;
    let request = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = running.raw(&format!("{request}{request}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
}

#[tokio::test]
async fn silent_connections_are_closed_to_make_room() {
    let limits = server::ConnectionLimits {
        connections: 2,
        head: Duration::from_millis(50),
        ..server::ConnectionLimits::default()
    };
    let running = start_within(limits, vec![fixture::upstream("shop", &["a"])]).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(running.address).await.expect("connects"));
    }
    assert_eq!(running.get("/health").await.0, StatusCode::OK);
    for mut stream in silent {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "a silent connection stayed open");
    }
}

#[tokio::test]
async fn silent_connections_do_not_delay_a_request() {
    let limits = server::ConnectionLimits {
        connections: 2,
        head: Duration::from_secs(3600),
        connection: Duration::from_secs(3600),
    };
    let running = start_within(limits, vec![fixture::upstream("shop", &["a"])]).await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(running.address).await.expect("connects"));
    }
    let asked = tokio::time::timeout(Duration::from_secs(20), running.get("/health")).await;
    assert_eq!(asked.expect("the request waited for silent connections").0, StatusCode::OK);
}

#[tokio::test]
async fn missing_body_does_not_keep_a_connection_open() {
    let limits = server::ConnectionLimits {
        connection: Duration::from_millis(50),
        ..server::ConnectionLimits::default()
    };
    let running = start_within(limits, vec![fixture::upstream("shop", &["a"])]).await;
    let request =
        "POST /upstreams/shop/backends/a/state HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Homing-Admin: 1\r\n";
    let answer = running.raw(&format!("{request}Content-Length: 11\r\n\r\nstate=")).await;
    assert_eq!(answer, "");
}

#[tokio::test]
async fn cancelling_stops_the_server() {
    let running = shop().await;
    running.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(20), running.server).await.expect("ends").expect("no panic");
    assert!(TcpStream::connect(running.address).await.is_err());
}
