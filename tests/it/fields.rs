//! Headers and request targets: what is forwarded, removed and added.

use crate::harness::{Backend, Proxy, Script, in_front_of};

#[tokio::test]
async fn absolute_form_overrides_host() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET http://shop.example:8080/p/q?r=s HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    let seen = a.last();
    assert_eq!(seen.line, "GET /p/q?r=s HTTP/1.1");
    assert_eq!(seen.field("host"), Some("shop.example:8080"));
    assert_eq!(seen.field("x-forwarded-host"), Some("shop.example:8080"));
}

#[tokio::test]
async fn options_asterisk_is_forwarded() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(a.last().line, "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn options_for_a_whole_server_in_absolute_form_is_forwarded() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send("OPTIONS http://shop.example HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(raw.response().await.backend(), "a");
    assert_eq!(a.last().line, "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
    let a = Backend::named("a")
        .field("Connection: keep-alive, X-Hop")
        .field("X-Hop: 1")
        .field("Keep-Alive: timeout=5")
        .field("Proxy-Connection: keep-alive")
        .field("X-App: stays")
        .field("Upgrade: h2c")
        .start()
        .await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let fields = [
        "Connection: X-Hop, keep-alive",
        "connection: x-second",
        "X-Hop: 1",
        "X-Second: 2",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "Upgrade: websocket",
        "X-App: stays",
        "Accept: */*",
    ];
    let reply = raw.get("/", &fields).await;
    assert_eq!(reply.field("x-app"), Some("stays"));
    assert_eq!(reply.fields.names(), ["x-backend", "content-length", "x-app", "via"]);
    let mut names = a.last().fields.names().into_iter().map(str::to_owned).collect::<Vec<_>>();
    names.sort();
    let expected =
        ["accept", "host", "via", "x-app", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    assert_eq!(names, expected);
}

#[tokio::test]
async fn end_to_end_headers_are_forwarded_unchanged() {
    let odd = "X-Unusual:   spaces, \"quotes\"; and = signs\t tab";
    let a = Backend::named("a").field(odd).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &[odd, "x-MiXeD: Case", "X-Twice: 1", "X-Twice: 2"]).await;
    let value = "spaces, \"quotes\"; and = signs\t tab";
    assert_eq!(reply.field("x-unusual"), Some(value));
    let seen = a.last();
    assert_eq!(seen.field("x-unusual"), Some(value));
    assert_eq!(seen.fields.all("x-twice"), ["1", "2"]);
    assert!(seen.text.contains("x-MiXeD: Case\r\n"), "the name changed its case: {}", seen.text);
}

#[tokio::test]
async fn untrusted_forwarding_headers_are_replaced() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let forged = [
        "X-Forwarded-For: 6.6.6.6",
        "x-forwarded-for: 7.7.7.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example",
        "Forwarded: for=6.6.6.6",
    ];
    raw.get("/", &forged).await;
    let seen = a.last();
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.field("x-forwarded-host"), Some("test"));
    assert!(!seen.fields.has("forwarded"));
}

#[tokio::test]
async fn trusted_forwarding_headers_are_extended() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a)
        .raw_toml("[client_ip]\ntrusted = [\"127.0.0.0/8\"]\n[forwarding]\nforwarded = true")
        .start()
        .await;
    let mut raw = proxy.raw().await;
    let believed = [
        "X-Forwarded-For: 203.0.113.1, 203.0.113.2",
        "X-Forwarded-For: 203.0.113.3",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: www.example",
        "Forwarded: for=203.0.113.1;proto=https",
    ];
    raw.get("/", &believed).await;
    let seen = a.last();
    assert_eq!(seen.field("x-forwarded-for"), Some("203.0.113.1, 203.0.113.2, 203.0.113.3, 127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.field("x-forwarded-host"), Some("www.example"));
    let forwarded = "for=203.0.113.1;proto=https, for=127.0.0.1;host=\"test\";proto=http";
    assert_eq!(seen.field("forwarded"), Some(forwarded));
}

#[tokio::test]
async fn forwarding_headers_can_be_turned_off() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).raw_toml("[forwarding]\nx_forwarded = false\nvia = \"off\"").start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &[]).await;
    assert!(!reply.fields.has("via"));
    assert_eq!(a.last().fields.names(), ["host"]);
}

#[tokio::test]
async fn forged_forwarding_headers_are_removed_even_when_none_are_added() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).raw_toml("[forwarding]\nx_forwarded = false\nvia = \"off\"").start().await;
    let mut raw = proxy.raw().await;
    let forged = [
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "Forwarded: for=6.6.6.6",
    ];
    raw.get("/", &forged).await;
    assert_eq!(a.last().fields.names(), ["host"]);
}

/// Backends behind CGI or WSGI read `X_Forwarded_For` as `X-Forwarded-For`.
#[tokio::test]
async fn untrusted_forwarding_headers_under_other_names_are_removed() {
    let a = Backend::start("a").await;
    let claims = [
        "X_Forwarded_For: 6.6.6.6",
        "x_forwarded-proto: https",
        "X-Forwarded-Port: 443",
        "X-Real-IP: 6.6.6.6",
        "X_Real_Ip: 6.6.6.6",
        "X_Affinity_Backend: b",
        "X-Tra_ce: 1",
    ];
    for (trusted, kept) in [("", 1), ("[client_ip]\ntrusted = [\"127.0.0.0/8\"]\n", 6)] {
        let proxy =
            in_front_of(&a).raw_toml(trusted).raw_toml("[forwarding]\nunderscores = \"keep\"").start().await;
        proxy.raw().await.get("/", &claims).await;
        let seen = a.last();
        let passed = claims.iter().filter(|line| {
            line.split_once(": ").is_some_and(|(n, _)| seen.field(&n.to_ascii_lowercase()).is_some())
        });
        assert_eq!(passed.count(), kept, "{trusted:?}");
    }
}

#[tokio::test]
async fn header_names_with_underscores_are_dropped_by_default() {
    let a = Backend::start("a").await;
    for (config, kept) in [("", false), ("[forwarding]\nunderscores = \"keep\"", true)] {
        let proxy = in_front_of(&a).raw_toml(config).start().await;
        proxy
            .raw()
            .await
            .get("/", &["X_User: root", "Content_Length: 9", "X-Odd!#$: 1", "X-User: me_too"])
            .await;
        let seen = a.last();
        assert_eq!((seen.fields.has("x_user"), seen.fields.has("content_length")), (kept, kept), "{config}");
        assert_eq!((seen.field("x-odd!#$"), seen.field("x-user")), (Some("1"), Some("me_too")));
    }
}

#[tokio::test]
async fn via_is_appended_in_both_directions() {
    let a = Backend::named("a").field("Via: 1.1 cache").start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &["Via: 1.0 front"]).await;
    assert_eq!(reply.fields.all("via"), ["1.1 cache", "1.1 homing"]);
    let seen = a.last();
    let [front, own] = seen.fields.all("via")[..] else { panic!("{:?}", seen.fields) };
    assert!(front == "1.0 front" && own.starts_with("1.1 homing ("), "{:?}", seen.fields);
}

#[tokio::test]
async fn request_loop_ends_with_508() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    // The backend is the proxy itself.
    proxy.reload(&Proxy::builder().upstream("web", &[]).member("a", proxy.addr())).await;
    let mut raw = proxy.raw().await;
    raw.get("/", &[]).await.assert_own(508, "loop_detected");
    proxy.metric_becomes("homing_errors_total", &[("error", "loop_detected")], 1.0).await;
}

#[tokio::test]
async fn names_that_homing_writes_are_spelled_as_people_spell_them() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).affinity("announce = true").start().await;
    let mut raw = proxy.raw().await;
    raw.send("GET / HTTP/1.1\r\nhost: t\r\nx-own: 1\r\nTE: trailers\r\n\r\n").await;
    raw.response().await.assert_from("a");
    let text = a.last().text;
    for name in [
        "Host",
        "x-own",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "Via",
        "X-Affinity-Backend",
        "TE",
        "Connection",
    ] {
        assert!(text.contains(&format!("{name}: ")), "{name} in {text}");
    }
    raw.send("GET / HTTP/1.1\r\n\r\n").await;
    let answer = String::from_utf8(raw.read_to_end().await).unwrap();
    for name in ["Date", "Content-Type", "Content-Length", "Cache-Control", "Connection"] {
        assert!(answer.contains(&format!("\r\n{name}: ")), "{name} in {answer}");
    }
}

#[tokio::test]
async fn names_from_http2_are_spelled_as_people_spell_them() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let client = proxy.http2().await;
    client.get("/", &[("content-type", "x"), ("etag", "y"), ("cookie", "c=d")]).await.assert_from("a");
    let text = a.last().text;
    for name in ["Host", "Content-Type", "ETag", "Cookie"] {
        assert!(text.contains(&format!("{name}: ")), "{name} in {text}");
    }
}

#[tokio::test]
async fn space_before_the_colon_is_removed_from_a_response() {
    let a = Backend::named("a").script(Script::raw(
        "HTTP/1.1 103 Early Hints\r\nLink\t : </x>\r\n\r\n\
         HTTP/1.1 200\r\nX-Backend : a\r\nX-App\t: 1\r\nContent-Length : 2\r\n\r\nok",
    ));
    let a = a.start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..2 {
        let reply = raw.get("/", &[]).await;
        reply.assert_from("a");
        assert_eq!((reply.field("x-app"), reply.text().as_str()), (Some("1"), "ok"));
        assert_eq!(reply.interim[0].field("link"), Some("</x>"));
    }
    assert_eq!(a.connections(), 1, "the connection must stay open");
}

#[tokio::test]
async fn proxy_header_is_dropped() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    proxy.raw().await.get("/", &["Proxy: http://evil.example/", "Proxy-App: 1"]).await.assert_from("a");
    assert!(!a.last().fields.has("proxy"));
    proxy.http2().await.get("/", &[("proxy", "http://evil.example/")]).await.assert_from("a");
    assert!(!a.last().fields.has("proxy"));
}

#[tokio::test]
async fn upgrade_of_a_426_reaches_the_client() {
    let a = Backend::named("a").script(Script::raw(
        "HTTP/1.1 426 Upgrade Required\r\nX-Backend: a\r\nConnection: upgrade\r\nUpgrade: HTTP/3.0\r\n\
         Content-Length: 0\r\n\r\n",
    ));
    let a = a.start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let reply = raw.get("/", &[]).await;
    assert_eq!((reply.field("upgrade"), reply.field("connection")), (Some("HTTP/3.0"), Some("upgrade")));
    let reply = raw.get("/", &["Connection: close"]).await;
    assert_eq!(
        (reply.field("upgrade"), reply.field("connection")),
        (Some("HTTP/3.0"), Some("upgrade, close"))
    );
    assert_eq!(proxy.http2().await.get("/", &[]).await.status, 426);
}

#[tokio::test]
async fn trace_is_405_unless_allowed_and_max_forwards_is_counted() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let refused = raw.request("TRACE", "/", &[], b"").await;
    refused.assert_own(405, "trace_not_allowed");
    assert!(refused.fields.has("allow"));
    let mut raw = proxy.raw().await;
    let here = raw.request("OPTIONS", "/", &["Max-Forwards: 0"], b"").await;
    assert_eq!((here.status, here.fields.has("allow"), here.text().as_str()), (200, true, ""));
    raw.request("OPTIONS", "/", &["Max-Forwards: 3"], b"").await.assert_from("a");
    assert_eq!(a.last().fields.all("max-forwards"), ["2"]);
    // It means nothing for other methods.
    raw.get("/", &["Max-Forwards: 0"]).await.assert_from("a");
    assert_eq!((a.last().fields.all("max-forwards"), a.requests()), (vec!["0"], 2));

    let proxy = in_front_of(&a).raw_toml("[forwarding]\ntrace = true").start().await;
    let mut raw = proxy.raw().await;
    let fields = ["Max-Forwards: 0", "Cookie: SID=secret", "X-App: 1"];
    let traced = raw.request("TRACE", "/x?y", &fields, b"").await;
    assert_eq!((traced.status, traced.field("content-type")), (200, Some("message/http")));
    assert_eq!(traced.text(), "TRACE /x?y HTTP/1.1\r\nHost: test\r\nMax-Forwards: 0\r\nX-App: 1\r\n\r\n");
    raw.request("TRACE", "/", &["Max-Forwards: 1"], b"").await.assert_from("a");
    assert_eq!(a.last().fields.all("max-forwards"), ["0"]);
}

#[tokio::test]
async fn upgrades_other_than_websocket_are_not_forwarded() {
    let a = Backend::start("a").await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    let h2c =
        ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"];
    assert_eq!(raw.get("/", &h2c).await.backend(), "a");
    let seen = a.last();
    for name in ["connection", "upgrade", "http2-settings"] {
        assert!(!seen.fields.has(name), "{name}");
    }
    assert_eq!(raw.get("/", &[]).await.backend(), "a", "the connection must stay open");
}

#[tokio::test]
async fn large_heads_within_the_limit_pass() {
    let long = format!("X-App: {}", "v".repeat(31_000));
    let a = Backend::named("a").field(&long).start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..3 {
        let reply = raw.get("/", &[&long]).await;
        assert_eq!(reply.field("x-app").map(str::len), Some(31_000));
        assert_eq!(a.last().field("x-app").map(str::len), Some(31_000));
    }
}

#[tokio::test]
async fn non_ascii_header_values_pass() {
    let a = Backend::named("a").script(Script::raw(
        b"HTTP/1.1 200 \xe9\r\nX-Backend: a\r\nX-App: caf\xe9 \xff\r\nContent-Length: 0\r\n\r\n",
    ));
    let a = a.start().await;
    let proxy = in_front_of(&a).start().await;
    let mut raw = proxy.raw().await;
    raw.send(b"GET / HTTP/1.1\r\nHost: t\r\nX-App: caf\xe9 \xff\r\n\r\n").await;
    assert_eq!(raw.response().await.field("x-app"), Some("caf\u{e9} \u{ff}"));
    assert_eq!(a.last().field("x-app"), Some("caf\u{e9} \u{ff}"));
}

#[tokio::test]
async fn alt_svc_passes_through() {
    let a = Backend::named("a").field("Alt-Svc: h3=\":443\"; ma=86400, h2=\":8443\"").start().await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let response = proxy.raw().await.get("/", &[]).await;
    response.assert_from("a");
    assert_eq!(response.field("alt-svc"), Some("h3=\":443\"; ma=86400, h2=\":8443\""));
}
