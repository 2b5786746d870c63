//! Targets, hosts and sizes.

use super::Outcome::{Passed, Refused};
use super::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    let mut list: Vec<Case> = [
        ("no Host", "9112 §3.2", "GET / HTTP/1.1\r\n\r\n", 400, "host_missing"),
        ("two Hosts", "9112 §3.2", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "host_repeated"),
        (
            "the same Host twice",
            "9112 §3.2",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            400,
            "host_repeated",
        ),
        ("an empty Host", "9110 §7.2", "GET / HTTP/1.1\r\nHost: \r\n\r\n", 400, "bad_host"),
        ("a list of hosts", "9110 §7.2", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "bad_host"),
        ("userinfo in Host", "9110 §7.2", "GET / HTTP/1.1\r\nHost: user@t\r\n\r\n", 400, "bad_host"),
        ("a path in Host", "9110 §7.2", "GET / HTTP/1.1\r\nHost: t/../x\r\n\r\n", 400, "bad_host"),
        ("a port that is none", "9110 §7.2", "GET / HTTP/1.1\r\nHost: t:65536\r\n\r\n", 400, "bad_host"),
        ("a Host of half an address", "9110 §7.2", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, "bad_host"),
        (
            "Host that is no host beside an absolute target",
            "9112 §3.2.2",
            "GET http://t/ HTTP/1.1\r\nHost: a b\r\n\r\n",
            400,
            "bad_host",
        ),
        (
            "userinfo in the target",
            "9110 §4.2.4",
            "GET http://user@t/ HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_host",
        ),
        ("a fragment", "9112 §3.2", "GET /#fragment HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_target"),
        ("a backslash", "3986 §2", "GET /a\\..\\b HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_target"),
        (
            "a space in the target",
            "9112 §3.2",
            "GET /a b HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_request_line",
        ),
        ("a target beyond ASCII", "3986 §2", "GET /\u{e9} HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_target"),
        (
            "a control in the target",
            "3986 §2",
            "GET /\x01 HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "control_character",
        ),
        ("a relative target", "9112 §3.2", "GET relative HTTP/1.1\r\nHost: t\r\n\r\n", 400, "bad_target"),
        (
            "a target of another scheme",
            "9112 §3.2.2",
            "GET ftp://t/ HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "an absolute target without a path",
            "9112 §3.2.1",
            "GET http://t?q HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_target",
        ),
        (
            "an absolute target without a host",
            "9110 §4.2.1",
            "GET http:///x HTTP/1.1\r\nHost: t\r\n\r\n",
            400,
            "bad_host",
        ),
        (
            "the asterisk of another method",
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
    .map(|(class, rfc, text, status, code)| case(class, rfc, text.as_bytes(), Refused(status, code)))
    .into();
    list.push(case(
        "a target of 9,000 bytes",
        "9112 §3",
        format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", "a".repeat(9000)).into_bytes(),
        Refused(414, "target_too_long"),
    ));
    list.push(case(
        "a head of 20,000 bytes",
        "9110 §5.4",
        format!("GET / HTTP/1.1\r\nHost: t\r\nX: {}\r\n\r\n", "a".repeat(20_000)).into_bytes(),
        Refused(431, "head_too_large"),
    ));
    list.push(case(
        "200 fields",
        "9110 §5.4",
        format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "X: y\r\n".repeat(200)).into_bytes(),
        Refused(431, "too_many_fields"),
    ));
    let passed = |class, rfc, text: &'static str, line, host| {
        case(class, rfc, text.as_bytes(), Passed { line, host, without: &[] })
    };
    list.extend([
        passed(
            "an absolute target and another Host: the target counts",
            "9112 §3.2.2",
            "GET http://a:81/x?y HTTP/1.1\r\nHost: b\r\n\r\n",
            "GET /x?y HTTP/1.1",
            "a:81",
        ),
        passed(
            "encoded dots and slashes: passed on as they are",
            "9110 §4.2.3",
            "GET /a/%2e%2e/%2fb%5c?%00 HTTP/1.1\r\nHost: t\r\n\r\n",
            "GET /a/%2e%2e/%2fb%5c?%00 HTTP/1.1",
            "t",
        ),
        passed(
            "an asterisk, of OPTIONS",
            "9112 §3.2.4",
            "OPTIONS http://t HTTP/1.1\r\nHost: t\r\n\r\n",
            "OPTIONS * HTTP/1.1",
            "t",
        ),
    ]);
    list
}
