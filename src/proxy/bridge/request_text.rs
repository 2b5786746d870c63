//! Parses a request head from text, for a backend that speaks HTTP/2.

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
        let (mut authority, mut framing) = (None, Framing::None);
        let fields = request.headers_mut();
        for field in fields_of(lines) {
            let (name, value) = field?;
            match FieldKind::classify(name) {
                FieldKind::Host => authority = Some(value),
                FieldKind::TransferEncoding => framing = Framing::Chunked,
                kind if h1::is_hop_by_hop(kind) => {}
                kind => {
                    if kind == FieldKind::ContentLength {
                        framing = Framing::Length(value.to_str().ok()?.parse().ok()?);
                    }
                    fields.append(HeaderName::from_bytes(name).ok()?, value);
                }
            }
        }
        // Trailers are always forwarded, and gRPC requires this header.
        fields.insert(header::TE, HeaderValue::from_static("trailers"));
        *request.uri_mut() = Uri::builder()
            .scheme(scheme)
            .authority(authority?.as_bytes())
            .path_and_query(target)
            .build()
            .ok()?;
        Some(Self { request, framing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_loses_its_hop_by_hop_fields() {
        let text = b"POST /x?y HTTP/1.1\r\nhost: a.example:8080\r\ntransfer-encoding: chunked\r\n\
                     connection: close\r\ncookie: a=1; b=2\r\nX: y\r\n\r\n";
        let RequestText { request, framing } = RequestText::parse(text, "https").unwrap();
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
        let RequestText { request, framing } = RequestText::parse(text, "http").unwrap();
        assert_eq!(request.uri().path(), "*");
        assert_eq!(framing, Framing::Length(3));
        assert_eq!(request.headers()["content-length"], "3");
    }

    #[test]
    fn requests_that_http2_cannot_express_are_rejected() {
        assert!(RequestText::parse(b"GET /<> HTTP/1.1\r\nhost: a\r\n\r\n", "http").is_none());
        assert!(RequestText::parse(b"GET / HTTP/1.1\r\n\r\n", "http").is_none(), "accepted without a host");
    }
}
