//! gRPC with `grpcio` as client and server, over HTTP/2 on both sides.

use serde_json::json;

use crate::programs;
use crate::python::assert_at_home;
use crate::running::python;
use crate::setting::{HOST, Setting, tls};

#[tokio::test]
async fn calls_of_every_kind_pass_with_status_and_deadline() {
    let Some(program) = programs::python() else { return };
    let setting = Setting::new();
    let mut servers = ["a", "b"].map(|name| python(&program, "grpc_server.py", [name]));
    let mut proxy = setting.proxy().upstream("web", &[]).lines("protocol = \"h2c\"");
    proxy = proxy.affinity("key = [\"header:X-Session\", \"ip\"], remember = \"table\"");
    for (name, server) in ["a", "b"].iter().zip(&mut servers) {
        proxy = proxy.member(name, format!("127.0.0.1:{}", server.port().await));
    }
    let proxy = proxy.start().await;
    let plain = vec![proxy.addr().port().to_string()];
    let secure = vec![tls(&proxy).port().to_string(), setting.authority().to_owned(), HOST.to_owned()];
    for args in [plain, secure] {
        let report = python(&program, "grpc_client.py", &args).report().await;
        assert_eq!(report["unary"], json!(["cba", "3", [0, 255], "OK"]));
        assert_eq!(report["big"], true);
        assert_eq!(report["empty"], true);
        assert_eq!(report["error"], json!(["FAILED_PRECONDITION", "not läke this"]));
        assert_eq!(report["unknown"], "UNIMPLEMENTED");
        assert_eq!(report["server_stream"], true);
        assert_eq!(report["stream_error"], json!(["RESOURCE_EXHAUSTED", "five is enough"]));
        assert_eq!(report["before_error"], 5);
        assert_eq!(report["client_stream"], "500000");
        assert_eq!(report["bidi"], json!([["<0>", "<1>", "<2>", "<3>", "<4>"], 0]));
        assert_at_home(&report["homes"]);
        assert_eq!(report["deadline"], "DEADLINE_EXCEEDED");
        assert_eq!(report["cancel"], "CANCELLED");
    }
    // Calls without a session go to the home of the client's address. Calls that the client
    // cancels are cancelled at the server too.
    let [a, b] = &mut servers;
    let mut ended = Vec::new();
    while ended.len() < 4 {
        ended.push(tokio::select! { line = a.line() => line, line = b.line() => line });
    }
    ended.sort();
    assert_eq!(ended, ["cancelled", "cancelled", "deadline exceeded", "deadline exceeded"]);
}
