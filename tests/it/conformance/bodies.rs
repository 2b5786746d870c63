//! Bodies of HTTP/1.1 requests.

use super::Outcome::Refused;
use super::{Case, case};
use crate::harness::{Backend, Proxy, eventually};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";

/// What comes behind [`HEAD`].
pub(super) fn chunks() -> Vec<Case> {
    let mut list: Vec<Case> = [
        ("a size that is no number", "9112 §7.1", "ZZ\r\n"),
        ("an empty size", "9112 §7.1", "\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("a negative size", "9112 §7.1", "-1\r\nx\r\n0\r\n\r\n"),
        ("a signed size", "9112 §7.1", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a size with 0x", "9112 §7.1", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", "9112 §7.1", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("a size of seventeen zeros", "9112 §7.1", "00000000000000000\r\n\r\n"),
        ("space behind a size", "9112 §7.1", "5 \r\nhello\r\n0\r\n\r\n"),
        ("space before a size", "9112 §7.1", " 5\r\nhello\r\n0\r\n\r\n"),
        ("bare LF behind a size", "9112 §7.1", "5\nhello\n0\n\n"),
        ("bare CR behind a size", "9112 §7.1", "5\rhello\r\n0\r\n\r\n"),
        ("bare LF behind data", "9112 §7.1", "5\r\nhello\n0\r\n\r\n"),
        ("data longer than its size", "9112 §7.1", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("bare LF at the end", "9112 §7.1", "5\r\nhello\r\n0\r\n\n"),
        ("a control in an extension", "9112 §7.1.1", "5;\x01\r\nhello\r\n0\r\n\r\n"),
        ("an empty extension", "9112 §7.1.1", "5;\r\nhello\r\n0\r\n\r\n"),
        ("bare LF behind an extension", "9112 §7.1.1", "5;a\nhello\r\n0\r\n\r\n"),
        ("bare CR in an extension", "9112 §7.1.1", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("a trailer without a colon", "9112 §7.1.2", "5\r\nhello\r\n0\r\nno trailer\r\n\r\n"),
        ("space before a trailer's colon", "9112 §7.1.2", "5\r\nhello\r\n0\r\nX : y\r\n\r\n"),
        ("a folded trailer", "9112 §7.1.2", "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"),
    ]
    .map(|(class, rfc, body)| case(class, rfc, body.as_bytes(), Refused(400, "request_body_malformed")))
    .into();
    list.push(case(
        "20,000 bytes of extensions",
        "9112 §7.1.1",
        format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000)).into_bytes(),
        Refused(400, "request_body_malformed"),
    ));
    list.push(case(
        "10,000 bytes of trailers",
        "9112 §7.1.2",
        format!("0\r\n{}\r\n", "X: y\r\n".repeat(1700)).into_bytes(),
        Refused(431, "request_body_malformed"),
    ));
    list
}

#[tokio::test]
async fn malformed_chunks_are_refused_and_the_backend_never_has_a_whole_request() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for Case { class, bytes, outcome, .. } in chunks() {
        let Refused(status, code) = outcome else { panic!("{class}: chunks are right or refused") };
        for pause in [false, true] {
            let mut raw = proxy.raw().await;
            let before = a.requests();
            raw.send(HEAD).await;
            if pause {
                // The head is at the backend before the body is wrong.
                eventually("the head is there", async || a.requests() > before).await;
            }
            raw.try_send(&*bytes).await;
            let reply = raw.response().await;
            assert_eq!(reply.status, status, "{class}: {}", reply.text());
            reply.assert_own(status, code);
            raw.assert_closed().await;
            eventually("the backend is let go", async || a.open() == 0).await;
        }
    }
    assert_eq!(a.seen().len(), 0);
}
