//! Headless Chromium, over TLS and HTTP/2.

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::eventually;
use crate::programs;
use crate::running::{PATIENCE, Running};
use crate::setting::{HOST, Setting, tls};
use crate::site::Site;

/// What the page reports under this name.
async fn reported(site: &Site, name: &str) -> Value {
    let report = async {
        loop {
            // It may come before the one that is waited for, and is not to be missed.
            assert_eq!(site.reported("error"), None);
            if let Some(report) = site.reported(name) {
                return report;
            }
            site.next_report().await;
        }
    };
    timeout(PATIENCE, report).await.unwrap_or_else(|_| panic!("the page has not reported {name}"))
}

#[tokio::test]
async fn a_page_its_events_and_its_websocket_share_one_h2_connection() {
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
    // Nothing but the page.
    command.args(["--no-first-run", "--disable-background-networking", "--disable-component-update"]);
    command.args(["--disable-default-apps", "--disable-extensions", "--disable-sync", "--no-proxy-server"]);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--host-resolver-rules=MAP {HOST} 127.0.0.1"));
    command.arg(format!("--ignore-certificate-errors-spki-list={}", setting.spki()));
    // It stays until it is killed.
    command.arg("--remote-debugging-port=0").arg(format!("https://{HOST}:{port}/page"));
    let _browser = Running::start(&mut command);

    let resources = reported(&site, "resources").await;
    assert_eq!(resources, json!({ "whole": true, "protocols": ["h2"], "entries": 30 }));
    let ws = json!({ "text": "grüße", "length": 60000, "same": true, "code": 3001, "clean": true });
    assert_eq!(reported(&site, "ws").await, ws);
    for number in 0..3 {
        // The next is not sent before the last has arrived.
        site.send_event(&format!("event {number}")).await;
        assert_eq!(reported(&site, &format!("event{number}")).await, format!("event {number}"));
    }
    // Every request that a backend got came on a stream, the WebSocket's too,
    // and all streams on one connection. (Chromium opens a second and does not use it.)
    let streams = || proxy.metric("homing_http2_streams_total", &[("result", "served")]);
    let requests = || proxy.metric("homing_backend_requests_total", &[]);
    #[expect(clippy::float_cmp, reason = "whole numbers")]
    eventually("all is counted", async || streams() == requests()).await;
    assert!(requests() >= 36.0, "{}", requests());
    proxy.metric_becomes("homing_http2_connections_total", &[], 1.0).await;
}
