//! Tests of response heads.

use super::*;

#[test]
fn valid_responses_are_parsed() {
    reads(response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), "HTTP/1.1 200 OK Length(5)");
    reads(response("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n"), "HTTP/1.1 200  Chunked");
    reads(response("HTTP/1.1 200\r\nContent-Length: 5\r\n\r\n"), "HTTP/1.1 200  Length(5)");
    reads(response("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n"), "HTTP/1.1 200 OK Length(5)");
    reads(response("HTTP/1.1 200 OK\r\n\r\n"), "HTTP/1.1 200 OK UntilClose close");
    reads(response("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), "HTTP/1.0 200 OK Length(5) close");
    reads(response(b"HTTP/1.1 404 \xe9 b\r\nContent-Length: 0\r\n\r\n"), "HTTP/1.1 404 \\xe9 b Length(0)");
    for status in [100, 101, 103, 204, 304] {
        let bodiless = format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\n");
        reads(response(bodiless), &format!("HTTP/1.1 {status} X None"));
    }
    reads(response_to("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"), "HTTP/1.1 200 OK None");
    reads(
        response_to("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "HTTP/1.1 200 OK None",
    );
}

#[test]
fn invalid_responses_are_refused() {
    for (line, error) in [
        ("HTTP/1.1 200OK", HeadError::StatusLine),
        ("HTTP/1.1 200\t", HeadError::StatusLine),
        ("HTTP/1.1  200 OK", HeadError::StatusLine),
        ("HTTP/1.1 20 OK", HeadError::StatusLine),
        ("HTTP/1.1 2000 OK", HeadError::StatusLine),
        ("HTTP/1.1 099 OK", HeadError::StatusLine),
        ("HTTP/1.1 600 OK", HeadError::StatusLine),
        ("HTTP/1.1 abc OK", HeadError::StatusLine),
        ("HTTP/1.2 200 OK", HeadError::Version),
        ("HTTP/1.1 200 O\x01K", HeadError::Control),
    ] {
        assert_eq!(response(format!("{line}\r\nX: y\r\n\r\n")), Err(error), "{line}");
    }
    for line in ["HTTP/1.1 204 X", "HTTP/1.1 101 X", "HTTP/1.0 200 X"] {
        let head = format!("{line}\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(response(head), Err(HeadError::CodingNotAllowed), "{line}");
    }
}
