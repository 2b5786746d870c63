//! Malformed HTTP/2 messages and their answers.

use crate::harness::frame_client::block;
use crate::harness::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, frame};

/// Frames that a client sends after its preface, and the expected answer.
pub(super) struct Case {
    /// The class of malformed input, as the page shows it.
    pub(super) class: &'static str,
    pub(super) rfc: &'static str,
    /// The frames, as the page shows them.
    pub(super) shown: String,
    pub(super) bytes: Vec<u8>,
    pub(super) answer: Answer,
}

/// The answer to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The stream is reset; the connection stays open.
    Reset(Code),
    /// The connection is closed.
    GoAway(Code),
    /// A response; the connection stays open.
    Status(u16),
    /// The request reaches the backend.
    Forwarded,
}

/// Error codes (RFC 9113 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Protocol,
    FlowControl,
    FrameSize,
    Calm,
}

impl Code {
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::FlowControl => 3,
            Self::FrameSize => 6,
            Self::Calm => 11,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Protocol => "PROTOCOL_ERROR",
            Self::FlowControl => "FLOW_CONTROL_ERROR",
            Self::FrameSize => "FRAME_SIZE_ERROR",
            Self::Calm => "ENHANCE_YOUR_CALM",
        }
    }
}

pub(super) type Field<'a> = (&'a str, &'a str);

pub(super) const GET: [Field<'static>; 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/")];
pub(super) const POST: [Field<'static>; 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "t"), (":path", "/")];

pub(super) fn encoded(fields: &[Field<'_>]) -> Vec<u8> {
    let bytes: Vec<(Vec<u8>, Vec<u8>)> =
        fields.iter().map(|(name, value)| (latin1(name), latin1(value))).collect();
    block(&bytes.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect::<Vec<_>>())
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).expect("cases should use only Latin-1 characters"))
        .collect()
}

/// A valid request.
pub(super) fn good(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &encoded(&GET))
}

fn line(fields: &[Field<'_>]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    fields.join("\n")
}

/// A request without a body, on stream 1.
fn head(class: &'static str, rfc: &'static str, fields: &[Field<'_>], answer: Answer) -> Case {
    let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &encoded(fields));
    Case { class, rfc, shown: line(fields), bytes, answer }
}

/// A GET with one more header.
fn with(class: &'static str, rfc: &'static str, field: Field<'_>, answer: Answer) -> Case {
    let fields = [&GET[..], &[field]].concat();
    Case { shown: line(&[field]), ..head(class, rfc, &fields, answer) }
}

/// A GET with this `:path`.
fn path(class: &'static str, rfc: &'static str, path: &str, answer: Answer) -> Case {
    let fields = [GET[0], GET[1], GET[2], (":path", path)];
    Case { shown: line(&fields[3..]), ..head(class, rfc, &fields, answer) }
}

/// A POST with this header and this body.
fn body(class: &'static str, rfc: &'static str, field: Field<'_>, data: &str, answer: Answer) -> Case {
    let fields = [&POST[..], &[field]].concat();
    let head = frame(HEADERS, END_HEADERS, 1, &encoded(&fields));
    let bytes = [head, frame(DATA, END_STREAM, 1, data.as_bytes())].concat();
    Case { class, rfc, shown: format!("{}, DATA {data}", line(&[field])), bytes, answer }
}

pub(super) fn frames(
    class: &'static str,
    rfc: &'static str,
    shown: &str,
    frames: &[Vec<u8>],
    answer: Answer,
) -> Case {
    Case { class, rfc, shown: shown.to_owned(), bytes: frames.concat(), answer }
}

pub(super) fn heads() -> Vec<Case> {
    use Answer::{Forwarded, GoAway, Reset, Status};
    let malformed = Reset(Code::Protocol);
    // `h2` closes the connection for these, which RFC 9113 §5.4.1 allows.
    let closes = GoAway(Code::Protocol);
    let [method, scheme, authority, root] = GET;
    vec![
        head(
            "pseudo-header after a header",
            "9113 §8.3",
            &[method, scheme, authority, ("x", "y"), root],
            malformed,
        ),
        head("two `:path`", "9113 §8.3.1", &[method, scheme, authority, root, root], malformed),
        head("two `:method`", "9113 §8.3.1", &[method, method, scheme, authority, root], malformed),
        head("two `:authority`", "9113 §8.3.1", &[method, scheme, authority, authority, root], malformed),
        head("unknown pseudo-header", "9113 §8.3", &[method, scheme, authority, root, (":x", "y")], closes),
        head(
            "response pseudo-header",
            "9113 §8.3",
            &[method, scheme, authority, root, (":status", "200")],
            malformed,
        ),
        head("missing `:method`", "9113 §8.3.1", &[scheme, authority, root], malformed),
        head("missing `:scheme`", "9113 §8.3.1", &[method, authority, root], malformed),
        head("missing `:path`", "9113 §8.3.1", &[method, scheme, authority], malformed),
        head("invalid method", "9110 §9.1", &[(":method", "G T"), scheme, authority, root], closes),
        with("uppercase header name", "9113 §8.2.1", ("X-Upper", "y"), closes),
        with("header name with a space", "9113 §8.2.1", ("x y", "z"), closes),
        with("header name with a colon", "9113 §8.2.1", ("x:y", "z"), closes),
        with("empty header name", "9113 §8.2.1", ("", "z"), closes),
        with("CR in a header value", "9113 §8.2.1", ("x", "a\rb"), closes),
        with("LF in a header value", "9113 §8.2.1", ("x", "a\nb"), closes),
        with(
            "request in a header value",
            "9113 §8.2.1",
            ("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n"),
            closes,
        ),
        with("NUL in a header value", "9113 §8.2.1", ("x", "a\0b"), closes),
        with("space before a header value", "9113 §8.2.1", ("x", " y"), malformed),
        with("space after a header value", "9113 §8.2.1", ("x", "y "), malformed),
        with("Connection header", "9113 §8.2.2", ("connection", "close"), malformed),
        with("Keep-Alive header", "9113 §8.2.2", ("keep-alive", "timeout=5"), malformed),
        with("Proxy-Connection header", "9113 §8.2.2", ("proxy-connection", "keep-alive"), malformed),
        with("Transfer-Encoding header", "9113 §8.2.2", ("transfer-encoding", "chunked"), malformed),
        with("Upgrade header", "9113 §8.2.2", ("upgrade", "websocket"), malformed),
        with("TE other than trailers", "9113 §8.2.2", ("te", "gzip"), malformed),
        with("TE: trailers", "9113 §8.2.2", ("te", "trailers"), Forwarded),
        path("empty `:path`", "9113 §8.3.1", "", malformed),
        path("relative `:path`", "9113 §8.3.1", "x", malformed),
        path("absolute URL in `:path`", "9113 §8.3.1", "http://t/", malformed),
        path("asterisk `:path` with a method other than OPTIONS", "9113 §8.3.1", "*", Status(400)),
        path("fragment in `:path`", "9113 §8.3.1", "/#x", malformed),
        path("fragment in `:path`, after a query", "9113 §8.3.1", "/?x#y", malformed),
        path("backslash in `:path`", "3986 §2", "/a\\b", Status(400)),
        path("backslash, braces and the like in the query", "3986 §3.4", "/?\\{}|^`\u{c3}\u{a9}", Forwarded),
        path("`\"` in the query", "3986 §3.4", "/?\"", malformed),
        path("`<` in the query", "3986 §3.4", "/?<", malformed),
        path("space in `:path`", "9113 §8.3.1", "/a b", malformed),
        path("request in `:path`", "9113 §8.3.1", "/ HTTP/1.1\r\nHost: t\r\n\r\nGET /smuggled", malformed),
        path("non-ASCII byte in `:path`", "3986 §2", "/\u{e9}", closes),
        with("Host differs from `:authority`", "9113 §8.3.1", ("host", "u"), Status(400)),
        with("Host equals `:authority`", "9113 §8.3.1", ("host", "t"), Forwarded),
        head("neither `:authority` nor Host", "9113 §8.3.1", &[method, scheme, root], Status(400)),
        head(
            "userinfo in `:authority`",
            "9113 §8.3.1",
            &[method, scheme, (":authority", "user@t"), root],
            Status(400),
        ),
        head(
            "list in `:authority`",
            "9110 §7.2",
            &[method, scheme, (":authority", "a,b"), root],
            Status(400),
        ),
        head(
            "two Hosts, no `:authority`",
            "9110 §7.2",
            &[method, scheme, root, ("host", "a"), ("host", "b")],
            Status(400),
        ),
        head("CONNECT", "9113 §8.5", &[(":method", "CONNECT"), (":authority", "t:443")], Status(501)),
        head(
            "CONNECT with a protocol other than WebSocket",
            "8441 §4",
            &[(":method", "CONNECT"), (":protocol", "x"), scheme, authority, root],
            Status(501),
        ),
    ]
}

pub(super) fn bodies() -> Vec<Case> {
    use Answer::{Forwarded, GoAway, Reset, Status};
    let malformed = Reset(Code::Protocol);
    let open = frame(HEADERS, END_HEADERS, 1, &encoded(&POST));
    let trailers = |fields: &[Field<'_>]| {
        let last = frame(HEADERS, END_HEADERS | END_STREAM, 1, &encoded(fields));
        [open.clone(), frame(DATA, 0, 1, b"x"), last]
    };
    let [_, scheme, authority, root] = GET;
    let trace = encoded(&[(":method", "TRACE"), scheme, authority, root]);
    vec![
        body("body shorter than Content-Length", "9113 §8.1.1", ("content-length", "5"), "hel", malformed),
        body("body longer than Content-Length", "9113 §8.1.1", ("content-length", "5"), "hello!!", malformed),
        with("Content-Length without a body", "9113 §8.1.1", ("content-length", "5"), malformed),
        body("body equal to Content-Length", "9113 §8.1.1", ("content-length", "5"), "hello", Forwarded),
        body("Content-Length with a plus sign", "9110 §8.6", ("content-length", "+5"), "hello", malformed),
        body("Content-Length list", "9110 §8.6", ("content-length", "5, 5"), "hello", malformed),
        frames(
            "two Content-Lengths, same value",
            "9110 §8.6",
            "content-length: 5, content-length: 5, DATA hello",
            &[
                frame(
                    HEADERS,
                    END_HEADERS,
                    1,
                    &encoded(&[&POST[..], &[("content-length", "5"); 2]].concat()),
                ),
                frame(DATA, END_STREAM, 1, b"hello"),
            ],
            Status(400),
        ),
        frames("pseudo-header in trailers", "9113 §8.1", "trailers :path: /", &trailers(&[root]), malformed),
        frames(
            "response pseudo-header in trailers",
            "9113 §8.1",
            "trailers :status: 200",
            &trailers(&[(":status", "200")]),
            malformed,
        ),
        frames(
            "uppercase trailer name",
            "9113 §8.2.1",
            "trailers X: y",
            &trailers(&[("X", "y")]),
            GoAway(Code::Protocol),
        ),
        frames(
            "LF in a trailer value",
            "9113 §8.2.1",
            "trailers x: a\nb",
            &trailers(&[("x", "a\nb")]),
            GoAway(Code::Protocol),
        ),
        frames(
            "trailers without END_STREAM",
            "9113 §8.1",
            "HEADERS, DATA, HEADERS without END_STREAM",
            &[open.clone(), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS, 1, &encoded(&[("x", "y")]))],
            malformed,
        ),
        frames(
            "TRACE with a body",
            "9110 §9.3.8",
            "TRACE, DATA x",
            &[frame(HEADERS, END_HEADERS, 1, &trace), frame(DATA, END_STREAM, 1, b"x")],
            Status(400),
        ),
    ]
}
