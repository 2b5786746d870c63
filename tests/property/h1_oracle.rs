//! hyper as an oracle for the HTTP/1 codec: hyper accepts what we accept, and reads it the same.
//! A table lists what hyper accepts and we reject, with the reasons.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use homing::h1::{Body, BodyLimits, FieldSlots, Framing, HeadError, HeadLimits, Parsed, parse_request};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::io::AsyncWriteExt;

const HEAD: HeadLimits = HeadLimits { head_bytes: 4096, fields: 64, uri_bytes: 512 };

/// The parts of a request that both codecs must agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    method: String,
    path_and_query: String,
    version: String,
    fields: BTreeMap<String, Vec<Vec<u8>>>,
    body: Vec<u8>,
}

/// Reads the first request of the input with our codec. An incomplete request is an error.
fn ours(input: &[u8]) -> Result<Seen, String> {
    let mut slots = FieldSlots::new();
    let (head, len) = match parse_request(input, &mut 0, &HEAD, &mut slots) {
        Ok(Parsed::Complete { head, len }) => (head, len),
        other => return Err(format!("{other:?}")),
    };
    let mut fields = BTreeMap::<_, Vec<_>>::new();
    for field in &head.fields {
        fields.entry(field.name.to_ascii_lowercase()).or_default().push(field.value.to_vec());
    }
    let mut body = Body::new(head.framing, BodyLimits::default()).with_data_only();
    let (mut data, mut at) = (Vec::new(), len);
    while !body.is_done() {
        let step = body.advance(&input[at..]).map_err(|error| error.to_string())?;
        data.extend_from_slice(&input[at..][step.forward]);
        at += step.consumed;
        if step.consumed == 0 {
            return Err("incomplete".to_owned());
        }
    }
    let length = if let Framing::Length(length) = head.framing { length } else { data.len() as u64 };
    assert_eq!(length, data.len() as u64);
    Ok(Seen {
        method: head.method.to_owned(),
        path_and_query: head.target.path_and_query().to_owned(),
        version: head.version.as_str().to_owned(),
        fields,
        body: data,
    })
}

/// Reads the first request of the input with hyper. `None` means that hyper rejects it.
fn hypers(input: &[u8]) -> Option<Seen> {
    let seen = Arc::new(Mutex::new(None));
    let service = service_fn(|request: Request<Incoming>| {
        let seen = Arc::clone(&seen);
        async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await else {
                return Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()));
            };
            let mut fields = BTreeMap::<_, Vec<_>>::new();
            for (name, value) in &head.headers {
                fields.entry(name.as_str().to_owned()).or_default().push(value.as_bytes().to_vec());
            }
            seen.lock().get_or_insert(Seen {
                method: head.method.as_str().to_owned(),
                path_and_query: head.uri.path_and_query().map_or("", |target| target.as_str()).to_owned(),
                version: format!("{:?}", head.version),
                fields,
                body: body.to_bytes().to_vec(),
            });
            Ok(Response::new(Empty::new()))
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        client.write_all(input).await.expect("write the input");
        client.shutdown().await.expect("close the input");
        // The client's half stays open, so that responses can be written.
        let _ = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service)
            .await;
    });
    seen.lock().take()
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let lines = select(vec![
        "Host: a",
        "Connection: keep-alive",
        "Connection: close",
        "Cookie: a=b; c=d",
        "Cookie: e",
        "X-Empty:",
        "X: \t spaced \t",
        "Accept: */*",
        "TE: trailers",
        "Upgrade: h2c",
        "Expect: nothing",
        "Content-Type: text/plain",
    ]);
    let first = select(vec![
        "GET / HTTP/1.1",
        "POST /a/b;c?d=e&f HTTP/1.1",
        "PUT //a HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "DELETE http://h:81/x?y HTTP/1.1",
        "GET http://h HTTP/1.1",
        "POST / HTTP/1.0",
        "M-SEARCH /~a%20b HTTP/1.1",
        "\r\nPOST / HTTP/1.1",
    ]);
    let body = select(vec![
        "\r\n",
        "Content-Length: 5\r\n\r\nhello",
        "Content-Length: 005\r\n\r\nhello",
        "content-length:0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "Transfer-Encoding: CHUNKED\r\n\r\n05;a=b\r\nhello\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0;x\r\nA: b\r\nC: d\r\n\r\n",
    ]);
    let change = prop::option::of((any::<Index>(), any::<u8>(), any::<bool>()));
    (first, prop::collection::vec(lines, 0..5), body, change).prop_map(|(first, lines, body, change)| {
        let mut input = format!("{first}\r\nHost: x\r\n").into_bytes();
        for line in lines.iter().filter(|line| !line.starts_with("Host")) {
            input.extend_from_slice(format!("{line}\r\n").as_bytes());
        }
        input.extend_from_slice(body.as_bytes());
        if let Some((at, byte, replace)) = change {
            let at = at.index(input.len());
            if replace {
                input[at] = byte;
            } else {
                input.insert(at, byte);
            }
        }
        input
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn hyper_reads_what_we_accept_the_same(input in request()) {
        if let Ok(mut ours) = ours(&input) {
            let hypers = hypers(&input);
            if http::uri::PathAndQuery::try_from(ours.path_and_query.as_str()).is_err() {
                // Browsers send `"`, `<` and `>` in queries, and Tomcat answers them; hyper's `Uri` does not hold them.
                prop_assert_eq!(None, hypers, "{}", input.escape_ascii());
                return Ok(());
            }
            if ours.path_and_query == "*" {
                // `OPTIONS http://h` is `*` to its origin server; hyper leaves it as it is.
                ours.path_and_query = hypers.as_ref().map_or_else(String::new, |seen| seen.path_and_query.clone());
            }
            prop_assert_eq!(Some(ours), hypers, "{}", input.escape_ascii());
        }
    }
}

#[test]
fn the_oracle_reads_requests() {
    let input = b"POST /a?b HTTP/1.1\r\nHost: x\r\nA: 1\r\na: 2\r\nContent-Length: 2\r\n\r\nhi";
    let seen = hypers(input).expect("a request");
    assert_eq!(
        (seen.method.as_str(), seen.path_and_query.as_str(), seen.body.as_slice()),
        ("POST", "/a?b", &b"hi"[..])
    );
    assert_eq!(seen.fields["a"], [b"1", b"2"]);
    assert_eq!(ours(input), Ok(seen));
}

#[test]
fn every_listed_request_is_rejected_though_hyper_accepts_it() {
    let get = |rest: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{rest}\r\n").into_bytes();
    let chunked = |body: &str| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes()
    };
    let accepted_by_hyper: Vec<(&str, Vec<u8>, Result<HeadError, &str>)> = vec![
        (
            "a proxy and a backend that end lines differently can be made to disagree",
            b"GET / HTTP/1.1\nHost: a\n\n".to_vec(),
            Ok(HeadError::BareLf),
        ),
        ("likewise in a single field", get("X: y\nZ: z\r\n"), Ok(HeadError::BareLf)),
        (
            "more leading empty lines than RFC 9112 §2.2 allows for",
            b"\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Ok(HeadError::RequestLine),
        ),
        (
            "HTTP/1.1 without Host is 400 (RFC 9112 §3.2)",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            Ok(HeadError::HostMissing),
        ),
        ("several Host fields are 400 too", get("Host: b\r\n"), Ok(HeadError::HostRepeated)),
        (
            "an invalid Host is 400 too",
            b"GET / HTTP/1.1\r\nHost: u@a/b\r\n\r\n".to_vec(),
            Ok(HeadError::Host),
        ),
        (
            "CONNECT is for forward proxies",
            b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n".to_vec(),
            Ok(HeadError::Connect),
        ),
        (
            "`*` is for OPTIONS only (RFC 9112 §3.2.4)",
            b"GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Ok(HeadError::Target),
        ),
        (
            "clients never send a fragment; servers disagree on whether to cut it off",
            b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Ok(HeadError::Target),
        ),
        (
            "a scheme that Homing does not speak",
            b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            Ok(HeadError::Target),
        ),
        (
            "two lengths, even if equal: no honest client sends them",
            get("Content-Length: 0\r\nContent-Length: 0\r\n"),
            Ok(HeadError::ContentLengthRepeated),
        ),
        (
            "a length next to a coding is used to smuggle requests (RFC 9112 §6.1)",
            [get("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), b"0\r\n\r\n".to_vec()].concat(),
            Ok(HeadError::LengthAndCoding),
        ),
        (
            "the backend may not know the coding",
            [get("Transfer-Encoding: gzip, chunked\r\n"), b"0\r\n\r\n".to_vec()].concat(),
            Ok(HeadError::UnknownCoding),
        ),
        (
            "chunked twice",
            [get("Transfer-Encoding: chunked, chunked\r\n"), b"0\r\n\r\n".to_vec()].concat(),
            Ok(HeadError::TransferEncoding),
        ),
        (
            "a Connection option that would remove Host",
            get("Connection: host\r\n"),
            Ok(HeadError::Connection),
        ),
        (
            "the grammar has no spaces after a chunk size",
            chunked("5 \r\nhello\r\n0\r\n\r\n"),
            Err("invalid chunk size"),
        ),
        (
            "a method longer than any that exists",
            format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(25)).into_bytes(),
            Ok(HeadError::Method),
        ),
    ];
    for (reason, input, expected) in accepted_by_hyper {
        assert!(hypers(&input).is_some(), "hyper rejects it too: {reason}");
        let mut slots = FieldSlots::new();
        match (parse_request(&input, &mut 0, &HEAD, &mut slots), expected) {
            (Err(error), Ok(expected)) => assert_eq!(error, expected, "{reason}"),
            (Ok(_), Err(expected)) => assert_eq!(ours(&input), Err(expected.to_owned()), "{reason}"),
            (result, _) => panic!("{reason}: {result:?}"),
        }
    }
}
