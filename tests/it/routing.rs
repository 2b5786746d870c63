//! Routes: which upstream gets a request.

use crate::harness::{Backend, Proxy};

#[tokio::test]
async fn most_specific_route_wins_and_no_route_is_404() {
    let mut backends = Vec::new();
    for name in ["exact", "wild", "deep", "api", "any"] {
        backends.push(Backend::start(name).await);
    }
    let routes = r#"
        [[route]]
        host = "www.example.com"
        upstream = "exact"
        [[route]]
        host = "*.example.com"
        upstream = "wild"
        [[route]]
        host = "*.eu.example.com"
        upstream = "deep"
        [[route]]
        host = "www.example.com"
        path = "/api"
        upstream = "api"
        [[route]]
        path = "/public"
        upstream = "any"
    "#;
    let mut builder = Proxy::builder().raw_toml(routes);
    for backend in &backends {
        builder = builder.upstream(&backend.name, &[backend]);
    }
    let proxy = builder.start().await;
    let mut raw = proxy.raw().await;
    for (host, path, expected) in [
        ("www.example.com", "/", "exact"),
        ("WWW.Example.Com:8080", "/x", "exact"),
        ("www.example.com.", "/", "exact"),
        ("www.example.com", "/api", "api"),
        ("www.example.com", "/api/v1?q=1", "api"),
        ("www.example.com", "/api;v=1", "api"),
        ("www.example.com", "/apix", "exact"),
        ("shop.example.com", "/api", "wild"),
        ("a.b.example.com", "/", "wild"),
        ("a.eu.example.com", "/", "deep"),
        ("example.com", "/public", "any"),
        ("example.com", "/public/x", "any"),
        ("example.com", "/", "404"),
        ("example.com", "/publicity", "404"),
        ("other.test", "/", "404"),
        ("127.0.0.1", "/", "404"),
        ("[::1]:8080", "/public", "any"),
    ] {
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let reply = raw.response().await;
        if expected == "404" {
            reply.assert_own(404, "no_route");
            assert!(!reply.fields.has("connection"), "the connection must stay open");
        } else {
            assert_eq!(reply.backend(), expected, "{host}{path}");
        }
    }
}

#[tokio::test]
async fn upload_without_a_route_closes_the_connection() {
    let a = Backend::start("a").await;
    let routes = "[[route]]\npath = \"/app\"\nupstream = \"web\"";
    let proxy = Proxy::builder().raw_toml(routes).upstream("web", &[&a]).start().await;
    let mut raw = proxy.raw().await;
    raw.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 34\r\n\r\nGET /app HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    raw.response().await.assert_own(404, "no_route");
    raw.assert_closed().await;
    assert_eq!(a.connections(), 0, "the body was taken for a request");
}

#[tokio::test]
async fn each_upstream_has_its_own_sessions() {
    let (a, b, c, d) = (
        Backend::start("a").await,
        Backend::start("b").await,
        Backend::start("c").await,
        Backend::start("d").await,
    );
    let routes =
        "[[route]]\npath = \"/one\"\nupstream = \"one\"\n[[route]]\npath = \"/two\"\nupstream = \"two\"";
    let proxy = Proxy::builder()
        .raw_toml(routes)
        .upstream("one", &[&a, &b])
        .affinity(r#"key = ["cookie:SID"], report = true"#)
        .upstream("two", &[&c, &d])
        .affinity(r#"key = ["cookie:SID"], report = true"#)
        .start()
        .await;
    let mut client = proxy.session("s");
    assert!(client.get("/one").await.outcome().starts_with("new"));
    assert!(client.get("/two").await.outcome().starts_with("new"));
    assert!(client.get("/one").await.outcome().starts_with("kept"));
    assert!(client.get("/two").await.outcome().starts_with("kept"));
}
