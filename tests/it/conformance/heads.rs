//! Request heads in HTTP/1.1.

use super::Outcome::{Forwarded, Rejected};
use super::{Case, framing, hops, lines, targets};
use crate::harness::{Backend, Proxy};

/// A request pipelined after the case; it must not be served after a rejection.
const PIPELINED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n";

fn all() -> Vec<Case> {
    [framing::cases(), lines::cases(), targets::cases(), hops::cases()].into_iter().flatten().collect()
}

#[tokio::test]
async fn malformed_request_is_rejected_and_never_reaches_a_backend() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    let mut failures = Vec::new();
    for Case { class, bytes, outcome, .. } in all() {
        let Rejected(status, code) = outcome else { continue };
        for pipelined in [b"".as_slice(), PIPELINED] {
            let mut raw = proxy.raw().await;
            // Large requests are rejected before they are complete.
            raw.try_send([&bytes, pipelined].concat()).await;
            let reply = raw.response().await;
            let code = format!("\n{code}\n");
            if reply.status != status || !reply.text().ends_with(&code) {
                failures.push(format!("{class}: {:?}", reply.text()));
            }
            assert_eq!(reply.field("connection"), Some("close"), "{class}");
            raw.assert_closed().await;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!((a.connections(), a.requests()), (0, 0));
}

#[tokio::test]
async fn malformed_request_is_rejected_the_same_when_sent_byte_by_byte() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for Case { class, bytes, outcome, .. } in all() {
        let Rejected(status, _) = outcome else { continue };
        if bytes.len() > 1000 {
            continue;
        }
        let mut raw = proxy.raw().await;
        for byte in bytes.iter() {
            // The proxy may reject it before it is complete.
            if !raw.try_send([*byte]).await {
                break;
            }
        }
        assert_eq!(raw.response().await.status, status, "{class}");
    }
    assert_eq!((a.connections(), a.requests()), (0, 0));
}

#[tokio::test]
async fn unusual_but_valid_request_is_forwarded_without_hop_by_hop_headers() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for Case { class, bytes, outcome, .. } in all() {
        let Forwarded { line, host, without } = outcome else { continue };
        let mut raw = proxy.raw().await;
        raw.send(&*bytes).await;
        assert_eq!(raw.response().await.backend(), "a", "{class}");
        let seen = a.last();
        assert_eq!((seen.line.as_str(), seen.field("host")), (line, Some(host)), "{class}");
        for name in without {
            assert!(!seen.fields.has(name), "{class}: {name} was forwarded: {:?}", seen.fields);
        }
        // The connection is still in sync.
        raw.send(PIPELINED).await;
        assert_eq!(raw.response().await.backend(), "a", "{class}");
        assert_eq!(a.last().line, "GET /smuggled HTTP/1.1", "{class}");
    }
}
