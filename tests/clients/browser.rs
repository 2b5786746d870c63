//! Headless Chromium over TLS and HTTP/2.

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::eventually;
use crate::programs;
use crate::running::{PATIENCE, Running};
use crate::setting::{HOST, Setting, tls};
use crate::site::Site;

/// Waits until the page reports a value with this name.
async fn reported(site: &Site, name: &str) -> Value {
    let report = async {
        loop {
            // An error may arrive before the awaited report, and must not be missed.
            assert_eq!(site.reported("error"), None);
            if let Some(report) = site.reported(name) {
                return report;
            }
            site.next_report().await;
        }
    };
    timeout(PATIENCE, report).await.unwrap_or_else(|_| panic!("the page did not report {name}"))
}

#[tokio::test]
async fn page_events_and_websocket_share_one_h2_connection() {
    let Some(chromium) = programs::chromium() else { return };
    let setting = Setting::new();
    let site = Site::start("a").await;
    let demo = homing::demo::start("demo", ([127, 0, 0, 1], 0).into()).await.expect("start");
    let routes =
        "[[route]]\npath = \"/\"\nupstream = \"web\"\n[[route]]\npath = \"/ws\"\nupstream = \"demo\"";
    let proxy = setting.proxy().raw_toml(routes).upstream("web", &[]).member("a", site.address);
    let proxy = proxy.upstream("demo", &[]).member("demo", demo.local_addr()).start().await;

    let profile = tempfile::tempdir().expect("a directory");
    let port = tls(&proxy).port();
    let mut command = Command::new(chromium);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]);
    // No traffic other than the page's.
    command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
    command.args(["--disable-default-apps", "--disable-extensions", "--disable-sync", "--no-proxy-server"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--host-resolver-rules=MAP {HOST} 127.0.0.1"));
    command.arg(format!("--ignore-certificate-errors-spki-list={}", setting.spki()));
    // With a debugging port, Chromium runs until killed.
    command.arg("--remote-debugging-port=0").arg(format!("https://{HOST}:{port}/page"));
    let _browser = Running::start(&mut command);

    let resources = reported(&site, "resources").await;
    assert_eq!(resources, json!({ "whole": true, "protocols": ["h2"], "entries": 30 }));
    let ws = json!({ "text": "grüße", "length": 60000, "same": true, "code": 3001, "clean": true });
    assert_eq!(reported(&site, "ws").await, ws);
    for number in 0..3 {
        // Send the next event only after the last has arrived.
        site.send_event(&format!("event {number}")).await;
        assert_eq!(reported(&site, &format!("event{number}")).await, format!("event {number}"));
    }
    // Every backend request, including the WebSocket, came on a stream of a single connection.
    // (Chromium opens a second connection and does not use it.)
    let streams = || proxy.metric("homing_http2_streams_total", &[("result", "served")]);
    let requests = || proxy.metric("homing_backend_requests_total", &[]);
    #[expect(clippy::float_cmp, reason = "whole numbers")]
    eventually("all requests are counted", async || streams() == requests()).await;
    assert!(requests() >= 36.0, "{}", requests());
    proxy.metric_becomes("homing_http2_connections_total", &[], 1.0).await;
}
