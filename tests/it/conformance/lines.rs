//! Request lines and header lines in HTTP/1.1.

use super::Outcome::Rejected;
use super::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    [
        ("bare LF everywhere", "9112 §2.2", "GET / HTTP/1.1\nHost: t\n\n", 400, "bare_lf"),
        ("bare LF after one header", "9112 §2.2", "GET / HTTP/1.1\r\nHost: t\n\r\n", 400, "bare_lf"),
        ("bare LF at the end of the head", "9112 §2.2", "GET / HTTP/1.1\r\nHost: t\r\n\n", 400, "bare_lf"),
        (
            "bare CR in a header value",
            "9112 §2.2",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\rb\r\n\r\n",
            400,
            "bare_cr",
        ),
        (
            "bare CR in the request target",
            "9112 §2.2",
            "GET /\rx HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bare_cr",
        ),
        (
            "folded header",
            "9112 §5.2",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\r\n b\r\n\r\n",
            400,
            "folded_field",
        ),
        (
            "header folded with TAB",
            "9112 §5.2",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\r\n\tb\r\n\r\n",
            400,
            "folded_field",
        ),
        (
            "folded line after the request line",
            "9112 §2.2",
            "GET / HTTP/1.1\r\n Host: t\r\n\r\n",
            400,
            "folded_field",
        ),
        (
            "NUL in a header value",
            "9110 §5.5",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n",
            400,
            "control_character",
        ),
        (
            "control character in a header value",
            "9110 §5.5",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\x08b\r\n\r\n",
            400,
            "control_character",
        ),
        (
            "DEL in a header value",
            "9110 §5.5",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\x7fb\r\n\r\n",
            400,
            "control_character",
        ),
        (
            "space before the colon",
            "9112 §5.1",
            "GET / HTTP/1.1\r\nHost: t\r\nX : y\r\n\r\n",
            400,
            "bad_field_name",
        ),
        (
            "space before the colon of Content-Length",
            "9112 §5.1",
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Length : 5\r\n\r\nhello",
            400,
            "bad_field_name",
        ),
        (
            "TAB before the colon",
            "9112 §5.1",
            "GET / HTTP/1.1\r\nHost: t\r\nX\t: y\r\n\r\n",
            400,
            "bad_field_name",
        ),
        (
            "header without a colon",
            "9112 §5",
            "GET / HTTP/1.1\r\nHost: t\r\nNo colon\r\n\r\n",
            400,
            "bad_field_name",
        ),
        (
            "header without a name",
            "9112 §5",
            "GET / HTTP/1.1\r\nHost: t\r\n: y\r\n\r\n",
            400,
            "bad_field_name",
        ),
        (
            "invalid header name",
            "9110 §5.1",
            "GET / HTTP/1.1\r\nHost: t\r\nX(y): z\r\n\r\n",
            400,
            "bad_field_name",
        ),
        ("missing method", "9112 §3", " / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_request_line"),
        ("space before the method", "9112 §3", " GET / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_request_line"),
        (
            "two spaces after the method",
            "9112 §3",
            "GET  / HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_request_line",
        ),
        ("TAB after the method", "9112 §3", "GET\t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_request_line"),
        ("invalid method", "9110 §9.1", "G(T / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_method"),
        (
            "unknown method of 33 letters",
            "9110 §9.1",
            "AMETHODTHATISFARTOOLONGFORANYBODY / HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_method",
        ),
        ("HTTP/0.9", "9112 §2.3", "GET /\r\n\r\n", 400, "bad_request_line"),
        (
            "unknown HTTP version",
            "9112 §2.3",
            "GET / HTTP/1.2\r\nHost: t\r\n\r\n",
            505,
            "unsupported_version",
        ),
        (
            "malformed HTTP/2 preface",
            "9113 §3.4",
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
            505,
            "unsupported_version",
        ),
        ("lowercase HTTP version", "9112 §2.3", "GET / http/1.1\r\nHost: t\r\n\r\n", 400, "bad_request_line"),
        (
            "extra word after the version",
            "9112 §3",
            "GET / HTTP/1.1 x\r\nHost: t\r\n\r\n",
            400,
            "bad_request_line",
        ),
        ("TLS handshake on a plain listener", "—", "\x16\x03\x01\0\x50\x01", 400, "control_character"),
    ]
    .map(|(class, rfc, text, status, code)| case(class, rfc, text.as_bytes(), Rejected(status, code)))
    .into()
}
