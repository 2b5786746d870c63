//! Heads of HTTP/1.1 requests.

use super::Outcome::{Passed, Refused};
use super::{Case, framing, hops, lines, targets};
use crate::harness::{Backend, Proxy};

/// What is sent behind a refused request, and must not be read as one.
const BEHIND: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";

fn all() -> Vec<Case> {
    [framing::cases(), lines::cases(), targets::cases(), hops::cases()].into_iter().flatten().collect()
}

#[tokio::test]
async fn malformed_request_is_refused_closed_and_reaches_nobody() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut wrong = Vec::new();
    for Case { class, bytes, outcome, .. } in all() {
        let Refused(status, code) = outcome else { continue };
        for behind in [b"".as_slice(), BEHIND] {
            let mut raw = proxy.raw().await;
            // A flood is refused before it is all there.
            raw.try_send([&bytes, behind].concat()).await;
            let reply = raw.response().await;
            let code = format!("\n{code}\n");
            if reply.status != status || !reply.text().ends_with(&code) {
                wrong.push(format!("{class}: {:?}", reply.text()));
            }
            assert_eq!(reply.field("connection"), Some("close"), "{class}");
            raw.assert_closed().await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((a.connections(), a.requests()), (0, 0));
}

#[tokio::test]
async fn malformed_request_is_refused_just_so_when_it_drips_in() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for Case { class, bytes, outcome, .. } in all() {
        let Refused(status, _) = outcome else { continue };
        if bytes.len() > 1000 {
            continue;
        }
        let mut raw = proxy.raw().await;
        for byte in bytes.iter() {
            // It may be refused before it is whole.
            if !raw.try_send([*byte]).await {
                break;
            }
        }
        assert_eq!(raw.response().await.status, status, "{class}");
    }
    assert_eq!((a.connections(), a.requests()), (0, 0));
}

#[tokio::test]
async fn odd_request_that_is_right_reaches_the_backend_without_what_ends_here() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for Case { class, bytes, outcome, .. } in all() {
        let Passed { line, host, without } = outcome else { continue };
        let mut raw = proxy.raw().await;
        raw.send(&*bytes).await;
        assert_eq!(raw.response().await.backend(), "a", "{class}");
        let seen = a.last();
        assert_eq!((seen.line.as_str(), seen.field("host")), (line, Some(host)), "{class}");
        for name in without {
            assert!(!seen.fields.has(name), "{class}: {name} in {:?}", seen.fields);
        }
        // And the connection is in step.
        raw.send(BEHIND).await;
        assert_eq!(raw.response().await.backend(), "a", "{class}");
        assert_eq!(a.last().line, "GET /smuggled HTTP/1.1", "{class}");
    }
}
