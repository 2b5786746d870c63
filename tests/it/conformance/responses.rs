//! Malformed responses from backends.

use std::borrow::Cow;

use crate::harness::{Backend, Proxy, Script, Step, eventually};

/// A backend's response and what the client gets.
pub(super) struct ResponseCase {
    /// The class of malformed input, as the page shows it.
    pub(super) class: &'static str,
    pub(super) rfc: &'static str,
    /// The request method.
    pub(super) method: &'static str,
    pub(super) bytes: Cow<'static, [u8]>,
    /// What the backend does after sending.
    ending: Ending,
    pub(super) expected: Expected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Keeps the connection open and waits, so that the proxy could reuse it.
    Hang,
    Close,
}

/// What the client gets. In every case its connection stays in sync or is closed,
/// and the backend connection is not reused.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected {
    /// 502, with this code in the body.
    BadGateway(&'static str),
    /// This status and this body. The bytes after it are never a response.
    Forwarded(u16, &'static str),
    /// The partial body, then a reset, so that the client sees the truncation.
    Truncated,
}

pub(super) fn all() -> Vec<ResponseCase> {
    use Ending::{Close, Hang};
    use Expected::{BadGateway, Forwarded, Truncated};

    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let case = |class, rfc, method, text: &str, ending, expected| ResponseCase {
        class,
        rfc,
        method,
        bytes: text.as_bytes().to_vec().into(),
        ending,
        expected,
    };
    let mut list: Vec<ResponseCase> = [
        ("not HTTP", "9112 §4", "garbage\r\n\r\n"),
        (
            "empty line before the status line",
            "9112 §2.2",
            "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        ("bare LF everywhere", "9112 §2.2", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        ("unknown HTTP version", "9112 §2.3", "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("status below 100", "9110 §15", "HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n"),
        ("status above 599", "9110 §15", "HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n"),
        ("status of four digits", "9112 §4", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
        ("no space after the status", "9112 §4", "HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "Content-Length and Transfer-Encoding",
            "9112 §6.1",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "two Content-Lengths, different values",
            "9112 §6.3",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        ),
        (
            "Content-Length that is not a number",
            "9110 §8.6",
            "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello",
        ),
        ("negative Content-Length", "9110 §8.6", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        (
            "transfer coding other than chunked",
            "9112 §6.1",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "chunked in HTTP/1.0",
            "9112 §6.1",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("chunked 204", "9112 §6.1", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("folded header", "9112 §5.2", "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n"),
        ("NUL in a header value", "9110 §5.5", "HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 0\r\n\r\n"),
        ("bare CR in a header value", "9112 §2.2", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"),
    ]
    .into_iter()
    .flat_map(|(class, rfc, text)| {
        [Hang, Close]
            .map(|ending| case(class, rfc, "GET", text, ending, BadGateway("response_head_malformed")))
    })
    .collect();
    let flood = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "v".repeat(40_000));
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(120));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
    let ok = "HTTP/1.1 200 OK\r\nX-Backend: a\r\n";
    list.extend([
        case(
            "response head of 40,000 bytes",
            "9110 §5.4",
            "GET",
            &flood,
            Hang,
            BadGateway("response_head_too_large"),
        ),
        case("120 headers", "9110 §5.4", "GET", &fields, Hang, BadGateway("response_head_too_large")),
        case(
            "space before the colon: removed",
            "9112 §5.1",
            "GET",
            "HTTP/1.1 200 OK\r\nX-Backend : a\r\nContent-Length : 2\r\n\r\nok",
            Close,
            Forwarded(200, "ok"),
        ),
        case(
            "status line without a reason",
            "9112 §4",
            "GET",
            "HTTP/1.1 200\r\nX-Backend: a\r\nContent-Length: 2\r\n\r\nok",
            Close,
            Forwarded(200, "ok"),
        ),
        case(
            "endless interim responses",
            "9110 §15.2",
            "GET",
            &interim,
            Hang,
            BadGateway("too_many_interim"),
        ),
        case(
            "101 without an upgrade request",
            "9110 §7.8",
            "GET",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            Hang,
            BadGateway("unasked_upgrade"),
        ),
        case("closed without a response", "9112 §8", "POST", "", Close, BadGateway("backend_closed")),
        case(
            "closed in the middle of the response head",
            "9112 §8",
            "GET",
            "HTTP/1.1 200 OK\r\nX-App: ",
            Close,
            BadGateway("response_truncated"),
        ),
        case(
            "closed after an interim response",
            "9112 §8",
            "GET",
            "HTTP/1.1 103 Hints\r\n\r\n",
            Close,
            BadGateway("response_truncated"),
        ),
        case(
            "body shorter than Content-Length",
            "9112 §8",
            "GET",
            &format!("{ok}Content-Length: 10\r\n\r\nhello"),
            Close,
            Truncated,
        ),
        case(
            "missing last chunk",
            "9112 §8",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
            Close,
            Truncated,
        ),
        case(
            "missing empty line after the last chunk",
            "9112 §7.1",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
            Close,
            Truncated,
        ),
        case(
            "invalid chunk size",
            "9112 §7.1",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n"),
            Hang,
            Truncated,
        ),
        case(
            "bare LF in the chunks",
            "9112 §7.1",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n"),
            Hang,
            Truncated,
        ),
        case(
            "trailer without a colon",
            "9112 §7.1.2",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nno trailer\r\n\r\n"),
            Hang,
            Truncated,
        ),
        case(
            "body on a 204",
            "9112 §6.3",
            "GET",
            &format!(
                "HTTP/1.1 204 No Content\r\nX-Backend: a\r\nContent-Length: {}\r\n\r\n{EVIL}",
                EVIL.len()
            ),
            Hang,
            Forwarded(204, ""),
        ),
        case(
            "body on a 304",
            "9112 §6.3",
            "GET",
            &format!(
                "HTTP/1.1 304 Not Modified\r\nX-Backend: a\r\nContent-Length: {}\r\n\r\n{EVIL}",
                EVIL.len()
            ),
            Hang,
            Forwarded(304, ""),
        ),
        case(
            "body on a response to HEAD",
            "9112 §6.3",
            "HEAD",
            &format!("{ok}Content-Length: {}\r\n\r\n{EVIL}", EVIL.len()),
            Hang,
            Forwarded(200, ""),
        ),
        case(
            "second response after Content-Length bytes",
            "9112 §6.3",
            "GET",
            &format!("{ok}Content-Length: 2\r\n\r\nok{EVIL}"),
            Hang,
            Forwarded(200, "ok"),
        ),
        case(
            "second response after the last chunk",
            "9112 §7.1",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{EVIL}"),
            Hang,
            Forwarded(200, "ok"),
        ),
    ]);
    list
}

#[tokio::test]
async fn malformed_response_is_a_502_or_truncated_and_the_client_stays_in_sync() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    for ResponseCase { class, method, bytes, ending, expected, .. } in all() {
        a.set(Script::raw_then(&bytes, if ending == Ending::Close { Step::Close } else { Step::Hang }));
        let mut raw = proxy.raw().await;
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        raw.send(format!("{method} / HTTP/1.1\r\nHost: t\r\n{length}\r\n")).await;
        let mut open = true;
        match expected {
            Expected::BadGateway(code) => {
                let reply = raw.response().await;
                assert_eq!(reply.status, 502, "{class}");
                reply.assert_own(502, code);
                open = reply.field("connection") != Some("close");
            }
            Expected::Forwarded(status, body) => {
                let reply = raw.response_to(method).await;
                assert_eq!((reply.status, reply.text().as_str()), (status, body), "{class}");
                assert_eq!(reply.backend(), "a", "{class}");
            }
            Expected::Truncated => {
                // If the error is known before the head is sent, a 502 is allowed too.
                let reply = raw.head().await;
                if reply.status == 502 {
                    let length = reply.field("content-length").and_then(|length| length.parse().ok());
                    raw.exactly(length.expect("a 502 should have Content-Length")).await;
                } else {
                    assert_eq!(reply.backend(), "a", "{class}");
                    raw.assert_broken().await;
                    open = false;
                }
            }
        }
        eventually(format!("{class}: the backend connection is closed"), async || a.open() == 0).await;
        a.set(Script::reply());
        // The next response belongs to the next request, here and on a new connection.
        let mut next = if open { raw } else { proxy.raw().await };
        for _ in 0..2 {
            assert_eq!(next.get("/", &[]).await.text(), "hello from a\n", "after {class}");
        }
    }
}
