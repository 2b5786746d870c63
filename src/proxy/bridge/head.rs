//! Translates heads from HTTP/2 to HTTP/1.1 text and back.
//!
//! Text written here is validated by the same strict parser as every other request, so no check
//! is made twice. Text that comes out of the pipeline is known to be valid and is only split up.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use crate::h1::{self, Body, BodyLimits, FieldKind, Framing};

/// A malformed message, which must not be forwarded (RFC 9113 §8.1.1).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Writes a request head. With a `websocket_key`, writes an extended CONNECT (RFC 8441) as an
/// upgrade with this key. `body` is whether a body follows; without a Content-Length it is chunked.
///
/// # Errors
/// If the head has something that the parser of the text would not detect.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    request: &Parts,
    body: bool,
    websocket_key: Option<&str>,
) -> Result<(), Malformed> {
    let fields = &request.headers;
    let authority = request.uri.authority().map_or("", |authority| authority.as_str());
    let target = match (&request.method, websocket_key) {
        // A plain CONNECT, which the parser rejects.
        (&Method::CONNECT, None) => authority,
        _ => request.uri.path_and_query().map_or("", |target| target.as_str()),
    };
    let method = if websocket_key.is_some() { "GET" } else { request.method.as_str() };
    h1::write_request_line(out, method, target);
    // If authority and Host differ, write both: the parser rejects two (RFC 9113 §8.3.1).
    let host = fields.get(header::HOST);
    if !authority.is_empty() || host.is_none() {
        h1::write_field(out, "Host", authority.as_bytes());
    }
    let is_same = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(authority.as_bytes());
    for (name, value) in fields {
        let bytes = value.as_bytes();
        if bytes != bytes.trim_ascii() {
            return Err(Malformed("whitespace around a header value"));
        }
        match FieldKind::classify(name.as_str().as_bytes()) {
            FieldKind::Connection
            | FieldKind::TransferEncoding
            | FieldKind::Upgrade
            | FieldKind::KeepAlive
            | FieldKind::ProxyConnection => return Err(Malformed("connection-specific header")),
            FieldKind::Te if bytes != b"trailers" => return Err(Malformed("invalid TE header")),
            FieldKind::Cookie => {}
            FieldKind::Host if is_same(value) && !authority.is_empty() => {}
            _ if websocket_key.is_some() && name == header::SEC_WEBSOCKET_KEY => {}
            _ => h1::write_spelled_field(out, name.as_str(), bytes),
        }
    }
    write_cookies(out, fields);
    if let Some(key) = websocket_key {
        h1::write_field(out, "Connection", b"upgrade");
        h1::write_field(out, "Upgrade", b"websocket");
        h1::write_field(out, "Sec-WebSocket-Key", key.as_bytes());
    } else if body && !fields.contains_key(header::CONTENT_LENGTH) {
        h1::write_field(out, "Transfer-Encoding", b"chunked");
    }
    h1::end_head(out);
    Ok(())
}

/// Joins the cookies into one field. HTTP/2 clients may split them for better compression
/// (RFC 9113 §8.2.3).
fn write_cookies(out: &mut Vec<u8>, fields: &HeaderMap) {
    let mut cookies = fields.get_all(header::COOKIE).iter();
    let Some(first) = cookies.next() else { return };
    out.extend_from_slice(b"Cookie: ");
    out.extend_from_slice(first.as_bytes());
    for more in cookies {
        out.extend_from_slice(b"; ");
        out.extend_from_slice(more.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// A response head, parsed from text.
#[derive(Debug)]
pub(crate) struct ResponseText {
    pub status: StatusCode,
    /// The end-to-end fields.
    pub fields: HeaderMap,
    /// The framing of the body.
    pub framing: Framing,
    /// Sec-WebSocket-Accept, which is not in `fields`.
    pub accept: Option<HeaderValue>,
}

impl ResponseText {
    /// Parses a response head, including the final empty line. `head_only` is whether it responds
    /// to HEAD. `None` if the text is not a valid head.
    pub(crate) fn parse(text: &[u8], head_only: bool) -> Option<Self> {
        let (line, lines) = split_line(text)?;
        let status = StatusCode::from_bytes(line.strip_prefix(b"HTTP/1.1 ")?.get(..3)?).ok()?;
        let (mut fields, mut framing, mut accept) = (HeaderMap::new(), Framing::None, None);
        for field in fields_of(lines) {
            let (name, value) = field?;
            match FieldKind::classify(name) {
                FieldKind::TransferEncoding => framing = Framing::Chunked,
                kind if h1::is_hop_by_hop(kind) => {}
                kind => {
                    if kind == FieldKind::ContentLength {
                        framing = Framing::Length(value.to_str().ok()?.parse().ok()?);
                    }
                    let name = HeaderName::from_bytes(name).ok()?;
                    if name == header::SEC_WEBSOCKET_ACCEPT {
                        accept = Some(value);
                    } else {
                        fields.append(name, value);
                    }
                }
            }
        }
        if head_only || matches!(status.as_u16(), 100..200 | 204 | 304) {
            framing = Framing::None;
        }
        Some(Self { status, fields, framing, accept })
    }
}

/// How a response head delimits its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending<'a> {
    /// An interim (1xx) response, without a body.
    Interim,
    /// The head already delimits the body.
    Given,
    /// No body: adds a Content-Length of 0.
    Empty,
    /// Adds chunked Transfer-Encoding.
    Chunked,
    /// A 101 that opens a WebSocket, with this Sec-WebSocket-Accept.
    Tunnel(&'a str),
}

/// Writes a backend's response head.
///
/// # Errors
/// If the head has something that the parser of the text would not detect.
pub(crate) fn write_response<T>(
    out: &mut Vec<u8>,
    response: &Response<T>,
    ending: Ending<'_>,
) -> Result<(), Malformed> {
    let status = response.status();
    h1::write_status_line(out, status.as_u16(), status.canonical_reason().unwrap_or("").as_bytes());
    for (name, value) in response.headers() {
        let bytes = value.as_bytes();
        if bytes != bytes.trim_ascii() {
            return Err(Malformed("whitespace around a header value"));
        }
        match FieldKind::classify(name.as_str().as_bytes()) {
            FieldKind::ContentLength if matches!(ending, Ending::Interim | Ending::Tunnel(_)) => {}
            FieldKind::TransferEncoding => return Err(Malformed("Transfer-Encoding header")),
            kind if h1::is_hop_by_hop(kind) => return Err(Malformed("connection-specific header")),
            _ => h1::write_spelled_field(out, name.as_str(), bytes),
        }
    }
    match ending {
        Ending::Interim | Ending::Given => {}
        Ending::Empty => h1::write_field(out, "Content-Length", b"0"),
        Ending::Chunked => h1::write_field(out, "Transfer-Encoding", b"chunked"),
        Ending::Tunnel(accept) => {
            h1::write_field(out, "Connection", b"upgrade");
            h1::write_field(out, "Upgrade", b"websocket");
            h1::write_field(out, "Sec-WebSocket-Accept", accept.as_bytes());
        }
    }
    h1::end_head(out);
    Ok(())
}

/// Returns the parser of a body, for an outlet.
pub(crate) fn body(framing: Framing) -> Body {
    Body::new(framing, BodyLimits::default()).with_data_and_trailers()
}

/// Returns the length of the head at the start of `text`, including the final empty line. Bytes
/// before `from` were already searched.
pub(crate) fn find_end(text: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    memchr::memmem::find(&text[from..], b"\r\n\r\n").map(|at| from + at + 4)
}

/// Splits off the first line.
pub(crate) fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', text)?;
    Some((text[..end].strip_suffix(b"\r")?, &text[end + 1..]))
}

/// Returns the names and values of the field lines, up to the empty line. `None` for an invalid
/// line.
pub(crate) fn fields_of(lines: &[u8]) -> impl Iterator<Item = Option<(&[u8], HeaderValue)>> {
    lines.split_inclusive(|&byte| byte == b'\n').take_while(|line| line != b"\r\n").map(|line| {
        let (name, value) = split_field(line)?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    })
}

/// Splits a field line into name and value.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(build: http::request::Builder, body: bool, key: Option<&str>) -> Result<String, Malformed> {
        let (parts, ()) = build.body(()).unwrap().into_parts();
        let mut out = Vec::new();
        write_request(&mut out, &parts, body, key).map(|()| String::from_utf8(out).unwrap())
    }

    fn get(uri: &str) -> http::request::Builder {
        http::Request::get(uri)
    }

    #[test]
    fn cookies_are_joined_and_authority_becomes_host() {
        let request = get("https://a.example/x?y")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("host", "A.example")
            .header("te", "trailers")
            .header("x", "y");
        assert_eq!(
            text(request, false, None).unwrap(),
            "GET /x?y HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nX: y\r\nCookie: a=1; b=2\r\n\r\n"
        );
    }

    #[test]
    fn only_bodies_of_unknown_length_are_chunked() {
        let unknown = text(get("https://a.example/"), true, None).unwrap();
        assert_eq!(unknown, "GET / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n");
        let known = text(get("https://a.example/").header("content-length", "5"), true, None).unwrap();
        assert_eq!(known, "GET / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\n");
    }

    #[test]
    fn host_that_differs_from_authority_is_written_for_the_parser_to_reject() {
        let two = text(get("https://a.example/").header("host", "b.example"), false, None).unwrap();
        assert_eq!(two, "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n");
    }

    #[test]
    fn request_with_connection_headers_or_padded_values_is_malformed() {
        for (name, value) in
            [("connection", "close"), ("te", "gzip"), ("x", " a"), ("x", "a\t"), ("upgrade", "websocket")]
        {
            assert!(text(get("https://a/").header(name, value), false, None).is_err(), "{name}: {value}");
        }
    }

    #[test]
    fn extended_connect_becomes_an_upgrade() {
        let connect = http::Request::connect("https://a.example/chat").header("sec-websocket-version", "13");
        assert_eq!(
            text(connect, false, Some("KEY")).unwrap(),
            "GET /chat HTTP/1.1\r\nHost: a.example\r\nSec-WebSocket-Version: 13\r\nConnection: upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: KEY\r\n\r\n"
        );
    }

    #[test]
    fn response_loses_its_hop_by_hop_fields() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length:  5 \r\nConnection: close\r\nX: y\r\n\r\n";
        let response = ResponseText::parse(head, false).unwrap();
        assert_eq!(response.framing, Framing::Length(5));
        assert_eq!(response.fields.len(), 2);
        assert_eq!(response.fields["x"], "y");
        let to_head = ResponseText::parse(head, true).unwrap();
        assert_eq!((to_head.framing, to_head.fields.len()), (Framing::None, 2));
    }

    #[test]
    fn backend_response_delimits_its_body() {
        let response = Response::builder().status(404).header("x", "y").body(()).unwrap();
        let text = |ending| {
            let mut out = Vec::new();
            write_response(&mut out, &response, ending).map(|()| String::from_utf8(out).unwrap())
        };
        let head = "HTTP/1.1 404 Not Found\r\nX: y\r\n";
        assert_eq!(text(Ending::Given).unwrap(), format!("{head}\r\n"));
        assert_eq!(text(Ending::Empty).unwrap(), format!("{head}Content-Length: 0\r\n\r\n"));
        assert_eq!(text(Ending::Chunked).unwrap(), format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    }

    #[test]
    fn response_with_connection_headers_or_padded_values_is_malformed() {
        for (name, value) in [("connection", "close"), ("transfer-encoding", "chunked"), ("x", "a ")] {
            let response = Response::builder().header(name, value).body(()).unwrap();
            assert!(write_response(&mut Vec::new(), &response, Ending::Given).is_err(), "{name}");
        }
    }

    #[test]
    fn end_of_head_is_found_from_any_offset() {
        let head = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody";
        for seen in 0..25 {
            assert_eq!(find_end(head, seen), Some(25), "{seen}");
        }
        assert_eq!(find_end(&head[..24], 0), None);
    }
}
