//! Python clients: `websockets`, `h2` and `httpx`.

use serde_json::{Value, json};

use crate::harness::{Backend, Proxy, Script, Step};
use crate::setting::{HOST, Setting, tls, trailing};
use crate::site::Site;
use crate::{programs, running};

const AFFINITY: &str = "key = [\"cookie:SID\"], remember = \"table\"";

/// Asserts that each session used one backend, and that not all used the same one.
pub(crate) fn assert_at_home(homes: &Value) {
    let homes = homes.as_object().expect("sessions");
    assert_eq!(homes.len(), 12);
    assert!(homes.values().all(|names| names.as_array().is_some_and(|names| names.len() == 1)), "{homes:?}");
    assert!(
        homes.values().any(|names| Some(names) != homes.values().next()),
        "all sessions on one backend: {homes:?}"
    );
}

#[tokio::test]
async fn websockets_exchange_messages_ping_and_close() {
    let Some(python) = programs::python() else { return };
    let setting = Setting::new();
    let mut servers = ["a", "b"].map(|name| running::python(&python, "ws_server.py", [name]));
    let mut proxy = setting.proxy().upstream("web", &[]).affinity(AFFINITY);
    for (name, server) in ["a", "b"].iter().zip(&mut servers) {
        proxy = proxy.member(name, format!("127.0.0.1:{}", server.port().await));
    }
    let proxy = proxy.start().await;
    let plain = running::python(&python, "ws_client.py", [proxy.addr().port().to_string()]).report().await;
    let args = [tls(&proxy).port().to_string(), setting.authority().to_owned(), HOST.to_owned()];
    let secure = running::python(&python, "ws_client.py", args).report().await;
    for report in [plain, secure] {
        assert_eq!(report["text"], "grüße");
        assert_eq!(report["binary"], true);
        assert_eq!(report["big"], true);
        assert_eq!(report["fragments"], 4000);
        assert_eq!(report["latency"], true);
        assert_eq!(report["pinged"], "you are");
        let who = report["who"].as_str().expect("text");
        assert_eq!(&who[1..], " /chat?room=1 ");
        assert_eq!(report["closed"], json!([4001, "that is all", true]));
        assert_eq!(report["close_mine"], json!([3000, "mine"]));
        assert_at_home(&report["homes"]);
    }
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
}

#[tokio::test]
async fn one_h2_connection_carries_many_sessions_each_to_its_home() {
    let Some(python) = programs::python() else { return };
    let setting = Setting::new();
    let (a, b) = (Site::start("a").await, Site::start("b").await);
    let hints = Step::Send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n".to_vec());
    let answer = Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhints".to_vec());
    let script = Script::new([Step::ReadHead, Step::ReadBody, hints, answer]);
    let c = Backend::named("c").script(script).start().await;
    let routes = "[[route]]\npath = \"/\"\nupstream = \"web\"\n[[route]]\npath = \"/hints\"\nupstream = \"hints\"\n\
        [[route]]\npath = \"/trailers\"\nupstream = \"trailing\"";
    let proxy = setting.proxy().raw_toml(routes).upstream("web", &[]).affinity(AFFINITY);
    let proxy = proxy.member("a", a.address).member("b", b.address).upstream("hints", &[&c]);
    let t = trailing().await;
    let proxy = proxy.upstream("trailing", &[&t]).start().await;
    let report = h2_client(&python, &setting, &proxy).await;
    assert_eq!(report["protocol"], "h2");
    assert_at_home(&report["homes"]);
    assert_eq!(report["trailers"]["x-checksum"], "0815");
    assert_eq!(t.last().trailers.get("x-up"), Some("yes"));
    assert_eq!(t.last().body, b"up");
    let [interim, status, body] = [0, 1, 2].map(|index| &report["hints"][index]);
    assert_eq!(interim[0][":status"], "103");
    assert_eq!(interim[0]["link"], "</style.css>");
    assert_eq!((status, body), (&json!("200"), &json!("hints")));
    assert_eq!(report["httpx"], json!({ "versions": ["HTTP/2"], "whole": true }));
}

async fn h2_client(python: &std::path::Path, setting: &Setting, proxy: &Proxy) -> Value {
    let args = [tls(proxy).port().to_string(), setting.authority().to_owned(), HOST.to_owned()];
    running::python(python, "h2_client.py", args).report().await
}
