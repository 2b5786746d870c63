//! Where a request's body ends.

use super::Outcome::Refused;
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
            Refused(400, "length_and_coding"),
        ),
        post(
            "Transfer-Encoding and Content-Length",
            "9112 §6.1",
            "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nG",
            Refused(400, "length_and_coding"),
        ),
        post(
            "two lengths that differ",
            "9112 §6.3",
            "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            Refused(400, "content_length_repeated"),
        ),
        post(
            "the same length twice",
            "9112 §6.3",
            "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            Refused(400, "content_length_repeated"),
        ),
        post(
            "a list of lengths",
            "9110 §8.6",
            "Content-Length: 5, 5\r\n\r\nhello",
            Refused(400, "bad_content_length"),
        ),
        post(
            "a signed length",
            "9110 §8.6",
            "Content-Length: +5\r\n\r\nhello",
            Refused(400, "bad_content_length"),
        ),
        post(
            "a negative length",
            "9110 §8.6",
            "Content-Length: -1\r\n\r\n",
            Refused(400, "bad_content_length"),
        ),
        post(
            "a length in hexadecimal",
            "9110 §8.6",
            "Content-Length: 0x5\r\n\r\nhello",
            Refused(400, "bad_content_length"),
        ),
        post(
            "a length with a space",
            "9110 §8.6",
            "Content-Length: 1 0\r\n\r\n",
            Refused(400, "bad_content_length"),
        ),
        post("an empty length", "9110 §8.6", "Content-Length: \r\n\r\n", Refused(400, "bad_content_length")),
        post(
            "a length beyond 64 bits",
            "9110 §8.6",
            "Content-Length: 18446744073709551616\r\n\r\n",
            Refused(400, "bad_content_length"),
        ),
        post(
            "an unknown coding",
            "9112 §6.1",
            "Transfer-Encoding: gzip\r\n\r\n",
            Refused(501, "unknown_coding"),
        ),
        post(
            "an unknown coding before chunked",
            "9112 §6.1",
            "Transfer-Encoding: gzip, chunked\r\n\r\n",
            Refused(501, "unknown_coding"),
        ),
        post(
            "identity, which is none any more",
            "9112 §7",
            "Transfer-Encoding: identity\r\n\r\n",
            Refused(501, "unknown_coding"),
        ),
        post(
            "a name that is almost chunked",
            "9112 §6.1",
            "Transfer-Encoding: xchunked\r\n\r\n",
            Refused(501, "unknown_coding"),
        ),
        post(
            "chunked behind a control",
            "9110 §5.5",
            "Transfer-Encoding: \x0bchunked\r\n\r\n",
            Refused(400, "control_character"),
        ),
        post(
            "chunked with a parameter",
            "9112 §7",
            "Transfer-Encoding: chunked;q=1\r\n\r\n",
            Refused(400, "bad_transfer_encoding"),
        ),
        post(
            "chunked twice",
            "9112 §6.1",
            "Transfer-Encoding: chunked, chunked\r\n\r\n",
            Refused(400, "bad_transfer_encoding"),
        ),
        post(
            "chunked on two lines",
            "9112 §6.1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            Refused(400, "bad_transfer_encoding"),
        ),
        post(
            "chunked, but not the last",
            "9112 §6.3",
            "Transfer-Encoding: chunked, gzip\r\n\r\n",
            Refused(400, "bad_transfer_encoding"),
        ),
        post(
            "another line behind chunked",
            "9112 §6.3",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
            Refused(400, "bad_transfer_encoding"),
        ),
        post(
            "an empty coding",
            "9112 §6.1",
            "Transfer-Encoding: \r\n\r\n",
            Refused(400, "bad_transfer_encoding"),
        ),
        case(
            "chunks in HTTP/1.0",
            "9112 §6.1",
            b"POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".as_slice(),
            Refused(400, "coding_not_allowed"),
        ),
        case(
            "TRACE with a body",
            "9110 §9.3.8",
            b"TRACE / HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello".as_slice(),
            Refused(400, "body_not_allowed"),
        ),
        case(
            "TRACE with chunks",
            "9110 §9.3.8",
            b"TRACE / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".as_slice(),
            Refused(400, "body_not_allowed"),
        ),
    ]
}
