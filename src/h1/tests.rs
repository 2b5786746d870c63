//! Tests of head parsing. Every input is parsed as a whole and byte by byte, with the same result.

mod fields;
mod responses;

use super::*;
use crate::affinity::message::RequestView;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 1024, fields: 8, uri_bytes: 64 };

fn whole<T>(
    mut parse: impl FnMut(&[u8], &mut usize) -> Result<Option<T>, HeadError>,
    input: &[u8],
) -> Result<Option<T>, HeadError>
where
    T: PartialEq + std::fmt::Debug,
{
    let result = parse(input, &mut 0);
    let mut scanned = 0;
    let dripped = (0..=input.len())
        .map(|len| parse(&input[..len], &mut scanned))
        .find(|result| !matches!(result, Ok(None)))
        .unwrap_or(Ok(None));
    assert_eq!(dripped, result, "byte by byte: {:?}", input.escape_ascii().to_string());
    result
}

fn request(input: impl AsRef<[u8]>) -> Result<Option<String>, HeadError> {
    let parse = |input: &[u8], scanned: &mut usize| {
        let mut slots = FieldSlots::new();
        Ok(match parse_request(input, scanned, &LIMITS, &mut slots)? {
            Parsed::Complete { head, .. } => Some(format!(
                "{} {} {} host={} {:?}{}{}{}",
                head.method,
                head.target.path_and_query(),
                head.version.as_str(),
                head.host,
                head.framing,
                if head.persistent() { "" } else { " close" },
                if head.expects_continue { " continue" } else { "" },
                head.upgrade.map_or(String::new(), |upgrade| format!(" upgrade={}", upgrade.escape_ascii())),
            )),
            Parsed::Partial => None,
        })
    };
    whole(parse, input.as_ref())
}

fn response_to(method: &str, input: impl AsRef<[u8]>) -> Result<Option<String>, HeadError> {
    let parse = |input: &[u8], scanned: &mut usize| {
        let mut slots = FieldSlots::new();
        Ok(match parse_response(input, scanned, &LIMITS, method, &mut slots)? {
            Parsed::Complete { head, .. } => Some(format!(
                "{} {} {} {:?}{}",
                head.version.as_str(),
                head.status,
                head.reason.escape_ascii(),
                head.framing,
                if head.persistent() { "" } else { " close" },
            )),
            Parsed::Partial => None,
        })
    };
    whole(parse, input.as_ref())
}

fn response(input: impl AsRef<[u8]>) -> Result<Option<String>, HeadError> {
    response_to("GET", input)
}

/// A request with these field lines after Host.
fn with(fields: &str) -> Result<Option<String>, HeadError> {
    request(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
}

#[track_caller]
#[expect(clippy::needless_pass_by_value, reason = "shorter calls")]
fn reads(result: Result<Option<String>, HeadError>, expected: &str) {
    assert_eq!(result, Ok(Some(expected.to_owned())));
}

#[test]
fn valid_requests_are_parsed() {
    reads(request("GET /a?b HTTP/1.1\r\nHost: x:80\r\n\r\nrest"), "GET /a?b HTTP/1.1 host=x:80 None");
    reads(request("GET / HTTP/1.0\r\n\r\n"), "GET / HTTP/1.0 host= None close");
    reads(request("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), "GET / HTTP/1.0 host= None");
    reads(request("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), "OPTIONS * HTTP/1.1 host=a None");
    reads(request("get / HTTP/1.1\r\nhOST:a\r\n\r\n"), "get / HTTP/1.1 host=a None");
    // Browsers and scripts send these, although RFC 3986 does not allow them.
    reads(
        request("GET /{\"a|b^\"}[]?a`b|{}[]'^ HTTP/1.1\r\nHost: a\r\n\r\n"),
        "GET /{\"a|b^\"}[]?a`b|{}[]'^ HTTP/1.1 host=a None",
    );
    reads(with("Content-Length: 5"), "POST / HTTP/1.1 host=a Length(5)");
    reads(with("Transfer-Encoding: Chunked"), "POST / HTTP/1.1 host=a Chunked");
    reads(with("Expect: 100-Continue"), "POST / HTTP/1.1 host=a None continue");
    reads(with("X: \u{e9}\t\u{e9}"), "POST / HTTP/1.1 host=a None");
}

#[test]
fn two_leading_empty_lines_are_allowed() {
    reads(request("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), "GET / HTTP/1.1 host=a None");
    reads(request("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), "GET / HTTP/1.1 host=a None");
    assert_eq!(request("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(HeadError::RequestLine));
    assert_eq!(request("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Err(HeadError::BareLf));
    assert_eq!(response("\r\nHTTP/1.1 200 OK\r\n\r\n"), Err(HeadError::StatusLine));
}

#[test]
fn head_length_includes_leading_empty_lines() {
    let input = b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
    let mut slots = FieldSlots::new();
    let Ok(Parsed::Complete { len, head }) = parse_request(input, &mut 0, &LIMITS, &mut slots) else {
        panic!()
    };
    assert_eq!(&input[len..], b"GET");
    assert_eq!(head.fields.raw(), b"Host: a\r\n");
}

#[test]
fn errors_come_at_the_first_invalid_byte() {
    // The bytes before the invalid one are valid so far; the error comes with it.
    let table: &[(&[u8], u8, HeadError)] = &[
        (b"", 0x16, HeadError::Control), // a TLS ClientHello
        (b"", b' ', HeadError::RequestLine),
        (b"", 0x80, HeadError::Method),
        (b"GE", b':', HeadError::Method),
        (b"ABCDEFGHIJKLMNOPQRSTUVWX", b'Y', HeadError::Method),
        (b"GET", b'\n', HeadError::BareLf),
        (b"GET / HTTP/1.1", b'\n', HeadError::BareLf),
        (b"GET /", 0, HeadError::Control),
        (b"GET /", 0xff, HeadError::Target),
        (b"GET / HTTP/1.1\r", b'H', HeadError::BareCr),
        (b"GET / HTTP/1.1\r\nHost: a", b'\n', HeadError::BareLf),
        (b"GET / HTTP/1.1\r\nHost: a\r", b'\r', HeadError::BareCr),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b'\n', HeadError::BareLf),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b' ', HeadError::Folded),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b'\t', HeadError::Folded),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b':', HeadError::FieldName),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r", b'x', HeadError::BareCr),
        (b"GET / HTTP/1.1\r\nHost: a", 0x7f, HeadError::Control),
    ];
    for (before, byte, error) in table {
        let mut input = before.to_vec();
        assert_eq!(request(&input), Ok(None), "before {byte:#x}");
        input.push(*byte);
        assert_eq!(request(&input), Err(*error), "{}", input.escape_ascii());
    }
    assert_eq!(response("HTTP/2"), Err(HeadError::StatusLine));
    assert_eq!(response("HTTP/1.1 200 OK\n"), Err(HeadError::BareLf));
}

#[test]
fn request_lines_are_strict() {
    for (line, error) in [
        ("GET  / HTTP/1.1", HeadError::RequestLine),
        ("GET /  HTTP/1.1", HeadError::RequestLine),
        ("GET / HTTP/1.1 ", HeadError::RequestLine),
        ("GET /a b HTTP/1.1", HeadError::RequestLine),
        ("GET\t/ HTTP/1.1", HeadError::RequestLine),
        ("GET /\tHTTP/1.1", HeadError::RequestLine),
        ("GET /", HeadError::RequestLine),
        ("GET", HeadError::RequestLine),
        ("GET / http/1.1", HeadError::RequestLine),
        ("GET / HTTP/1.10", HeadError::RequestLine),
        ("GET / HTTP/1.2", HeadError::Version),
        ("GET / HTTP/0.9", HeadError::Version),
        ("PRI * HTTP/2.0", HeadError::Version),
        ("CONNECT a:443 HTTP/1.1", HeadError::Connect),
        ("GET a:443 HTTP/1.1", HeadError::Target),
        ("GET * HTTP/1.1", HeadError::Target),
        ("GET a HTTP/1.1", HeadError::Target),
        ("GET /#top HTTP/1.1", HeadError::Target),
        ("GET /a\\b HTTP/1.1", HeadError::Target),
        ("GET /0123456789012345678901234567/\u{e9} HTTP/1.1", HeadError::Target),
        ("GET /a<b HTTP/1.1", HeadError::Target),
        ("GET /a>b?c HTTP/1.1", HeadError::Target),
        ("GET /a`b HTTP/1.1", HeadError::Target),
        ("GET /?a#b HTTP/1.1", HeadError::Target),
        ("GET ftp://a/ HTTP/1.1", HeadError::Target),
        ("GET http://a?b HTTP/1.1", HeadError::Target),
        ("GET http:/// HTTP/1.1", HeadError::Host),
        ("GET http://u@a/ HTTP/1.1", HeadError::Host),
        ("GET http://a:x/ HTTP/1.1", HeadError::Host),
    ] {
        assert_eq!(request(format!("{line}\r\nHost: a\r\n\r\n")), Err(error), "{line}");
    }
}

#[test]
fn queries_have_what_browsers_do_not_encode() {
    for target in
        ["/?\"<>{}|^`\\", "/a\"b?\u{e9}", "/0123456789012345678901234567890123456789?\u{20ac}", "/??\\"]
    {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        reads(request(head), &format!("GET {target} HTTP/1.1 host=a None"));
    }
    assert_eq!(request(b"GET /?\xe9 HTTP/1.1\r\nHost: a\r\n\r\n"), Err(HeadError::Target));
}

#[test]
fn authority_of_the_target_overrides_host() {
    let absolute = |line: &str| request(format!("{line} HTTP/1.1\r\nHost: other\r\n\r\n"));
    reads(absolute("GET http://a:81/b?c"), "GET /b?c HTTP/1.1 host=a:81 None");
    reads(absolute("GET HTTPS://a"), "GET / HTTP/1.1 host=a None");
    reads(absolute("OPTIONS http://a"), "OPTIONS * HTTP/1.1 host=a None");
    // Host must be present and valid all the same.
    assert_eq!(request("GET http://a/ HTTP/1.1\r\n\r\n"), Err(HeadError::HostMissing));
    assert_eq!(request("GET http://a/ HTTP/1.1\r\nHost: b/\r\n\r\n"), Err(HeadError::Host));
}

#[test]
fn hosts_are_strict() {
    for host in ["a", "a.b-c_d~e", "A:0", "127.0.0.1:65535", "[::1]", "[2001:db8::1]:8080", "a."] {
        reads(
            request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            &format!("GET / HTTP/1.1 host={host} None"),
        );
    }
    for (host, name) in [("a:", "a"), ("[::1]:", "[::1]")] {
        reads(
            request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")),
            &format!("GET / HTTP/1.1 host={name} None"),
        );
    }
    let long = "a".repeat(262);
    for host in [
        "",
        ":80",
        ":",
        "a::",
        "a:65536",
        "a:000080",
        "a:-1",
        "a:8 0",
        "u@a",
        "a/b",
        "a?b",
        "a b",
        "a,b",
        "a%2eb",
        "\u{e9}",
        "[::1",
        "[::1]x",
        "[v1.a]",
        "[fe80::1%25eth0]",
        "[]",
        "a[::1]",
        "::1",
        "a\\b",
        &long,
    ] {
        let result = request(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(result, Err(HeadError::Host), "{host}");
    }
    assert_eq!(request("GET / HTTP/1.1\r\n\r\n"), Err(HeadError::HostMissing));
    assert_eq!(with("Host: a"), Err(HeadError::HostRepeated));
    assert_eq!(request("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"), Err(HeadError::HostRepeated));
}

#[test]
fn field_lines_are_strict() {
    for (line, error) in [
        ("X : a", HeadError::FieldName),
        ("X\t: a", HeadError::FieldName),
        ("X", HeadError::FieldName),
        ("X(: a", HeadError::FieldName),
        ("X\u{e9}: a", HeadError::FieldName),
        (": a", HeadError::FieldName),
        ("X: a\r\n b", HeadError::Folded),
        ("X: a\0", HeadError::Control),
        ("X: a\x0b", HeadError::Control),
        ("X: a\x7f", HeadError::Control),
        ("X: a\rb", HeadError::BareCr),
        ("X: a\nContent-Length: 1", HeadError::BareLf),
        ("X: a\n", HeadError::BareLf),
        ("X: \n", HeadError::BareLf),
    ] {
        assert_eq!(with(line), Err(error), "{line:?}");
        // The same lines are invalid in a response, except for the space before the colon.
        if !matches!(line, "X : a" | "X\t: a") {
            assert_eq!(response(format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n")), Err(error), "{line:?}");
        }
    }
}

#[test]
fn content_lengths_are_strict() {
    for value in [
        "+5",
        "-5",
        "5, 5",
        "5 5",
        "0x5",
        "5.0",
        "",
        " ",
        "18446744073709551616",
        "9223372036854775808",
        "99999999999999999999999",
        "five",
    ] {
        assert_eq!(with(&format!("Content-Length: {value}")), Err(HeadError::ContentLength), "{value}");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\n");
        assert_eq!(response(head), Err(HeadError::ContentLength), "{value}");
    }
    reads(with("Content-Length: 9223372036854775807"), "POST / HTTP/1.1 host=a Length(9223372036854775807)");
    assert_eq!(with("Content-Length: 5\r\nContent-Length: 5"), Err(HeadError::ContentLengthRepeated));
    assert_eq!(with("Content-Length: 5\r\nContent-Length: 6"), Err(HeadError::ContentLengthRepeated));
    assert_eq!(with("Content-Length: 5\r\nTransfer-Encoding: chunked"), Err(HeadError::LengthAndCoding));
    assert_eq!(with("Transfer-Encoding: chunked\r\nContent-Length: 0"), Err(HeadError::LengthAndCoding));
    let both = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(response(both), Err(HeadError::LengthAndCoding));
    assert_eq!(response_to("HEAD", both), Err(HeadError::LengthAndCoding));
}

#[test]
fn chunked_is_the_only_supported_coding() {
    for (value, error) in [
        ("gzip", HeadError::UnknownCoding),
        ("identity", HeadError::UnknownCoding),
        ("xchunked", HeadError::UnknownCoding),
        ("gzip, chunked", HeadError::UnknownCoding),
        ("chunked, gzip", HeadError::TransferEncoding),
        ("chunked, chunked", HeadError::TransferEncoding),
        ("chunked,", HeadError::TransferEncoding),
        (", chunked", HeadError::TransferEncoding),
        ("", HeadError::TransferEncoding),
        ("\"chunked\"", HeadError::TransferEncoding),
        ("chunked;a=b", HeadError::TransferEncoding),
        ("chunked\r\nTransfer-Encoding: chunked", HeadError::TransferEncoding),
        ("chunked\r\nTransfer-Encoding: gzip", HeadError::TransferEncoding),
        ("gzip\r\nTransfer-Encoding: chunked", HeadError::UnknownCoding),
    ] {
        assert_eq!(with(&format!("Transfer-Encoding: {value}")), Err(error), "{value}");
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {value}\r\n\r\n");
        assert_eq!(response(head), Err(error), "{value}");
    }
    let old = "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(request(old), Err(HeadError::CodingNotAllowed));
}

#[test]
fn trace_with_a_body_is_refused() {
    let trace = |fields: &str| request(format!("TRACE / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert_eq!(trace("Content-Length: 5\r\n"), Err(HeadError::BodyNotAllowed));
    assert_eq!(trace("Transfer-Encoding: chunked\r\n"), Err(HeadError::BodyNotAllowed));
    assert!(trace("Content-Length: 0\r\n").is_ok() && trace("").is_ok());
}

#[test]
fn limits_have_their_own_errors() {
    let path = |len: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len - 1));
    assert!(request(path(64)).is_ok());
    assert_eq!(request(path(65)), Err(HeadError::TargetTooLong));
    assert_eq!(request(format!("GET /{}", "a".repeat(200))), Err(HeadError::TargetTooLong));

    let fields = |count: usize| "X: y\r\n".repeat(count - 2) + "X: y";
    assert!(with(&fields(8)).is_ok_and(|head| head.is_some()));
    assert_eq!(with(&fields(9)), Err(HeadError::TooManyFields));

    let sized = |len: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(len - 32));
    assert_eq!(sized(1024).len(), 1024);
    assert!(request(sized(1024)).is_ok_and(|head| head.is_some()));
    assert_eq!(request(sized(1025)), Err(HeadError::HeadTooLarge));
    assert_eq!(request(&sized(2048)[..1024]), Err(HeadError::HeadTooLarge));
    assert_eq!(request(&sized(2048)[..1023]), Ok(None));
    assert_eq!(response(format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(2000))), Err(HeadError::HeadTooLarge));
}

#[test]
fn upgrade_requires_a_connection_option() {
    let base = "POST / HTTP/1.1 host=a None";
    reads(with("Connection: Upgrade\r\nUpgrade: websocket"), &format!("{base} upgrade=websocket"));
    reads(with("Upgrade: websocket"), base);
    reads(with("Connection: upgrade"), base);
    reads(with("Connection: upgrade\r\nUpgrade: a\r\nUpgrade: b"), base);
    let old =
        "GET / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: a\r\nExpect: 100-continue\r\n\r\n";
    reads(request(old), "GET / HTTP/1.0 host= None");
}
