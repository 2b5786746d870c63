//! Operations: metrics, the access log and the admin listener.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Backend, Proxy, RawClient, Response, Script, Step, eventually, in_front_of};

#[tokio::test]
async fn metrics_count_outcomes_by_reason() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    client.get("/").await;
    client.get("/").await;
    proxy.client().get("/").await;
    let home = if home == "a" { &a } else { &b };
    home.stop().await;
    client.get("/").await;
    proxy.raw().await.request("POST", "/", &["Transfer-Encoding: x"], b"").await.assert_own(501, "");
    for (labels, count) in [
        (&[("outcome", "new"), ("upstream", "web")] as &'static [_], 1.0),
        (&[("outcome", "kept"), ("upstream", "web")], 2.0),
        (&[("outcome", "unkeyed"), ("upstream", "web")], 1.0),
        (&[("outcome", "moved"), ("reason", "backend_down"), ("upstream", "web")], 1.0),
        (&[("outcome", "moved")], 1.0),
    ] {
        proxy.metric_becomes("homing_requests_total", labels, count).await;
    }
    proxy.metric_becomes("homing_responses_total", &[("class", "2xx"), ("source", "backend")], 5.0).await;
    proxy.metric_becomes("homing_responses_total", &[("class", "5xx"), ("source", "proxy")], 1.0).await;
    proxy.metric_becomes("homing_errors_total", &[("error", "unknown_coding")], 1.0).await;
    proxy.metric_becomes("homing_request_duration_seconds_count", &[("upstream", "web")], 5.0).await;
    proxy.metric_becomes("homing_attempts_total", &[("upstream", "web")], 6.0).await;
    proxy.metric_becomes("homing_table_entries", &[("upstream", "web")], 1.0).await;
}

#[tokio::test]
async fn request_bytes_are_counted_once() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
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

/// Waits until the log has `count` lines, and returns them.
async fn lines(file: &std::path::Path, count: usize) -> Vec<Value> {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    eventually(format!("the log has {count} lines"), async || read().lines().count() >= count).await;
    let lines: Vec<_> = read().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), count, "{lines:?}");
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_has_a_line_in_the_access_log() {
    let a = Backend::start("a").await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("access.log");
    let proxy = Proxy::builder()
        .raw_toml(&format!("[access_log]\nformat = \"json\"\noutput = \"{}\"", file.display()))
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.1\"]\n[[route]]\npath = \"/app\"\nupstream = \"web\"")
        .upstream("web", &[&a])
        .affinity(r#"key = ["header:X-Nothing", "cookie:SID"]"#)
        .start()
        .await;
    let mut raw = proxy.raw().await;
    let fields = ["Cookie: SID=secret", "X-Forwarded-For: 203.0.113.9"];
    raw.request("POST", "/app/x?password=secret", &fields, b"hello").await;
    let line = lines(&file, 1).await.remove(0);
    for (name, value) in [
        ("client", "203.0.113.9"),
        ("method", "POST"),
        ("host", "test"),
        ("path", "/app/x"),
        ("version", "HTTP/1.1"),
        ("upstream", "web"),
        ("backend", "a"),
        ("key_source", "cookie:SID"),
        ("outcome", "new"),
    ] {
        assert_eq!(line[name], value, "{name} in {line}");
    }
    assert_eq!((line["status"].as_u64(), line["attempts"].as_u64()), (Some(200), Some(1)));
    assert!(line["duration_ms"].is_number() && line["first_byte_ms"].is_number(), "{line}");
    assert!(line["bytes_in"].as_u64() > Some(5) && line["bytes_out"].as_u64() > Some(10), "{line}");
    assert!(!line.to_string().contains("secret"), "the line leaks a secret: {line}");
    assert!(line.get("error").is_none() && line.get("reason").is_none(), "{line}");

    raw.get("/nowhere", &[]).await.assert_own(404, "no_route");
    a.stop().await;
    raw.get("/app", &["Cookie: SID=secret"]).await.assert_own(503, "connect_failed");
    let mut bad = proxy.raw().await;
    bad.send("GET /\"\u{1}\r\n\r\n").await;
    bad.response().await.assert_own(400, "");
    let all = lines(&file, 4).await;
    // Each worker has its own queue, so lines may be out of order.
    let with = |status: u64| all.iter().find(|line| line["status"] == status).expect("a line");
    assert_eq!((&with(404)["error"], with(404).get("upstream")), (&Value::from("no_route"), None));
    assert_eq!((&with(503)["error"], &with(503)["backend"]), (&"connect_failed".into(), &"a".into()));
    assert_eq!(with(400)["method"], "-");
    // A rejected head is logged as far as it can be parsed.
    let mut bad = proxy.raw().await;
    bad.send("DELETE /app/y?password=secret HTTP/1.1\r\n\r\n").await;
    bad.response().await.assert_own(400, "host_missing");
    let all = lines(&file, 5).await;
    let line = all.iter().find(|line| line["error"] == "host_missing").expect("a line");
    assert_eq!((&line["method"], &line["path"]), (&"DELETE".into(), &"/app/y".into()));
    assert!(!line.to_string().contains("secret"), "the line leaks a secret: {line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_says_where_a_moved_session_comes_from() {
    for remember in ["none", "table", "cookie"] {
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("access.log");
        let proxy = Proxy::builder()
            .raw_toml(&format!("[access_log]\nformat = \"json\"\noutput = \"{}\"", file.display()))
            .upstream("web", &[&a, &b])
            .affinity(&format!("key = [\"cookie:SID\"], remember = \"{remember}\""))
            .start()
            .await;
        let mut client = proxy.session("s");
        let home = client.get("/").await.backend().to_owned();
        if home == "a" { &a } else { &b }.stop().await;
        let heir = client.get("/").await.backend().to_owned();
        assert_ne!(home, heir);
        let all = lines(&file, 2).await;
        let moved = all.iter().find(|line| line["outcome"] == "moved").expect("a move");
        assert_eq!(
            (&moved["from"], &moved["backend"]),
            (&Value::from(&*home), &Value::from(&*heir)),
            "{remember}"
        );
        assert!(moved["key_hash"].as_str().is_some_and(|hash| hash.len() == 16), "{moved}");
        assert_eq!(all[0]["key_hash"], all[1]["key_hash"]);
        assert!(all.iter().filter(|line| line.get("from").is_some()).count() == 1, "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_tell_backends_apart() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .server("admin = \"127.0.0.1:0\"")
        .upstream("web", &[&a, &b])
        .health_check("interval = \"100ms\", path = \"/\"")
        .affinity(r#"key = ["cookie:SID"]"#)
        .start()
        .await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    let other = if home == "a" { "b" } else { "a" };
    let of = |name, backend: &str| proxy.metric(name, &[("backend", backend)]);
    eventually("the request is counted", async || of("homing_backend_responses_total", &home) > 0.5).await;
    assert!((of("homing_backend_response_head_seconds_count", &home) - 1.0).abs() < f64::EPSILON);
    assert!(of("homing_backend_responses_total", other).abs() < f64::EPSILON);
    if home == "a" { &a } else { &b }.stop().await;
    client.get("/").await;
    eventually("the move is counted", async || of("homing_backend_responses_total", other) > 0.5).await;
    eventually("/status shows the failed check", async || {
        let status = admin(&proxy, "GET /status", LOCAL).await.text();
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let backends = status["upstreams"][0]["backends"].as_array().expect("backends").clone();
        let check = |id: &str| {
            let backend = backends.iter().find(|backend| backend["id"] == id).expect("a backend");
            backend["last_check"]["result"].as_str().unwrap_or_default().to_owned()
        };
        check(&home) == "connect failed: connection refused" && check(other) == "passed"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_attempts_are_counted_by_kind_although_another_backend_answers() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().upstream("web", &[&a, &b]).affinity(r#"key = ["cookie:SID"]"#).start().await;
    let mut client = proxy.session("s");
    let home = client.get("/").await.backend().to_owned();
    if home == "a" { &a } else { &b }.stop().await;
    assert_eq!(client.get("/").await.status, 200);
    let failed = [("backend", &*home), ("error", "connect_failed")];
    assert!((proxy.metric("homing_backend_failures_total", &failed) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_rotation_loses_no_line() {
    let a = Backend::start("a").await;
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("access.log");
    let old = directory.path().join("access.log.1");
    let proxy = Proxy::builder()
        .raw_toml(&format!("[access_log]\nformat = \"json\"\noutput = \"{}\"", file.display()))
        .upstream("web", &[&a])
        .start()
        .await;
    let mut client = proxy.client();
    client.get("/one").await;
    lines(&file, 1).await;
    std::fs::rename(&file, &old).expect("rename");
    client.get("/two").await;
    proxy.running().reopen_log().expect("reopen");
    client.get("/three").await;
    let paths = |file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        lines.iter().map(|line| line["path"].as_str().expect("a path").to_owned()).collect::<Vec<_>>()
    };
    // Lines are written after their responses, so some may miss the old file.
    eventually("both files together have every line", async || {
        [paths(&old), paths(&file)].concat() == ["/one", "/two", "/three"]
    })
    .await;
    client.get("/four").await;
    assert!(proxy.shutdown(Duration::from_secs(60)).await);
    assert_eq!(
        paths(&file).last().map(String::as_str),
        Some("/four"),
        "queued lines must be in the new file after the shutdown"
    );
}

/// Sends a request to the admin listener.
async fn admin(proxy: &Proxy, line: &str, fields: &str) -> Response {
    let mut raw = RawClient::connect(proxy.admin()).await;
    raw.send(format!("{line} HTTP/1.1\r\n{fields}\r\n")).await;
    raw.response().await
}

const LOCAL: &str = "Host: 127.0.0.1:9900\r\n";

#[tokio::test]
async fn admin_listener_serves_metrics_health_and_status() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder().server("admin = \"127.0.0.1:0\"").upstream("web", &[&a, &b]).start().await;
    proxy.client().get("/").await;
    proxy.metric_becomes("homing_backend_requests_total", &[], 1.0).await;
    let metrics = admin(&proxy, "GET /metrics", LOCAL).await;
    assert_eq!(metrics.status, 200);
    assert!(
        metrics.text().contains("homing_requests_total{upstream=\"web\",outcome=\"new\""),
        "{}",
        metrics.text()
    );
    assert_eq!(admin(&proxy, "GET /health", LOCAL).await.text(), "ok\n");
    assert_eq!(admin(&proxy, "GET /ready", LOCAL).await.status, 200);
    let status: Value =
        serde_json::from_str(&admin(&proxy, "GET /status", LOCAL).await.text()).expect("JSON");
    assert!(status.to_string().contains("\"web\""), "{status}");
    assert_eq!(admin(&proxy, "GET /nothing", LOCAL).await.status, 404);
    assert_eq!(admin(&proxy, "GET /reload", LOCAL).await.status, 405);
}

#[tokio::test]
async fn admin_listener_rejects_cross_site_requests() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().server("admin = \"127.0.0.1:0\"").upstream("web", &[&a]).start().await;
    let drain = "POST /upstreams/web/backends/a/state?state=drain";
    let allowed = format!("{LOCAL}X-Homing-Admin: 1\r\n");
    for (line, fields, status) in [
        ("GET /metrics", "Host: evil.example\r\n".to_owned(), 421),
        ("GET /status", "Host: evil.example:9900\r\n".to_owned(), 421),
        ("GET /metrics", format!("{LOCAL}Origin: http://evil.example\r\n"), 403),
        (drain, "Host: evil.example\r\nX-Homing-Admin: 1\r\n".to_owned(), 421),
        (drain, LOCAL.to_owned(), 403),
        (drain, format!("{allowed}Origin: null\r\n"), 403),
    ] {
        assert_eq!(admin(&proxy, line, &fields).await.status, status, "{line} {fields}");
    }
    assert!(proxy.metric("homing_backend_state", &[("backend", "a"), ("state", "ready")]) > 0.5);
    assert_eq!(admin(&proxy, drain, &allowed).await.status, 200);
    assert!(proxy.metric("homing_backend_state", &[("backend", "a"), ("state", "drain")]) > 0.5);
    let unknown = "POST /upstreams/web/backends/z/state?state=drain";
    assert_eq!(admin(&proxy, unknown, &allowed).await.status, 404);
}

#[tokio::test]
async fn admin_listener_reloads_the_configuration_file() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("homing.toml");
    let builder = Proxy::builder().server("admin = \"127.0.0.1:0\"").upstream("web", &[&a, &b]);
    let proxy = builder.clone().start_from(&file).await;
    let allowed = format!("{LOCAL}X-Homing-Admin: 1\r\n");
    std::fs::write(&file, builder.clone().without("b").toml()).expect("write");
    let done = admin(&proxy, "POST /reload", &allowed).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert!(done.text().contains('b'), "{}", done.text());
    std::fs::write(&file, "nonsense = true").expect("write");
    assert!((proxy.metric("homing_config_reload_success", &[]) - 1.0).abs() < f64::EPSILON);
    let loaded = proxy.metric("homing_config_reload_timestamp_seconds", &[]);
    let refused = admin(&proxy, "POST /reload", &allowed).await;
    assert_eq!(refused.status, 422);
    assert!(proxy.metric("homing_config_reload_success", &[]).abs() < f64::EPSILON);
    assert!(
        (proxy.metric("homing_config_reload_timestamp_seconds", &[]) - loaded).abs() < f64::EPSILON,
        "the old configuration is in effect"
    );
    let status: Value =
        serde_json::from_str(&admin(&proxy, "GET /status", LOCAL).await.text()).expect("JSON");
    assert_eq!(status["last_reload"]["success"], false);
    assert!(status["last_reload"]["error"].as_str().is_some_and(|e| e.contains("nonsense")), "{status}");
    assert!(status["last_reload"]["at"].as_str().is_some_and(|at| at.starts_with("20")), "{status}");
    assert!(refused.text().contains("nonsense"), "{}", refused.text());
    assert!((proxy.metric("homing_backend_up", &[]) - 1.0).abs() < f64::EPSILON);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_503_while_the_proxy_shuts_down() {
    let gate = crate::harness::Gate::closed();
    let a = Backend::named("a").reply_after(&gate).start().await;
    let proxy = Proxy::builder().server("admin = \"127.0.0.1:0\"").upstream("web", &[&a]).start().await;
    let address = proxy.admin();
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    eventually("the backend has the request", async || a.requests() == 1).await;
    let ending = proxy.shutting_down(Duration::from_secs(60));
    eventually("health is 503", async || {
        let mut admin = RawClient::connect(address).await;
        admin.send(format!("GET /health HTTP/1.1\r\n{LOCAL}\r\n")).await;
        admin.response().await.status == 503
    })
    .await;
    gate.open();
    assert_eq!(raw.response().await.backend(), "a");
    drop(raw);
    assert!(ending.await.expect("the shutdown"));
}
