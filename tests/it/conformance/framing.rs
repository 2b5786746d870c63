//! Body framing in HTTP/1.1 requests.

use super::Outcome::Rejected;
use super::{Case, case};

pub(super) fn cases() -> Vec<Case> {
    let post = |class, rfc, fields: &str, outcome| {
        case(class, rfc, format!("POST / HTTP/1.1\r\nHost: t\r\n{fields}").into_bytes(), outcome)
    };
    vec![
        post(
            "Content-Length and Transfer-Encoding",
            "9112 §6.1",
            "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
            Rejected(400, "length_and_coding"),
        ),
        post(
            "Transfer-Encoding and Content-Length",
            "9112 §6.1",
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
            Rejected(400, "length_and_coding"),
        ),
        post(
            "two Content-Lengths, different values",
            "9112 §6.3",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            Rejected(400, "content_length_repeated"),
        ),
        post(
            "two Content-Lengths, same value",
            "9112 §6.3",
            "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            Rejected(400, "content_length_repeated"),
        ),
        post(
            "Content-Length list",
            "9110 §8.6",
            "Content-Length: 5, 5\r\n\r\nhello",
            Rejected(400, "bad_content_length"),
        ),
        post(
            "Content-Length with a plus sign",
            "9110 §8.6",
            "Content-Length: +5\r\n\r\nhello",
            Rejected(400, "bad_content_length"),
        ),
        post(
            "negative Content-Length",
            "9110 §8.6",
            "Content-Length: -1\r\n\r\n",
            Rejected(400, "bad_content_length"),
        ),
        post(
            "hexadecimal Content-Length",
            "9110 §8.6",
            "Content-Length: 0x5\r\n\r\nhello",
            Rejected(400, "bad_content_length"),
        ),
        post(
            "Content-Length with a space",
            "9110 §8.6",
            "Content-Length: 1 0\r\n\r\n",
            Rejected(400, "bad_content_length"),
        ),
        post(
            "empty Content-Length",
            "9110 §8.6",
            "Content-Length: \r\n\r\n",
            Rejected(400, "bad_content_length"),
        ),
        post(
            "Content-Length over 64 bits",
            "9110 §8.6",
            "Content-Length: 18446744073709551616\r\n\r\n",
            Rejected(400, "bad_content_length"),
        ),
        post(
            "Content-Length over 63 bits",
            "9110 §8.6",
            "Content-Length: 9223372036854775808\r\n\r\n",
            Rejected(400, "bad_content_length"),
        ),
        post(
            "unknown transfer coding",
            "9112 §6.1",
            "Transfer-Encoding: gzip\r\n\r\n",
            Rejected(501, "unknown_coding"),
        ),
        post(
            "unknown transfer coding before chunked",
            "9112 §6.1",
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            Rejected(501, "unknown_coding"),
        ),
        post(
            "identity, removed from HTTP/1.1",
            "9112 §7",
            "Transfer-Encoding: identity\r\n\r\n",
            Rejected(501, "unknown_coding"),
        ),
        post(
            "misspelled chunked",
            "9112 §6.1",
            "Transfer-Encoding: xchunked\r\n\r\n",
            Rejected(501, "unknown_coding"),
        ),
        post(
            "control character before chunked",
            "9110 §5.5",
            "Transfer-Encoding: \x0bchunked\r\n\r\n",
            Rejected(400, "control_character"),
        ),
        post(
            "chunked with a parameter",
            "9112 §7",
            "Transfer-Encoding: chunked;q=1\r\n\r\n",
            Rejected(400, "bad_transfer_encoding"),
        ),
        post(
            "chunked twice",
            "9112 §6.1",
            "Transfer-Encoding: chunked, chunked\r\n\r\n",
            Rejected(400, "bad_transfer_encoding"),
        ),
        post(
            "chunked in two headers",
            "9112 §6.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Rejected(400, "bad_transfer_encoding"),
        ),
        post(
            "chunked is not last",
            "9112 §6.3",
            "Transfer-Encoding: chunked, gzip\r\n\r\n",
            Rejected(400, "bad_transfer_encoding"),
        ),
        post(
            "second Transfer-Encoding after chunked",
            "9112 §6.3",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
            Rejected(400, "bad_transfer_encoding"),
        ),
        post(
            "empty Transfer-Encoding",
            "9112 §6.1",
            "Transfer-Encoding: \r\n\r\n",
            Rejected(400, "bad_transfer_encoding"),
        ),
        case(
            "chunked in HTTP/1.0",
            "9112 §6.1",
            b"POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".as_slice(),
            Rejected(400, "coding_not_allowed"),
        ),
        case(
            "TRACE",
            "9110 §9.3.8",
            b"TRACE / HTTP/1.1\r\nHost: t\r\n\r\n".as_slice(),
            Rejected(405, "trace_not_allowed"),
        ),
        case(
            "TRACE with a body",
            "9110 §9.3.8",
            b"TRACE / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello".as_slice(),
            Rejected(400, "body_not_allowed"),
        ),
        case(
            "TRACE with a chunked body",
            "9110 §9.3.8",
            b"TRACE / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".as_slice(),
            Rejected(400, "body_not_allowed"),
        ),
    ]
}
