//! Request targets, Host and size limits in HTTP/1.1.

use super::Outcome::{Forwarded, Rejected};
use super::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    let mut list: Vec<Case> = [
        ("missing Host", "9112 §3.2", "GET / HTTP/1.1\r\n\r\n", 400, "host_missing"),
        ("two Hosts", "9112 §3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "host_repeated"),
        (
            "the same Host twice",
            "9112 §3.2",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            400,
            "host_repeated",
        ),
        ("empty Host", "9110 §7.2", "GET / HTTP/1.1\r\nHost: \r\n\r\n", 400, "bad_host"),
        ("Host list", "9110 §7.2", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "bad_host"),
        ("userinfo in Host", "9110 §7.2", "GET / HTTP/1.1\r\nHost: user@t\r\n\r\n", 400, "bad_host"),
        ("path in Host", "9110 §7.2", "GET / HTTP/1.1\r\nHost: t/../x\r\n\r\n", 400, "bad_host"),
        ("invalid port in Host", "9110 §7.2", "GET / HTTP/1.1\r\nHost: t:65536\r\n\r\n", 400, "bad_host"),
        (
            "unclosed IPv6 bracket in Host",
            "9110 §7.2",
            "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
            400,
            "bad_host",
        ),
        (
            "invalid Host with an absolute target",
            "9112 §3.2.2",
            "GET http://t/ HTTP/1.1\r\nHost: a b\r\n\r\n",
            400,
            "bad_host",
        ),
        (
            "userinfo in the request target",
            "9110 §4.2.4",
            "GET http://user@t/ HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_host",
        ),
        (
            "fragment in the request target",
            "9112 §3.2",
            "GET /#fragment HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        ("Host with two colons", "9110 §7.2", "GET / HTTP/1.1\r\nHost: t::\r\n\r\n", 400, "bad_host"),
        (
            "fragment in the query",
            "9112 §3.2",
            "GET /?a#fragment HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "backslash in the path",
            "3986 §2",
            "GET /a\\..\\b?c HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "space in the request target",
            "9112 §3.2",
            "GET /a b HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_request_line",
        ),
        (
            "non-ASCII byte in the path",
            "3986 §2",
            "GET /\u{e9} HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "control character in the request target",
            "3986 §2",
            "GET /\x01 HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "control_character",
        ),
        (
            "relative request target",
            "9112 §3.2",
            "GET relative HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "request target with another scheme",
            "9112 §3.2.2",
            "GET ftp://t/ HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "absolute target without a path",
            "9112 §3.2.1",
            "GET http://t?q HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "absolute target without a host",
            "9110 §4.2.1",
            "GET http:///x HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_host",
        ),
        (
            "asterisk target with a method other than OPTIONS",
            "9112 §3.2.4",
            "GET * HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "CONNECT",
            "9110 §9.3.6",
            "CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n\r\n",
            501,
            "connect_not_supported",
        ),
    ]
    .map(|(class, rfc, text, status, code)| case(class, rfc, text.as_bytes(), Rejected(status, code)))
    .into();
    list.push(case(
        "query that is not UTF-8",
        "3986 §2",
        b"GET /?\xe9 HTTP/1.1\r\nHost: t\r\n\r\n".as_slice(),
        Rejected(400, "bad_target"),
    ));
    list.push(case(
        "request target of 9,000 bytes",
        "9112 §3",
        format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "a".repeat(9000)).into_bytes(),
        Rejected(414, "target_too_long"),
    ));
    list.push(case(
        "request head of 40,000 bytes",
        "9110 §5.4",
        format!("GET / HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "a".repeat(40_000)).into_bytes(),
        Rejected(431, "head_too_large"),
    ));
    list.push(case(
        "200 headers",
        "9110 §5.4",
        format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "X: y\r\n".repeat(200)).into_bytes(),
        Rejected(431, "too_many_fields"),
    ));
    let forwarded = |class, rfc, text: &'static str, line, host| {
        case(class, rfc, text.as_bytes(), Forwarded { line, host, without: &[] })
    };
    list.extend([
        forwarded(
            "characters in the query that browsers do not encode: forwarded unchanged",
            "3986 §3.4",
            "GET /a?p=C:\\x\"<>{}|^`\u{e9} HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /a?p=C:\\x\"<>{}|^`\u{c3}\u{a9} HTTP/1.1",
            "t",
        ),
        forwarded(
            "Host with an empty port: the name",
            "3986 §3.2.3",
            "GET / HTTP/1.1\r\nHost: t:\r\n\r\n",
            "GET / HTTP/1.1",
            "t",
        ),
        forwarded(
            "absolute target with a different Host: the target wins",
            "9112 §3.2.2",
            "GET http://a:81/x?y HTTP/1.1\r\nHost: b\r\n\r\n",
            "GET /x?y HTTP/1.1",
            "a:81",
        ),
        forwarded(
            "percent-encoded dots and slashes: forwarded unchanged",
            "9110 §4.2.3",
            "GET /a/%2e%2e/%2fb%5c?%00 HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /a/%2e%2e/%2fb%5c?%00 HTTP/1.1",
            "t",
        ),
        forwarded(
            "OPTIONS with an absolute target without a path",
            "9112 §3.2.4",
            "OPTIONS http://t HTTP/1.1\r\nHost: t\r\n\r\n",
            "OPTIONS * HTTP/1.1",
            "t",
        ),
    ]);
    list
}
