//! The HTTP/1 codec: splitting the input never changes the result, and what is forwarded means
//! the same as what was received.

use homing::h1::{
    Body, BodyError, BodyLimits, CHUNK_END, Edit, FieldSlots, Framing, HeadError, HeadLimits, LAST_CHUNK,
    Parsed, copy_fields, end_head, parse_request, parse_response, write_chunk_prefix, write_field,
    write_request_line, write_status_line,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const HEAD: HeadLimits = HeadLimits { head_bytes: 512, fields: 12, uri_bytes: 64 };
const BODY: BodyLimits = BodyLimits { trailer_bytes: 128, extension_bytes: 64 };

/// Pieces of valid and invalid heads.
fn head_piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"GET ",
        b"POST ",
        b"OPTIONS ",
        b"HEAD ",
        b"/",
        b"*",
        b"/a?b",
        b"http://h/x",
        b"//",
        b" ",
        b" HTTP/1.1",
        b" HTTP/1.0",
        b" HTTP/2.0",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"Host: a",
        b"Host: b:80",
        b"Connection: close",
        b"Connection: x, upgrade",
        b"Upgrade: y",
        b"Content-Length: 5",
        b"Content-Length: +5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"X: y",
        b"X : y",
        b": ",
        b"\t",
        b"\0",
        b"\x7f",
        b"\xe9",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 204 No",
        b"HTTP/1.0 404 ",
        b"HTTP/1.1 999 X",
        b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ];
    select(pieces).prop_map(<[u8]>::to_vec)
}

/// A valid head with at most one mutation.
fn head() -> impl Strategy<Value = Vec<u8>> {
    let lines = prop::collection::vec(
        select(vec![
            "Host: a",
            "Host: h.example:8080",
            "Connection: keep-alive",
            "Connection: close, x-hop",
            "X-Hop: 1",
            "Cookie: a=b",
            "Content-Length: 3",
            "Transfer-Encoding: chunked",
            "Upgrade: websocket",
            "Connection: upgrade",
            "Expect: 100-continue",
            "X-Affinity-Backend: n",
            "A:b",
            "Empty:",
            "Spaced: \t a b \t ",
        ]),
        0..8,
    );
    let first = select(vec![
        "GET / HTTP/1.1",
        "POST /a/b?c=d HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "GET http://h:81/x HTTP/1.1",
        "GET / HTTP/1.0",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 304 Not Modified",
        "HTTP/1.0 200 ",
        "\r\nGET / HTTP/1.1",
    ]);
    let change = prop::option::of((any::<Index>(), head_piece(), any::<bool>()));
    (first, lines, change, select(vec!["", "rest", "GET /"])).prop_map(|(first, lines, change, rest)| {
        let mut head = format!("{first}\r\nHost: x\r\n").into_bytes();
        for line in lines {
            head.extend_from_slice(line.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        if let Some((at, piece, replace)) = change {
            let at = at.index(head.len());
            let end = if replace { head.len().min(at + piece.len()) } else { at };
            head.splice(at..end, piece);
        }
        head.extend_from_slice(rest.as_bytes());
        head
    })
}

fn any_head() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => head(),
        2 => prop::collection::vec(head_piece(), 0..24).prop_map(|pieces| pieces.concat()),
        1 => prop::collection::vec(any::<u8>(), 0..64),
    ]
}

/// Returns a whole head in debug format, or `None` if it needs more input.
fn describe_request(input: &[u8], scanned: &mut usize) -> Result<Option<String>, HeadError> {
    let mut slots = FieldSlots::new();
    Ok(match parse_request(input, scanned, &HEAD, &mut slots)? {
        Parsed::Complete { head, len } => Some(format!("{head:?} {len}")),
        Parsed::Partial => None,
    })
}

fn describe_response(input: &[u8], scanned: &mut usize) -> Result<Option<String>, HeadError> {
    let mut slots = FieldSlots::new();
    Ok(match parse_response(input, scanned, &HEAD, "GET", &mut slots)? {
        Parsed::Complete { head, len } => Some(format!("{head:?} {len}")),
        Parsed::Partial => None,
    })
}

/// Parses growing prefixes of the input and returns the first result that is not partial.
fn in_pieces(
    parse: fn(&[u8], &mut usize) -> Result<Option<String>, HeadError>,
    input: &[u8],
    mut ends: Vec<usize>,
) -> Result<Option<String>, HeadError> {
    ends.sort_unstable();
    ends.push(input.len());
    let mut scanned = 0;
    for end in ends {
        match parse(&input[..end], &mut scanned) {
            // No byte is scanned twice, so that a head that drips in costs linear time.
            Ok(None) => assert!(scanned <= end && end <= scanned + 2),
            result => return result,
        }
    }
    Ok(None)
}

/// The number of data bytes and the input after the body.
type End = Result<(u64, Vec<u8>), BodyError>;

/// Passes a body through in pieces; returns what is forwarded and how the body ends.
fn pass(mut body: Body, input: &[u8], mut ends: Vec<usize>) -> (Vec<u8>, End) {
    ends.sort_unstable();
    ends.push(input.len());
    let (mut out, mut done_with) = (Vec::new(), 0);
    for end in ends {
        while done_with < end {
            let step = match body.advance(&input[done_with..end]) {
                Ok(step) => step,
                Err(error) => return (out, Err(error)),
            };
            assert!(step.forward.start <= step.forward.end && step.forward.end <= step.consumed);
            out.extend_from_slice(&input[done_with..][step.forward]);
            done_with += step.consumed;
            if step.consumed == 0 || step.done {
                break;
            }
        }
    }
    let end = body.finish_at_eof().map(|()| (body.data_bytes(), input[done_with..].to_vec()));
    (out, end)
}

/// A chunked body on the wire, and its data.
fn chunked() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let extension = select(vec!["", "", "", ";a", ";a=b", ";a=\"b; c\""]);
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), extension, 0..4_usize, any::<bool>());
    let trailers =
        prop::collection::vec(select(vec!["A: b", "Content-Length: 3", "Host: x", "X-Sum:\t1 "]), 0..3);
    (prop::collection::vec(chunk, 0..6), trailers).prop_map(|(chunks, trailers)| {
        let (mut wire, mut data) = (Vec::new(), Vec::new());
        for (content, extension, zeros, upper) in chunks {
            let size = format!("{}{:x}", "0".repeat(zeros), content.len());
            let size = if upper { size.to_uppercase() } else { size };
            wire.extend_from_slice(format!("{size}{extension}\r\n").as_bytes());
            wire.extend_from_slice(&content);
            wire.extend_from_slice(b"\r\n");
            data.extend_from_slice(&content);
        }
        wire.extend_from_slice(b"0\r\n");
        for trailer in trailers {
            wire.extend_from_slice(format!("{trailer}\r\n").as_bytes());
        }
        wire.extend_from_slice(b"\r\n");
        (wire, data)
    })
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        1 => Just(Framing::None),
        1 => (0..64_u64).prop_map(Framing::Length),
        3 => Just(Framing::Chunked),
        1 => Just(Framing::UntilClose),
    ]
}

fn splits() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..6)
}

fn ends(splits: &[Index], input: &[u8]) -> Vec<usize> {
    splits.iter().map(|split| split.index(input.len() + 1)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    #[test]
    fn a_split_head_parses_the_same(input in any_head(), splits in splits()) {
        for parse in [describe_request, describe_response] {
            let whole = parse(&input, &mut 0);
            prop_assert_eq!(in_pieces(parse, &input, ends(&splits, &input)), whole.clone());
            prop_assert_eq!(in_pieces(parse, &input, (0..input.len()).collect()), whole);
        }
    }

    #[test]
    fn a_split_body_passes_the_same(
        (mut input, _) in chunked(),
        framing in framing(),
        change in prop::option::of((any::<Index>(), any::<u8>())),
        splits in splits(),
        data_only: bool,
    ) {
        input.extend_from_slice(b"GET / HTTP/1.1\r\n");
        if let Some((at, byte)) = change {
            let at = at.index(input.len());
            input[at] = byte;
        }
        let body = Body::new(framing, BODY);
        let body = if data_only { body.with_data_only() } else { body };
        let whole = pass(body.clone(), &input, Vec::new());
        for ends in [ends(&splits, &input), (0..input.len()).collect()] {
            let pieces = pass(body.clone(), &input, ends);
            prop_assert_eq!(&pieces.1, &whole.1);
            // Before an error, one may have forwarded more than the other, but nothing different.
            if whole.1.is_ok() {
                prop_assert_eq!(pieces.0, whole.0.clone());
            } else {
                prop_assert!(pieces.0.starts_with(&whole.0) || whole.0.starts_with(&pieces.0));
            }
        }
    }

    #[test]
    fn forwarded_chunks_hold_the_same_data((wire, data) in chunked()) {
        let body = || Body::new(Framing::Chunked, BODY);
        let (raw, end) = pass(body(), &wire, Vec::new());
        prop_assert_eq!(end, Ok((data.len() as u64, Vec::new())));
        prop_assert!(!raw.contains(&b';') || data.contains(&b';'));
        // The output is a chunked body again, and passes unchanged.
        prop_assert_eq!(&pass(body(), &raw, Vec::new()).0, &raw);
        prop_assert_eq!(&pass(body().with_data_only(), &raw, Vec::new()).0, &data);
        prop_assert_eq!(&pass(body().with_data_only(), &wire, Vec::new()).0, &data);
    }

    #[test]
    fn written_chunks_parse(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..5)) {
        let mut wire = Vec::new();
        for piece in &pieces {
            write_chunk_prefix(&mut wire, piece.len());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(CHUNK_END);
        }
        wire.extend_from_slice(LAST_CHUNK);
        let body = Body::new(Framing::Chunked, BODY);
        let mut whole = body.clone();
        let step = whole.advance(&wire);
        prop_assert!(step.is_ok_and(|step| step.done && step.forward == (0..wire.len())));
        let (data, end) = pass(body.with_data_only(), &wire, Vec::new());
        prop_assert_eq!(data, pieces.concat());
        prop_assert!(end.is_ok());
    }

    #[test]
    fn written_requests_parse(
        method in "[A-Z!#$%&'*+.^_`|~-]{1,24}",
        target in "/[!$-;=@-\\[\\]-_a-z|~]{0,30}([?][!$-;=?-\\[\\]-~]{0,30})?",
        names in prop::collection::vec("[a-zA-Z0-9_-]{1,12}", 0..8),
        value in "([!-~]([ -~\t]{0,20}[!-~])?)?",
        drop in any::<Index>(),
    ) {
        prop_assume!(method != "CONNECT");
        let names: Vec<String> = names.into_iter().map(|name| format!("Y-{name}")).collect();
        let mut wire = Vec::new();
        write_request_line(&mut wire, &method, &target);
        write_field(&mut wire, "Host", b"a");
        for name in &names {
            write_field(&mut wire, name, value.as_bytes());
        }
        end_head(&mut wire);

        let mut slots = FieldSlots::new();
        let parsed = parse_request(&wire, &mut 0, &HEAD, &mut slots);
        let Ok(Parsed::Complete { head, len }) = parsed else { panic!("{parsed:?}") };
        prop_assert_eq!(len, wire.len());
        prop_assert_eq!(head.method, &method);
        prop_assert_eq!(head.target.path_and_query(), &target);
        prop_assert_eq!(head.fields.len(), names.len() + 1);
        for (field, name) in head.fields[1..].iter().zip(&names) {
            prop_assert_eq!((field.name, field.value), (name.as_str(), value.as_bytes()));
        }

        // A copy without one field looks as if the field had never been there.
        let dropped = drop.index(head.fields.len());
        let mut copy = Vec::new();
        write_request_line(&mut copy, "GET", "/");
        let mut index = 0;
        copy_fields(&mut copy, &head.fields, |_| {
            index += 1;
            if index - 1 == dropped { Edit::Drop } else { Edit::Keep }
        });
        let mut expected = Vec::new();
        write_request_line(&mut expected, "GET", "/");
        for field in head.fields.iter().enumerate().filter(|(index, _)| *index != dropped).map(|(_, field)| field) {
            write_field(&mut expected, field.name, field.value);
        }
        prop_assert_eq!(copy, expected);
    }

    #[test]
    fn copied_heads_parse_the_same(input in head()) {
        let mut slots = FieldSlots::new();
        let Ok(Parsed::Complete { head, .. }) = parse_request(&input, &mut 0, &HEAD, &mut slots) else { return Ok(()) };
        let mut copy = Vec::new();
        write_request_line(&mut copy, head.method, head.target.path_and_query());
        // Whether replaced or kept, only the OWS around a value may differ.
        let mut replace = false;
        copy_fields(&mut copy, &head.fields, |field| {
            replace = !replace;
            if replace { Edit::Replace(field.value) } else { Edit::Keep }
        });
        end_head(&mut copy);
        let mut slots = FieldSlots::new();
        let parsed = parse_request(&copy, &mut 0, &HeadLimits { head_bytes: 4096, ..HEAD }, &mut slots);
        let version = head.version;
        match parsed {
            Ok(Parsed::Complete { head: again, len }) => {
                prop_assert_eq!(len, copy.len());
                prop_assert_eq!(format!("{:?}", again.fields), format!("{:?}", head.fields));
                prop_assert_eq!(again.framing, head.framing);
                prop_assert_eq!(again.connection, head.connection);
            }
            // An HTTP/1.0 request is forwarded as 1.1, which needs the Host that the pipeline adds.
            result => prop_assert!(
                version == homing::h1::Version::Http10 && matches!(result, Err(HeadError::HostMissing)),
                "{:?}", result
            ),
        }
    }

    #[test]
    fn written_responses_parse(
        status in 200..=599_u16,
        reason in "[ -~\u{e9}\t]{0,20}",
        length in 0..=u64::MAX >> 1,
    ) {
        let mut wire = Vec::new();
        write_status_line(&mut wire, status, reason.as_bytes());
        write_field(&mut wire, "Content-Length", length.to_string().as_bytes());
        end_head(&mut wire);
        let mut slots = FieldSlots::new();
        let parsed = parse_response(&wire, &mut 0, &HEAD, "GET", &mut slots);
        let Ok(Parsed::Complete { head, len }) = parsed else { panic!("{parsed:?}") };
        prop_assert_eq!((head.status, head.reason, len), (status, reason.as_bytes(), wire.len()));
        let framing = if matches!(status, 204 | 304) { Framing::None } else { Framing::Length(length) };
        prop_assert_eq!(head.framing, framing);
    }
}
