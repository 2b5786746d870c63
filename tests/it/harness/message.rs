//! HTTP/1.1 heads and bodies, parsed independently of the code under test.

use std::fmt;

/// Field lines in order, with lowercase names.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) Vec<(String, String)>);

impl Fields {
    /// Returns the value of the only line with this name.
    ///
    /// # Panics
    /// If there are several such lines.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.all(name).into_iter();
        let first = values.next();
        assert!(values.next().is_none(), "several lines of {name}: {self:?}");
        first
    }

    /// Returns the values of all lines with this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(n, _)| n.as_str()).collect()
    }

    /// Parses field lines, each ended by CRLF.
    pub(super) fn parse(lines: &str) -> Self {
        let line = |line: &str| {
            let (name, value) =
                line.split_once(':').unwrap_or_else(|| panic!("invalid field line: {line:?}"));
            assert_eq!(name.trim(), name, "whitespace around a field name: {line:?}");
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self(lines.split("\r\n").filter(|l| !l.is_empty()).map(line).collect())
    }

    fn length(&self) -> Option<usize> {
        self.get("content-length").map(|v| v.parse().expect("a content-length"))
    }

    fn chunked(&self) -> bool {
        self.get("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(n, v)| (n, v))).finish()
    }
}

/// A complete response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// The interim responses that preceded it.
    pub(crate) interim: Vec<Self>,
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// Returns the name of the backend that responded.
    ///
    /// # Panics
    /// If Homing itself responded.
    #[track_caller]
    pub(crate) fn backend(&self) -> &str {
        match self.field("x-backend") {
            Some(backend) => backend,
            None => panic!("not a backend's response: {} {:?} {}", self.status, self.fields, self.text()),
        }
    }

    /// Returns the body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the affinity outcome and its reason; empty if they are not reported.
    pub(crate) fn outcome(&self) -> String {
        self.field("x-affinity-outcome").map(str::to_owned).unwrap_or_default()
    }

    /// Asserts that this is a 200 from `backend`.
    #[track_caller]
    pub(crate) fn assert_from(&self, backend: &str) {
        assert_eq!((self.status, self.field("x-backend")), (200, Some(backend)));
    }

    /// Asserts that Homing itself responded with this status, and that the body contains `code`.
    #[track_caller]
    pub(crate) fn assert_own(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{:?} {}", self.fields, self.text());
        assert!(!self.fields.has("x-backend"), "a backend responded");
        assert!(self.text().contains(code), "no {code} in {}", self.text());
    }

    /// Parses a response head, including the empty line at its end.
    pub(super) fn parse(head: &[u8]) -> Self {
        let text: String = head.iter().map(|b| char::from(*b)).collect();
        let (line, rest) = text.split_once("\r\n").unwrap_or_else(|| panic!("invalid status line: {text:?}"));
        let mut words = line.splitn(3, ' ');
        let version = words.next();
        let status = words.next().and_then(|w| w.parse().ok());
        let status = status.unwrap_or_else(|| panic!("invalid status line: {line:?}"));
        assert!(version == Some("HTTP/1.1") && words.next().is_some(), "invalid status line: {line:?}");
        Self::of(status, Fields::parse(rest))
    }

    /// Returns a response without a body.
    pub(super) fn of(status: u16, fields: Fields) -> Self {
        assert_expected(&fields, status);
        Self { status, fields, body: Vec::new(), trailers: Fields::default(), interim: Vec::new() }
    }
}

/// Splits a head off the received bytes, including the empty line at its end; `None` if it is
/// incomplete.
pub(super) fn split_head(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let at = received.windows(4).position(|w| w == b"\r\n\r\n")?;
    let rest = received.split_off(at + 4);
    Some(std::mem::replace(received, rest))
}

/// Splits a line off the received bytes and returns it without CRLF; `None` if it is incomplete.
pub(super) fn split_line(received: &mut Vec<u8>) -> Option<String> {
    let at = received.windows(2).position(|w| w == b"\r\n")?;
    let line = String::from_utf8_lossy(&received[..at]).into_owned();
    received.drain(..at + 2);
    Some(line)
}

/// Parses the line with the size of a chunk. Extensions are invalid.
pub(super) fn chunk_size(line: &str) -> usize {
    usize::from_str_radix(line, 16).unwrap_or_else(|_| panic!("invalid chunk size: {line:?}"))
}

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Length(usize),
    Chunked,
    Close,
}

impl End {
    pub(super) fn of_request(fields: &Fields) -> Self {
        if fields.chunked() { Self::Chunked } else { Self::Length(fields.length().unwrap_or(0)) }
    }

    pub(super) fn of_response(method: &str, status: u16, fields: &Fields) -> Self {
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            Self::Length(0)
        } else if fields.chunked() {
            assert!(!fields.has("content-length"), "both Content-Length and Transfer-Encoding: {fields:?}");
            Self::Chunked
        } else {
            fields.length().map_or(Self::Close, Self::Length)
        }
    }
}

/// Fields that a client may see, set by these tests' backends or by Homing. Any other field is a
/// leak.
const EXPECTED: &[&str] = &[
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "etag",
    "expires",
    "link",
    "location",
    "retry-after",
    "sec-websocket-accept",
    "server",
    "set-cookie",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "www-authenticate",
    "x",
    "cdn-cache-control",
    "x-accel-expires",
    "x-affinity-outcome",
    "x-app",
    "alt-svc",
    "x-backend",
    "x-content-type-options",
    "x-number",
    "x-seen",
    "x-session",
    "x-session-state",
    "x-unusual",
    "allow",
];

fn assert_expected(fields: &Fields, status: u16) {
    for name in fields.names() {
        assert!(EXPECTED.contains(&name), "{name} leaked to the client: {fields:?}");
    }
    if fields.has("upgrade") {
        assert!(matches!(status, 101 | 426), "Upgrade outside a 101 or 426: {fields:?}");
    }
    if let Some(connection) = fields.get("connection") {
        assert!(["close", "keep-alive", "upgrade", "upgrade, close"].contains(&connection), "{fields:?}");
    }
}
