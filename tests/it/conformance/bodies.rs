//! Chunked bodies in HTTP/1.1 requests.

use super::Outcome::Rejected;
use super::{Case, case};
use crate::harness::{Backend, Proxy, eventually};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Bodies sent after [`HEAD`].
pub(super) fn chunks() -> Vec<Case> {
    let mut list: Vec<Case> = [
        ("invalid chunk size", "9112 §7.1", "ZZ\r\n"),
        ("empty chunk size", "9112 §7.1", "\r\n5\r\nhello\r\n0\r\n\r\n"),
        ("negative chunk size", "9112 §7.1", "-1\r\nx\r\n0\r\n\r\n"),
        ("chunk size with a plus sign", "9112 §7.1", "+5\r\nhello\r\n0\r\n\r\n"),
        ("chunk size with 0x", "9112 §7.1", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("chunk size over 64 bits", "9112 §7.1", "10000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("chunk size over 63 bits", "9112 §7.1", "8000000000000000\r\nhello\r\n0\r\n\r\n"),
        ("chunk size of 17 zeros", "9112 §7.1", "00000000000000000\r\n\r\n"),
        ("space after the chunk size", "9112 §7.1", "5 \r\nhello\r\n0\r\n\r\n"),
        ("space before the chunk size", "9112 §7.1", " 5\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after the chunk size", "9112 §7.1", "5\nhello\n0\n\n"),
        ("bare CR after the chunk size", "9112 §7.1", "5\rhello\r\n0\r\n\r\n"),
        ("bare LF after chunk data", "9112 §7.1", "5\r\nhello\n0\r\n\r\n"),
        ("more data than the chunk size", "9112 §7.1", "5\r\nhelloX\r\n0\r\n\r\n"),
        ("bare LF at the end of the body", "9112 §7.1", "5\r\nhello\r\n0\r\n\n"),
        ("control character in a chunk extension", "9112 §7.1.1", "5;\x01\r\nhello\r\n0\r\n\r\n"),
        ("empty chunk extension", "9112 §7.1.1", "5;\r\nhello\r\n0\r\n\r\n"),
        ("bare LF after a chunk extension", "9112 §7.1.1", "5;a\nhello\r\n0\r\n\r\n"),
        ("bare CR in a chunk extension", "9112 §7.1.1", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        ("trailer without a colon", "9112 §7.1.2", "5\r\nhello\r\n0\r\nno trailer\r\n\r\n"),
        ("space before the colon of a trailer", "9112 §7.1.2", "5\r\nhello\r\n0\r\nX : y\r\n\r\n"),
        ("folded trailer", "9112 §7.1.2", "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"),
    ]
    .map(|(class, rfc, body)| case(class, rfc, body.as_bytes(), Rejected(400, "request_body_malformed")))
    .into();
    list.push(case(
        "20,000 bytes of chunk extensions",
        "9112 §7.1.1",
        format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000)).into_bytes(),
        Rejected(400, "request_body_malformed"),
    ));
    list.push(case(
        "10,000 bytes of trailers",
        "9112 §7.1.2",
        format!("0\r\n{}\r\n", "X: y\r\n".repeat(1700)).into_bytes(),
        Rejected(431, "request_body_malformed"),
    ));
    list
}

#[tokio::test]
async fn malformed_chunks_are_rejected_and_no_backend_receives_a_complete_request() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().upstream("web", &[&a]).start().await;
    for Case { class, bytes, outcome, .. } in chunks() {
        let Rejected(status, code) = outcome else { panic!("{class}: expected a rejection") };
        for pause in [false, true] {
            let mut raw = proxy.raw().await;
            let before = a.requests();
            raw.send(HEAD).await;
            if pause {
                // The head reaches the backend before the body is malformed.
                eventually("the backend has received the head", async || a.requests() > before).await;
            }
            raw.try_send(&*bytes).await;
            let reply = raw.response().await;
            assert_eq!(reply.status, status, "{class}: {}", reply.text());
            reply.assert_own(status, code);
            raw.assert_closed().await;
            eventually("the backend connection is closed", async || a.open() == 0).await;
        }
    }
    assert_eq!(a.seen().len(), 0);
}
