//! What backends say.

use std::borrow::Cow;

use crate::harness::{Backend, Proxy, Script, Step, eventually};

/// What a backend says, and what the client is told.
pub(super) struct Said {
    /// What is wrong with it.
    pub(super) class: &'static str,
    pub(super) rfc: &'static str,
    /// The method that it answers.
    pub(super) method: &'static str,
    pub(super) bytes: Cow<'static, [u8]>,
    /// What the backend does then.
    last: Last,
    pub(super) told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    /// It waits for more: the connection is there to be used again.
    Hang,
    Close,
}

/// What the client is told. In any case its own connection is in step, or is
/// closed, and the backend's is not used again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    /// 502, with this word in the body.
    BadGateway(&'static str),
    /// This status and this body: what is behind it is nobody's response.
    Passed(u16, &'static str),
    /// What came of the body, and the connection breaks off: it does not look whole.
    BrokenOff,
}

pub(super) fn all() -> Vec<Said> {
    use Last::{Close, Hang};
    use Told::{BadGateway, BrokenOff, Passed};

    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let said = |class, rfc, method, text: &str, last, told| Said {
        class,
        rfc,
        method,
        bytes: text.as_bytes().to_vec().into(),
        last,
        told,
    };
    let mut list: Vec<Said> = [
        ("garbage", "9112 §4", "garbage\r\n\r\n"),
        ("an empty line before it", "9112 §2.2", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("bare LF", "9112 §2.2", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        ("an unknown version", "9112 §2.3", "HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a status below 100", "9110 §15", "HTTP/1.1 99 X\r\nContent-Length: 0\r\n\r\n"),
        ("a status above 599", "9110 §15", "HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n"),
        ("a status of four digits", "9112 §4", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
        ("no space behind the status", "9112 §4", "HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n"),
        (
            "Content-Length and Transfer-Encoding",
            "9112 §6.1",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "lengths that differ",
            "9112 §6.3",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        ),
        ("a length in words", "9110 §8.6", "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\nhello"),
        ("a negative length", "9110 §8.6", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        (
            "another coding than chunked",
            "9112 §6.1",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        ),
        ("chunks in HTTP/1.0", "9112 §6.1", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("chunks on 204", "9112 §6.1", "HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a folded line", "9112 §5.2", "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n"),
        ("space before the colon", "9112 §5.1", "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n"),
        ("NUL in a value", "9110 §5.5", "HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 0\r\n\r\n"),
        ("bare CR in a value", "9112 §2.2", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"),
    ]
    .into_iter()
    .flat_map(|(class, rfc, text)| {
        [Hang, Close].map(|last| said(class, rfc, "GET", text, last, BadGateway("response_head_malformed")))
    })
    .collect();
    let flood = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "v".repeat(20_000));
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(120));
    let interim = "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000);
    let ok = "HTTP/1.1 200 OK\r\nX-Backend: a\r\n";
    list.extend([
        said(
            "a head of 20,000 bytes",
            "9110 §5.4",
            "GET",
            &flood,
            Hang,
            BadGateway("response_head_malformed"),
        ),
        said("120 fields", "9110 §5.4", "GET", &fields, Hang, BadGateway("response_head_malformed")),
        said(
            "interim responses without end",
            "9110 §15.2",
            "GET",
            &interim,
            Hang,
            BadGateway("too_many_interim"),
        ),
        said(
            "101 that nobody asked for",
            "9110 §7.8",
            "GET",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            Hang,
            BadGateway("unasked_upgrade"),
        ),
        said("nothing", "9112 §8", "POST", "", Close, BadGateway("backend_closed")),
        said(
            "the end within the head",
            "9112 §8",
            "GET",
            "HTTP/1.1 200 OK\r\nX-App: ",
            Close,
            BadGateway("response_truncated"),
        ),
        said(
            "the end behind an interim response",
            "9112 §8",
            "GET",
            "HTTP/1.1 103 Hints\r\n\r\n",
            Close,
            BadGateway("response_truncated"),
        ),
        said(
            "less than the length",
            "9112 §8",
            "GET",
            &format!("{ok}Content-Length: 10\r\n\r\nhello"),
            Close,
            BrokenOff,
        ),
        said(
            "chunks without the last",
            "9112 §8",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
            Close,
            BrokenOff,
        ),
        said(
            "chunks without the empty line",
            "9112 §7.1",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"),
            Close,
            BrokenOff,
        ),
        said(
            "a size that is no number",
            "9112 §7.1",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nZZ\r\n"),
            Hang,
            BrokenOff,
        ),
        said(
            "bare LF in the chunks",
            "9112 §7.1",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n"),
            Hang,
            BrokenOff,
        ),
        said(
            "a trailer without a colon",
            "9112 §7.1.2",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nno trailer\r\n\r\n"),
            Hang,
            BrokenOff,
        ),
        said(
            "a body on 204",
            "9112 §6.3",
            "GET",
            &format!(
                "HTTP/1.1 204 No Content\r\nX-Backend: a\r\nContent-Length: {}\r\n\r\n{EVIL}",
                EVIL.len()
            ),
            Hang,
            Passed(204, ""),
        ),
        said(
            "a body on 304",
            "9112 §6.3",
            "GET",
            &format!(
                "HTTP/1.1 304 Not Modified\r\nX-Backend: a\r\nContent-Length: {}\r\n\r\n{EVIL}",
                EVIL.len()
            ),
            Hang,
            Passed(304, ""),
        ),
        said(
            "a body on a response to HEAD",
            "9112 §6.3",
            "HEAD",
            &format!("{ok}Content-Length: {}\r\n\r\n{EVIL}", EVIL.len()),
            Hang,
            Passed(200, ""),
        ),
        said(
            "another response behind the length",
            "9112 §6.3",
            "GET",
            &format!("{ok}Content-Length: 2\r\n\r\nok{EVIL}"),
            Hang,
            Passed(200, "ok"),
        ),
        said(
            "another response behind the chunks",
            "9112 §7.1",
            "GET",
            &format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{EVIL}"),
            Hang,
            Passed(200, "ok"),
        ),
    ]);
    list
}

#[tokio::test]
async fn malformed_response_is_502_or_breaks_off_and_the_client_stays_in_step() {
    let a = Backend::start("a").await;
    let proxy = Proxy::builder().workers(1).upstream("web", &[&a]).start().await;
    for Said { class, method, bytes, last, told, .. } in all() {
        a.set(Script::raw_then(&bytes, if last == Last::Close { Step::Close } else { Step::Hang }));
        let mut raw = proxy.raw().await;
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        raw.send(format!("{method} / HTTP/1.1\r\nHost: t\r\n{length}\r\n")).await;
        let mut open = true;
        match told {
            Told::BadGateway(code) => {
                let reply = raw.response().await;
                assert_eq!(reply.status, 502, "{class}");
                reply.assert_own(502, code);
                open = reply.field("connection") != Some("close");
            }
            Told::Passed(status, body) => {
                let reply = raw.response_to(method).await;
                assert_eq!((reply.status, reply.text().as_str()), (status, body), "{class}");
                assert_eq!(reply.backend(), "a", "{class}");
            }
            Told::BrokenOff => {
                // If it is wrong from the start, the client may as well be told so.
                let reply = raw.head().await;
                if reply.status == 502 {
                    let length = reply.field("content-length").and_then(|length| length.parse().ok());
                    raw.exactly(length.expect("a whole response")).await;
                } else {
                    assert_eq!(reply.backend(), "a", "{class}");
                    raw.assert_broken().await;
                    open = false;
                }
            }
        }
        eventually(format!("after {class} the connection is not kept"), async || a.open() == 0).await;
        a.set(Script::reply());
        // The next response is the next request's, here and on a new connection.
        let mut next = if open { raw } else { proxy.raw().await };
        for _ in 0..2 {
            assert_eq!(next.get("/", &[]).await.text(), "hello from a\n", "after {class}");
        }
    }
}
