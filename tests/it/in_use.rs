//! A session with a request or tunnel in progress is in use, however long that takes.

use std::time::{Duration, Instant};

use crate::harness::{Backend, Clock, Gate, Proxy, RawClient, Script, Step, eventually, three};
use crate::tunnel::{SWITCHED, UPGRADE};

/// Lets this much time pass.
async fn pass(time: Duration) {
    let (clock, began) = (Clock::start().await, Instant::now());
    while began.elapsed() < time {
        clock.tick().await;
    }
}

/// Makes each backend answer with its head, and with the body once the gate is open.
fn stream_until(backends: &[Backend; 3], gate: &Gate) {
    for backend in backends {
        let head = format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\nContent-Length: 4\r\n\r\n", backend.name);
        let steps =
            [Step::ReadHead, Step::Send(head.into()), Step::Wait(gate.clone()), Step::Send("done".into())];
        backend.set(Script::new(steps));
    }
}

fn reply(backends: &[Backend; 3]) {
    for backend in backends {
        backend.set(Script::reply());
    }
}

/// Starts a proxy with a table, and lets backends mint sessions. Returns each with its backend.
async fn minted(backends: &[Backend; 3], count: usize) -> (Proxy, Vec<(String, String)>) {
    let [a, b, c] = backends;
    let affinity = r#"key = ["cookie:SID"], table = { ttl = "2s" }"#;
    let proxy = Proxy::builder().upstream("web", &[a, b, c]).affinity(affinity).start().await;
    let mut sessions = Vec::new();
    for n in 0..count {
        let id = format!("minted-{n}");
        for backend in backends {
            backend.set_fields(&[&format!("Set-Cookie: SID={id}; Path=/")]);
        }
        sessions.push((proxy.client().get("/login").await.backend().to_owned(), id));
    }
    for backend in backends {
        backend.set_fields(&[]);
    }
    (proxy, sessions)
}

#[tokio::test]
async fn tunnel_longer_than_the_ttl_keeps_its_session() {
    let backends = three().await;
    let (proxy, sessions) = minted(&backends, 8).await;
    let switch = [Step::ReadHead, Step::Send(SWITCHED.into()), Step::Echo];
    for backend in &backends {
        backend.set(Script::new(switch.clone()));
    }
    let mut tunnels = Vec::new();
    for (_, id) in &sessions {
        let mut raw = proxy.raw().await;
        raw.send(UPGRADE.replace("\r\n\r\n", &format!("\r\nCookie: SID={id}\r\n\r\n"))).await;
        assert_eq!(raw.head().await.status, 101);
        tunnels.push(raw);
    }
    reply(&backends);
    pass(Duration::from_secs(5)).await;
    let (during, after) = sessions.split_at(4);
    for (backend, id) in during {
        assert_eq!(proxy.session(id).get("/").await.backend(), backend, "during the tunnel");
    }
    drop(tunnels);
    proxy.metric_becomes("homing_tunnels", &[], 0.0).await;
    for (backend, id) in after {
        assert_eq!(proxy.session(id).get("/").await.backend(), backend, "after the tunnel");
    }
}

#[tokio::test]
async fn request_longer_than_the_ttl_keeps_its_session() {
    let backends = three().await;
    let (proxy, sessions) = minted(&backends, 8).await;
    let gate = Gate::closed();
    stream_until(&backends, &gate);
    let mut waiting = Vec::new();
    for (_, id) in &sessions {
        let mut raw = proxy.raw().await;
        raw.send(format!("GET /long HTTP/1.1\r\nHost: t\r\nCookie: SID={id}\r\n\r\n")).await;
        raw.head().await;
        waiting.push(raw);
    }
    reply(&backends);
    pass(Duration::from_secs(5)).await;
    gate.open();
    for raw in &mut waiting {
        assert_eq!(raw.exactly(4).await, b"done");
    }
    for (backend, id) in &sessions {
        assert_eq!(proxy.session(id).get("/").await.backend(), backend);
    }
}

#[tokio::test]
async fn session_that_begins_with_a_long_request_is_kept() {
    let backends = three().await;
    let (proxy, _) = minted(&backends, 1).await;
    let gate = Gate::closed();
    for backend in &backends {
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Backend: {}\r\nSet-Cookie: SID=begun; Path=/\r\nContent-Length: 4\r\n\r\n",
            backend.name
        );
        let steps =
            [Step::ReadHead, Step::Send(head.into()), Step::Wait(gate.clone()), Step::Send("done".into())];
        backend.set(Script::new(steps));
    }
    let mut raw = proxy.raw().await;
    raw.send("GET /long HTTP/1.1\r\nHost: t\r\n\r\n").await;
    let home = raw.head().await.backend().to_owned();
    pass(Duration::from_secs(4)).await;
    assert!(proxy.metric("homing_table_entries", &[("upstream", "web")]) >= 1.0, "the session has expired");
    gate.open();
    assert_eq!(raw.exactly(4).await, b"done");
    reply(&backends);
    assert_eq!(proxy.session("begun").get("/").await.backend(), home);
}

#[tokio::test]
async fn request_longer_than_max_idle_keeps_its_sealed_cookie() {
    for key in ["", "\"cookie:SID\""] {
        let backends = three().await;
        let [a, b, c] = &backends;
        let affinity =
            format!(r#"key = [{key}], remember = "cookie", report = true, cookie = {{ max_idle = "2s" }}"#);
        let proxy = Proxy::builder().upstream("web", &[a, b, c]).affinity(&affinity).start().await;
        let gate = Gate::closed();
        stream_until(&backends, &gate);
        let mut waiting = Vec::new();
        for n in 0..6 {
            let mut raw = proxy.raw().await;
            raw.send(format!("GET /long HTTP/1.1\r\nHost: t\r\nCookie: SID=s{n}\r\n\r\n")).await;
            let head = raw.head().await;
            let cookie =
                head.field("set-cookie").expect("a sealed cookie").split(';').next().unwrap_or_default();
            waiting.push((raw, format!("Cookie: SID=s{n}; {cookie}"), head.backend().to_owned()));
        }
        reply(&backends);
        pass(Duration::from_secs(5)).await;
        let assert_kept = async |cookie: &str, backend: &str| {
            let reply = proxy.raw().await.get("/", &[cookie]).await;
            assert_eq!(reply.outcome(), format!("kept; backend={backend}"));
            assert!(reply.fields.has("set-cookie"), "the old cookie must be replaced");
        };
        for (_, cookie, backend) in &waiting[..3] {
            assert_kept(cookie, backend).await;
        }
        gate.open();
        for (raw, cookie, backend) in &mut waiting[3..] {
            assert_eq!(raw.exactly(4).await, b"done");
            assert_kept(cookie, backend).await;
        }
        // Idle begins at the end, and then it ends the session.
        let cookie = &waiting[5].1;
        eventually("the cookie expires", async || {
            pass(Duration::from_secs(3)).await;
            let reply = RawClient::connect(proxy.addr()).await.get("/", &[cookie]).await;
            reply.outcome().contains("reason=expired")
        })
        .await;
    }
}
