//! Parses a request head from text, for a backend that speaks HTTP/2.

use std::borrow::Cow;

use ::h2::ext::Protocol;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Uri, Version};

use super::head::{fields_of, split_line};
use crate::h1::{self, FieldKind, Framing};

/// A request head, parsed from text.
#[derive(Debug)]
pub(crate) struct RequestText {
    /// The request with its end-to-end fields. Host has become the authority.
    pub request: Request<()>,
    /// The framing of the body.
    pub framing: Framing,
    /// The Sec-WebSocket-Key, if the request asks for a WebSocket. It has become an extended CONNECT
    /// (RFC 8441), which has no key.
    pub websocket: Option<String>,
}

impl RequestText {
    /// Parses a request head, including the final empty line. `None` if HTTP/2 cannot express it.
    pub(crate) fn parse(text: &[u8], scheme: &'static str) -> Option<Self> {
        let (line, lines) = split_line(text)?;
        let mut words = line.split(|&byte| byte == b' ');
        let (method, target) = (words.next()?, words.next()?);
        let mut request = Request::new(());
        *request.method_mut() = Method::from_bytes(method).ok()?;
        *request.version_mut() = Version::HTTP_2;
        let (mut authority, mut framing, mut key, mut upgrade) = (None, Framing::None, None, false);
        let fields = request.headers_mut();
        for field in fields_of(lines) {
            let (name, value) = field?;
            match FieldKind::classify(name) {
                FieldKind::Host => authority = Some(value),
                FieldKind::TransferEncoding => framing = Framing::Chunked,
                FieldKind::Upgrade => upgrade = value.as_bytes().eq_ignore_ascii_case(b"websocket"),
                kind if h1::is_hop_by_hop(kind) => {}
                kind => {
                    if kind == FieldKind::ContentLength {
                        framing = Framing::Length(value.to_str().ok()?.parse().ok()?);
                    }
                    fields.append(HeaderName::from_bytes(name).ok()?, value);
                }
            }
        }
        if upgrade {
            key = Some(fields.remove(header::SEC_WEBSOCKET_KEY)?.to_str().ok()?.to_owned());
        }
        // Trailers are always forwarded, and gRPC requires this header.
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
        *request.uri_mut() = Uri::builder()
            .scheme(scheme)
            .authority(authority?.as_bytes())
            .path_and_query(&*encoded(target))
            .build()
            .ok()?;
        if key.is_some() {
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(Protocol::from_static("websocket"));
        }
        Some(Self { request, framing, websocket: key })
    }
}

/// Encodes what the `http` crate does not take in a query, as browsers do.
fn encoded(target: &[u8]) -> Cow<'_, [u8]> {
    let odd = |byte: &u8| matches!(byte, b'"' | b'<' | b'>');
    let Some(query) = memchr::memchr(b'?', target).filter(|at| target[*at..].iter().any(odd)) else {
        return Cow::Borrowed(target);
    };
    let (path, query) = target.split_at(query);
    let mut out = path.to_vec();
    for byte in query {
        match byte {
            b'"' => out.extend_from_slice(b"%22"),
            b'<' => out.extend_from_slice(b"%3C"),
            b'>' => out.extend_from_slice(b"%3E"),
            byte => out.push(*byte),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_loses_its_hop_by_hop_fields() {
        let text = b"POST /x?y HTTP/1.1\r\nhost: a.example:8080\r\ntransfer-encoding: chunked\r\n\
                     connection: close\r\ncookie: a=1; b=2\r\nX: y\r\n\r\n";
        let RequestText { request, framing, .. } = RequestText::parse(text, "https").unwrap();
        assert_eq!(request.uri(), "https://a.example:8080/x?y");
        assert_eq!((request.method(), framing), (&Method::POST, Framing::Chunked));
        let mut names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cookie", "te", "x"]);
        assert_eq!(request.headers()["te"], "trailers");
    }

    #[test]
    fn content_length_and_options_asterisk_are_kept() {
        let text = b"OPTIONS * HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n";
        let RequestText { request, framing, .. } = RequestText::parse(text, "http").unwrap();
        assert_eq!(request.uri().path(), "*");
        assert_eq!(framing, Framing::Length(3));
        assert_eq!(request.headers()["content-length"], "3");
    }

    #[test]
    fn query_is_kept_as_far_as_http2_can_express_it() {
        let text = "GET /\"?\\{}|^`\u{e9}\"<> HTTP/1.1\r\nhost: a\r\n\r\n";
        let RequestText { request, .. } = RequestText::parse(text.as_bytes(), "http").unwrap();
        assert_eq!(request.uri().to_string(), "http://a/\"?\\{}|^`\u{e9}%22%3C%3E");
    }

    #[test]
    fn upgrade_becomes_an_extended_connect() {
        let text =
            b"GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: KEY\r\n\
                     Connection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let RequestText { request, websocket, .. } = RequestText::parse(text, "http").unwrap();
        assert_eq!((request.method(), websocket.as_deref()), (&Method::CONNECT, Some("KEY")));
        assert_eq!(request.extensions().get::<Protocol>().map(Protocol::as_str), Some("websocket"));
        assert_eq!(request.headers().len(), 2, "{:?}", request.headers());
    }

    #[test]
    fn requests_that_http2_cannot_express_are_rejected() {
        assert!(RequestText::parse(b"GET /<> HTTP/1.1\r\nhost: a\r\n\r\n", "http").is_none());
        assert!(RequestText::parse(b"GET / HTTP/1.1\r\n\r\n", "http").is_none(), "accepted without a host");
    }
}
