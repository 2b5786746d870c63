//! Backends that authenticate connections (NTLM, Negotiate): an authenticated connection serves one
//! client only.

use crate::harness::{Backend, H2Client, Proxy, RawClient, Script, Step, eventually, in_front_of};

const CHALLENGE: &str = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a, b\", NTLM\r\n\
                         Content-Length: 0\r\n\r\n";

/// Challenges the first request of a connection with this scheme, and answers the others.
fn challenging(scheme: &str) -> Script {
    Script::raw(CHALLENGE.replace("NTLM", scheme)).then([Step::ReadHead, Step::ReadBody, Step::Reply])
}

async fn ask(client: &mut RawClient) -> u16 {
    client.get("/", &[]).await.status
}

#[tokio::test]
async fn challenged_connection_serves_no_other_client_and_closes_with_its_own() {
    for scheme in ["NTLM", "negotiate", "Negotiate oRQwEg=="] {
        let a = Backend::named("a").script(challenging(scheme)).start().await;
        let proxy = in_front_of(&a).workers(1).start().await;
        let (mut one, mut other) = (proxy.raw().await, proxy.raw().await);
        assert_eq!((ask(&mut one).await, ask(&mut one).await), (401, 200), "{scheme}");
        assert_eq!((ask(&mut other).await, ask(&mut other).await), (401, 200), "{scheme}");
        // Each stays on its own.
        assert_eq!((ask(&mut one).await, ask(&mut other).await), (200, 200), "{scheme}");
        assert_eq!(a.connections(), 2, "{scheme}");
        drop(one);
        eventually("the connection closes with its client", async || a.open() == 1).await;
        assert_eq!(ask(&mut other).await, 200);
    }
}

#[tokio::test]
async fn connection_that_carried_credentials_serves_no_other_client() {
    for credentials in ["Authorization: NTLM TlRMTVNTUAAD", "Proxy-Authorization: Negotiate YIIC"] {
        let a = Backend::start("a").await;
        let proxy = in_front_of(&a).workers(1).start().await;
        let (mut one, mut other) = (proxy.raw().await, proxy.raw().await);
        one.get("/", &[credentials]).await.assert_from("a");
        other.get("/", &[]).await.assert_from("a");
        one.get("/", &[]).await.assert_from("a");
        assert_eq!(a.connections(), 2, "{credentials}");
        // Without such credentials, connections are shared.
        let mut third = proxy.raw().await;
        third.get("/", &["Authorization: Basic dTpw"]).await.assert_from("a");
        other.get("/", &[]).await.assert_from("a");
        assert_eq!(a.connections(), 2, "{credentials}");
    }
}

#[tokio::test]
async fn requests_without_a_key_follow_the_authenticated_connection() {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let proxy = Proxy::builder()
        .workers(1)
        .upstream("web", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"]"#)
        .start()
        .await;
    let mut client = proxy.raw().await;
    let first = client.get("/", &["Authorization: NTLM TlRMTVNTUAAB"]).await;
    for _ in 0..20 {
        client.get("/", &[]).await.assert_from(first.backend());
    }
    assert_eq!(a.connections() + b.connections(), 1);
}

#[tokio::test]
async fn authenticated_connection_is_not_used_for_another_client_of_a_trusted_proxy() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).workers(1).raw_toml("[client_ip]\ntrusted = [\"127.0.0.1\"]").start().await;
    let mut relay = proxy.raw().await;
    let one = "X-Forwarded-For: 198.51.100.1";
    relay.get("/", &[one, "Authorization: NTLM TlRMTVNTUAAD"]).await.assert_from("a");
    relay.get("/", &[one]).await.assert_from("a");
    assert_eq!(a.connections(), 1);
    relay.get("/", &["X-Forwarded-For: 198.51.100.2"]).await.assert_from("a");
    assert_eq!(a.connections(), 2);
}

#[tokio::test]
async fn streams_of_an_http2_connection_never_share_an_authenticated_connection() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).workers(1).start().await;
    let client = H2Client::connect(proxy.addr()).await;
    for n in 1..=3 {
        client.get("/", &[("authorization", "Negotiate YIIC")]).await.assert_from("a");
        assert_eq!(a.connections(), n);
    }
    eventually("they are closed", async || a.open() == 0).await;
}
