//! Request lines and field lines.

use super::Outcome::Refused;
use super::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    [
        ("bare LF", "9112 §2.2", "GET / HTTP/1.1\nHost: t\n\n", 400, "bare_lf"),
        ("bare LF at one line", "9112 §2.2", "GET / HTTP/1.1\r\nHost: t\n\r\n", 400, "bare_lf"),
        ("bare LF at the end", "9112 §2.2", "GET / HTTP/1.1\r\nHost: t\r\n\n", 400, "bare_lf"),
        ("bare CR in a value", "9112 §2.2", "GET / HTTP/1.1\r\nHost: t\r\nX: a\rb\r\n\r\n", 400, "bare_cr"),
        ("bare CR in the target", "9112 §2.2", "GET /\rx HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bare_cr"),
        (
            "a folded line",
            "9112 §5.2",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\r\n b\r\n\r\n",
            400,
            "folded_field",
        ),
        (
            "a folded line by TAB",
            "9112 §5.2",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\r\n\tb\r\n\r\n",
            400,
            "folded_field",
        ),
        ("a folded first line", "9112 §2.2", "GET / HTTP/1.1\r\n Host: t\r\n\r\n", 400, "folded_field"),
        (
            "NUL in a value",
            "9110 §5.5",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\0b\r\n\r\n",
            400,
            "control_character",
        ),
        (
            "a control in a value",
            "9110 §5.5",
            "GET / HTTP/1.1\r\nHost: t\r\nX: a\x08b\r\n\r\n",
            400,
            "control_character",
        ),
        (
            "DEL in a value",
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
            "space before the colon of a length",
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
            "a line without a colon",
            "9112 §5",
            "GET / HTTP/1.1\r\nHost: t\r\nNo colon\r\n\r\n",
            400,
            "bad_field_name",
        ),
        (
            "a field without a name",
            "9112 §5",
            "GET / HTTP/1.1\r\nHost: t\r\n: y\r\n\r\n",
            400,
            "bad_field_name",
        ),
        (
            "a name that is no token",
            "9110 §5.1",
            "GET / HTTP/1.1\r\nHost: t\r\nX(y): z\r\n\r\n",
            400,
            "bad_field_name",
        ),
        ("no method", "9112 §3", " / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_request_line"),
        ("space before the method", "9112 §3", " GET / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_request_line"),
        (
            "two spaces behind the method",
            "9112 §3",
            "GET  / HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_request_line",
        ),
        ("TAB behind the method", "9112 §3", "GET\t/ HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_request_line"),
        ("a method that is no token", "9110 §9.1", "G(T / HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_method"),
        (
            "a method that nobody knows, of 33 letters",
            "9110 §9.1",
            "AMETHODTHATISFARTOOLONGFORANYBODY / HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_method",
        ),
        ("HTTP/0.9", "9112 §2.3", "GET /\r\n\r\n", 400, "bad_request_line"),
        ("an unknown version", "9112 §2.3", "GET / HTTP/1.2\r\nHost: t\r\n\r\n", 505, "unsupported_version"),
        (
            "HTTP/2 without its preface",
            "9113 §3.4",
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
            505,
            "unsupported_version",
        ),
        (
            "a version in small letters",
            "9112 §2.3",
            "GET / http/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_request_line",
        ),
        (
            "a word behind the version",
            "9112 §3",
            "GET / HTTP/1.1 x\r\nHost: t\r\n\r\n",
            400,
            "bad_request_line",
        ),
        ("TLS", "—", "\x16\x03\x01\0\x50\x01", 400, "control_character"),
    ]
    .map(|(class, rfc, text, status, code)| case(class, rfc, text.as_bytes(), Refused(status, code)))
    .into()
}
