//! Node clients: `undici` and `ws`.

use crate::python::assert_at_home;
use crate::setting::{HOST, Setting, tls, trailing};
use crate::site::Site;
use crate::{programs, running};

#[tokio::test]
async fn undici_and_ws_keep_their_sessions_and_data() {
    let Some(node) = programs::node() else { return };
    let setting = Setting::new();
    let (a, b) = (Site::start("a").await, Site::start("b").await);
    let demo = homing::demo::start("demo", ([127, 0, 0, 1], 0).into()).await.expect("start");
    let routes = "[[route]]\npath = \"/\"\nupstream = \"web\"\n[[route]]\npath = \"/ws\"\nupstream = \"demo\"\n\
        [[route]]\npath = \"/trailers\"\nupstream = \"trailing\"";
    let proxy = setting.proxy().raw_toml(routes).upstream("web", &[]);
    let proxy = proxy.affinity("key = [\"cookie:SID\"], remember = \"table\"");
    let proxy = proxy.member("a", a.address).member("b", b.address);
    let proxy = proxy.upstream("demo", &[]).member("demo", demo.local_addr());
    let t = trailing().await;
    let proxy = proxy.upstream("trailing", &[&t]).start().await;
    let (plain, secure) = (proxy.addr().port().to_string(), tls(&proxy).port().to_string());
    let report = running::node(&node, "clients.cjs", [&plain, &secure, setting.authority(), HOST]);
    let report = report.report().await;
    for mode in ["http1", "http1tls", "http2"] {
        let report = &report[mode];
        assert_at_home(&report["homes"]);
        assert_eq!(report["up"], true, "{mode}");
        assert_eq!(report["length"], 3_000_000, "{mode}");
        if mode != "http2" {
            assert_eq!(report["trailers"]["x-checksum"], "0815", "{mode}");
        }
    }
    for mode in ["ws", "wss"] {
        let report = &report[mode];
        assert_eq!(report["text"], "grüße", "{mode}");
        assert_eq!(report["same"], true, "{mode}");
        assert_eq!(report["pong"], "there?", "{mode}");
        assert_eq!(report["code"], 3001, "{mode}");
    }
}
