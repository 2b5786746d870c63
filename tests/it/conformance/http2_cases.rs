//! Messages in HTTP/2 that are malformed, and what is answered.

use crate::harness::frame_client::block;
use crate::harness::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, frame};

/// What a client sends behind its preface, and what it is told.
pub(super) struct Case {
    /// What is wrong with it.
    pub(super) class: &'static str,
    pub(super) rfc: &'static str,
    /// The frames, as they are shown.
    pub(super) shown: String,
    pub(super) bytes: Vec<u8>,
    pub(super) answer: Answer,
}

/// What the client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The stream is reset; the connection goes on.
    Reset(Code),
    /// The connection ends.
    GoAway(Code),
    /// A response; the connection goes on.
    Status(u16),
    /// It reaches the backend.
    Passed,
    /// It reaches the backend without what is wrong with it, of which the crate
    /// that does the frames tells nobody.
    PassedWithoutIt,
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
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin 1")).collect()
}

/// A request that is right.
pub(super) fn good(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &encoded(&GET))
}

fn line(fields: &[Field<'_>]) -> String {
    let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    fields.join("\n")
}

/// A head by itself, on stream 1.
fn head(class: &'static str, rfc: &'static str, fields: &[Field<'_>], answer: Answer) -> Case {
    let bytes = frame(HEADERS, END_HEADERS | END_STREAM, 1, &encoded(fields));
    Case { class, rfc, shown: line(fields), bytes, answer }
}

/// A head with one more field.
fn with(class: &'static str, rfc: &'static str, field: Field<'_>, answer: Answer) -> Case {
    let fields = [&GET[..], &[field]].concat();
    Case { shown: line(&[field]), ..head(class, rfc, &fields, answer) }
}

/// A request with this path.
fn path(class: &'static str, rfc: &'static str, path: &str, answer: Answer) -> Case {
    let fields = [GET[0], GET[1], GET[2], (":path", path)];
    Case { shown: line(&fields[3..]), ..head(class, rfc, &fields, answer) }
}

/// A head with this field, data and the end of the stream.
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
    use Answer::{GoAway, Passed, PassedWithoutIt, Reset, Status};
    let malformed = Reset(Code::Protocol);
    // The crate that does the frames ends the connection over these; it may (§5.4.1).
    let ends = GoAway(Code::Protocol);
    let [method, scheme, authority, root] = GET;
    vec![
        head(
            "a pseudo-header behind a field",
            "9113 §8.3",
            &[method, scheme, authority, ("x", "y"), root],
            malformed,
        ),
        head("two paths", "9113 §8.3.1", &[method, scheme, authority, root, root], malformed),
        head("two methods", "9113 §8.3.1", &[method, method, scheme, authority, root], malformed),
        head("two authorities", "9113 §8.3.1", &[method, scheme, authority, authority, root], malformed),
        head("an unknown pseudo-header", "9113 §8.3", &[method, scheme, authority, root, (":x", "y")], ends),
        head(
            "a pseudo-header of responses",
            "9113 §8.3",
            &[method, scheme, authority, root, (":status", "200")],
            malformed,
        ),
        head("no method", "9113 §8.3.1", &[scheme, authority, root], malformed),
        head("no scheme", "9113 §8.3.1", &[method, authority, root], malformed),
        head("no path", "9113 §8.3.1", &[method, scheme, authority], malformed),
        head("a method that is no token", "9110 §9.1", &[(":method", "G T"), scheme, authority, root], ends),
        with("a name in capitals", "9113 §8.2.1", ("X-Upper", "y"), ends),
        with("a name with a space", "9113 §8.2.1", ("x y", "z"), ends),
        with("a name with a colon", "9113 §8.2.1", ("x:y", "z"), ends),
        with("an empty name", "9113 §8.2.1", ("", "z"), ends),
        with("CR in a value", "9113 §8.2.1", ("x", "a\rb"), ends),
        with("LF in a value", "9113 §8.2.1", ("x", "a\nb"), ends),
        with(
            "a request in a value",
            "9113 §8.2.1",
            ("x", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: t\r\n\r\n"),
            ends,
        ),
        with("NUL in a value", "9113 §8.2.1", ("x", "a\0b"), ends),
        with("space before a value", "9113 §8.2.1", ("x", " y"), malformed),
        with("space behind a value", "9113 §8.2.1", ("x", "y "), malformed),
        with("connection", "9113 §8.2.2", ("connection", "close"), malformed),
        with("keep-alive", "9113 §8.2.2", ("keep-alive", "timeout=5"), malformed),
        with("proxy-connection", "9113 §8.2.2", ("proxy-connection", "keep-alive"), malformed),
        with("transfer-encoding", "9113 §8.2.2", ("transfer-encoding", "chunked"), malformed),
        with("upgrade", "9113 §8.2.2", ("upgrade", "websocket"), malformed),
        with("te with anything but trailers", "9113 §8.2.2", ("te", "gzip"), malformed),
        with("te: trailers", "9113 §8.2.2", ("te", "trailers"), Passed),
        path("an empty path", "9113 §8.3.1", "", malformed),
        path("a relative path", "9113 §8.3.1", "x", malformed),
        path("an absolute URL for a path", "9113 §8.3.1", "http://t/", malformed),
        path("an asterisk of another method", "9113 §8.3.1", "*", Status(400)),
        path("a fragment", "9113 §8.3.1", "/#x", PassedWithoutIt),
        path("a backslash", "3986 §2", "/a\\b", Status(400)),
        path("a space in the path", "9113 §8.3.1", "/a b", malformed),
        path("a request in the path", "9113 §8.3.1", "/ HTTP/1.1\r\nHost: t\r\n\r\nGET /smuggled", malformed),
        path("a path beyond ASCII", "3986 §2", "/\u{e9}", ends),
        with("a host that is another than the authority", "9113 §8.3.1", ("host", "u"), Status(400)),
        with("a host that is the authority", "9113 §8.3.1", ("host", "t"), Passed),
        head("neither authority nor host", "9113 §8.3.1", &[method, scheme, root], Status(400)),
        head(
            "userinfo in the authority",
            "9113 §8.3.1",
            &[method, scheme, (":authority", "user@t"), root],
            Status(400),
        ),
        head(
            "a list of authorities",
            "9110 §7.2",
            &[method, scheme, (":authority", "a,b"), root],
            Status(400),
        ),
        head("two hosts", "9110 §7.2", &[method, scheme, root, ("host", "a"), ("host", "b")], Status(400)),
        head("CONNECT", "9113 §8.5", &[(":method", "CONNECT"), (":authority", "t:443")], Status(501)),
        head(
            "CONNECT to another protocol than WebSocket",
            "8441 §4",
            &[(":method", "CONNECT"), (":protocol", "x"), scheme, authority, root],
            Status(501),
        ),
    ]
}

pub(super) fn bodies() -> Vec<Case> {
    use Answer::{GoAway, Passed, PassedWithoutIt, Reset, Status};
    let malformed = Reset(Code::Protocol);
    let open = frame(HEADERS, END_HEADERS, 1, &encoded(&POST));
    let trailers = |fields: &[Field<'_>]| {
        let last = frame(HEADERS, END_HEADERS | END_STREAM, 1, &encoded(fields));
        [open.clone(), frame(DATA, 0, 1, b"x"), last]
    };
    let [_, scheme, authority, root] = GET;
    let trace = encoded(&[(":method", "TRACE"), scheme, authority, root]);
    vec![
        body("less data than content-length", "9113 §8.1.1", ("content-length", "5"), "hel", malformed),
        body("more data than content-length", "9113 §8.1.1", ("content-length", "5"), "hello!!", malformed),
        with("content-length without data", "9113 §8.1.1", ("content-length", "5"), malformed),
        body("as much data as content-length", "9113 §8.1.1", ("content-length", "5"), "hello", Passed),
        body("a signed content-length", "9110 §8.6", ("content-length", "+5"), "hello", malformed),
        body("a list of content-lengths", "9110 §8.6", ("content-length", "5, 5"), "hello", malformed),
        frames(
            "content-length twice",
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
        frames(
            "a pseudo-header in trailers",
            "9113 §8.1",
            "trailers :path: /",
            &trailers(&[root]),
            PassedWithoutIt,
        ),
        frames(
            "a name in capitals in trailers",
            "9113 §8.2.1",
            "trailers X: y",
            &trailers(&[("X", "y")]),
            GoAway(Code::Protocol),
        ),
        frames(
            "LF in a trailer",
            "9113 §8.2.1",
            "trailers x: a\nb",
            &trailers(&[("x", "a\nb")]),
            GoAway(Code::Protocol),
        ),
        frames(
            "trailers that do not end the stream",
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
