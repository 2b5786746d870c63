//! Tests of body parsing.

use super::*;

const LIMITS: BodyLimits = BodyLimits { trailer_bytes: 64, extension_bytes: 16 };

/// Returns the forwarded bytes and the rest, with input in pieces of `size`.
fn pass(mut body: Body, input: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), BodyError> {
    let (mut out, mut kept) = (Vec::new(), Vec::new());
    for piece in input.chunks(size) {
        kept.extend_from_slice(piece);
        loop {
            let step = body.advance(&kept)?;
            out.extend_from_slice(&kept[step.forward]);
            kept.drain(..step.consumed);
            assert_eq!(step.done, body.is_done());
            if step.consumed == 0 || kept.is_empty() {
                break;
            }
        }
    }
    body.finish_at_eof()?;
    Ok((out, kept))
}

fn chunks(input: &str) -> Result<String, BodyError> {
    let result = pass(Body::new(Framing::Chunked, LIMITS), input.as_bytes(), usize::MAX);
    for size in 1..input.len().max(2) {
        assert_eq!(
            pass(Body::new(Framing::Chunked, LIMITS), input.as_bytes(), size),
            result,
            "{input:?} by {size}"
        );
    }
    result.map(|(out, _)| String::from_utf8(out).unwrap())
}

fn data(input: &str) -> String {
    let body = Body::new(Framing::Chunked, LIMITS).with_data_only();
    let whole = pass(body.clone(), input.as_bytes(), usize::MAX).unwrap().0;
    assert_eq!(pass(body, input.as_bytes(), 1).unwrap().0, whole);
    String::from_utf8(whole).unwrap()
}

#[test]
fn whole_chunks_are_one_range() {
    let input = b"5\r\nhello\r\n00A\r\n0123456789\r\n0\r\nX: y\r\n\r\nnext";
    let mut body = Body::new(Framing::Chunked, LIMITS);
    let end = input.len() - 4;
    assert_eq!(body.advance(input), Ok(Step { consumed: end, forward: 0..end, done: true }));
    assert_eq!(body.data_bytes(), 15);
    assert_eq!(body.advance(b"next"), Ok(Step { consumed: 0, forward: 0..0, done: true }));
}

#[test]
fn extensions_are_dropped() {
    assert_eq!(chunks("5;a=b\r\nhello\r\n0;c\r\n\r\n").as_deref(), Ok("5\r\nhello\r\n0\r\n\r\n"));
    assert_eq!(chunks("1;a=\"b c\"\r\nx\r\n0\r\n\r\n").as_deref(), Ok("1\r\nx\r\n0\r\n\r\n"));
    for wrong in ["1;\r\n", "1;a\x01\r\n", "1;a\0\r\n", "1;a\u{e9}\r\n", "1;a\x7f\r\n"] {
        assert_eq!(chunks(&format!("{wrong}x\r\n0\r\n\r\n")), Err(BodyError::ChunkExtension), "{wrong:?}");
    }
    assert_eq!(chunks("1;a\nx\r\n0\r\n\r\n"), Err(BodyError::LineEnd));
    assert_eq!(chunks("1;a\rx\r\n0\r\n\r\n"), Err(BodyError::LineEnd));
    // The limit is for all chunks together: sixteen bytes are allowed.
    assert!(chunks("1;aaaaaaaa\r\nx\r\n1;aaaaaaaa\r\nx\r\n0\r\n\r\n").is_ok());
    assert_eq!(
        chunks("1;aaaaaaaa\r\nx\r\n1;aaaaaaaaa\r\nx\r\n0\r\n\r\n"),
        Err(BodyError::ChunkExtensionsTooLarge)
    );
}

#[test]
fn chunk_sizes_are_strict() {
    for wrong in [
        "",
        "+1",
        "-1",
        " 1",
        "1 ",
        "0x1",
        "g",
        "1\t",
        "_1",
        ";a",
        "10000000000000000",
        "00000000000000001",
        "8000000000000000",
        "ffffffffffffffff",
    ] {
        assert_eq!(chunks(&format!("{wrong}\r\nx\r\n0\r\n\r\n")), Err(BodyError::ChunkSize), "{wrong:?}");
    }
    assert_eq!(chunks("1\nx\r\n0\r\n\r\n"), Err(BodyError::LineEnd));
    assert_eq!(chunks("1\r\rx\r\n0\r\n\r\n"), Err(BodyError::LineEnd));
    assert!(chunks("0000000000000001\r\nx\r\n0000000000000000\r\n\r\n").is_ok());
    assert_eq!(chunks("7fffffffffffffff\r\nx\r\n0\r\n\r\n"), Err(BodyError::Truncated));
}

#[test]
fn no_digit_of_a_chunk_size_goes_on_before_the_size_is_known() {
    let mut body = Body::new(Framing::Chunked, LIMITS);
    for digits in 1..16 {
        let step = body.advance(&b"ffffffffffffffff"[..digits]);
        assert_eq!(step, Ok(Step { consumed: 0, forward: 0..0, done: false }), "{digits}");
    }
    assert_eq!(body.advance(b"ffffffffffffffff"), Err(BodyError::ChunkSize));
    let step = body.advance(b"7fffffffffffffff\r");
    assert_eq!(step, Ok(Step { consumed: 17, forward: 0..17, done: false }));
}

#[test]
fn chunk_data_must_end_in_crlf() {
    for wrong in ["1\r\nxy\r\n", "1\r\nx\n", "1\r\nx0\r\n\r\n", "1\r\nx\rx"] {
        assert_eq!(chunks(&format!("{wrong}0\r\n\r\n")), Err(BodyError::LineEnd), "{wrong:?}");
    }
}

#[test]
fn forbidden_trailers_are_dropped() {
    let with = |trailers: &str| chunks(&format!("0\r\n{trailers}\r\n"));
    assert_eq!(
        with("Server-Timing: a\r\nX: \t\r\n").as_deref(),
        Ok("0\r\nServer-Timing: a\r\nX: \t\r\n\r\n")
    );
    for forbidden in [
        "Content-Length: 5",
        "transfer-encoding: chunked",
        "Host: a",
        "Connection: X",
        "Set-Cookie: a=b",
        "Cookie: a",
        "Authorization: a",
        "Content-Type: a",
        "X-Forwarded-For: a",
        "X-Affinity-Backend: a",
        "Keep-Alive: a",
        "TE: a",
        "Trailer: X",
        "Upgrade: a",
        "Range: a",
        "Expect: a",
        "Cache-Control: a",
        "Location: a",
    ] {
        let trailers = format!("A: 1\r\n{forbidden}\r\nB: 2\r\n");
        assert_eq!(with(&trailers).as_deref(), Ok("0\r\nA: 1\r\nB: 2\r\n\r\n"), "{forbidden}");
    }
    for wrong in
        ["A\r\n", "A : b\r\n", ": b\r\n", "A: b\r\n c\r\n", "A: b\0\r\n", "A: b\rc\r\n", "\u{e9}: b\r\n"]
    {
        assert_eq!(with(wrong), Err(BodyError::Trailer), "{wrong:?}");
    }
    assert_eq!(with("A: b\n"), Err(BodyError::LineEnd));
    let sized = |len: usize| format!("A: {}\r\n", "b".repeat(len - 5));
    assert!(with(&sized(64)).is_ok());
    assert!(with(&sized(32).repeat(2)).is_ok());
    assert_eq!(with(&sized(65)), Err(BodyError::TrailersTooLarge));
    assert_eq!(with(&sized(33).repeat(2)), Err(BodyError::TrailersTooLarge));
    // This does not depend on the end of the line.
    assert_eq!(chunks(&format!("0\r\n{}", "b".repeat(64))), Err(BodyError::Truncated));
    assert_eq!(chunks(&format!("0\r\n{}", "b".repeat(65))), Err(BodyError::TrailersTooLarge));
    assert_eq!(chunks(&format!("0\r\n{}\n", "b".repeat(64))), Err(BodyError::TrailersTooLarge));
}

#[test]
fn data_only_drops_the_framing() {
    assert_eq!(data("5\r\nhello\r\n1;a\r\nx\r\n0\r\nA: b\r\n\r\n"), "hellox");
    assert_eq!(data("0\r\n\r\n"), "");
}

#[test]
fn body_ends_at_its_content_length() {
    for size in 1..8 {
        let body = Body::new(Framing::Length(5), LIMITS);
        let result = pass(body, b"helloGET", size).unwrap();
        assert_eq!(result, (b"hello".to_vec(), b"GET".to_vec()));
    }
    let mut body = Body::new(Framing::Length(5), LIMITS);
    body.advance(b"hell").unwrap();
    assert_eq!(body.finish_at_eof(), Err(BodyError::Truncated));
    assert!(Body::new(Framing::Length(0), LIMITS).is_done());
    assert!(Body::new(Framing::None, LIMITS).is_done());
}

#[test]
fn end_of_connection_ends_only_close_delimited_bodies() {
    let mut body = Body::new(Framing::UntilClose, LIMITS);
    assert_eq!(body.advance(b"abc"), Ok(Step { consumed: 3, forward: 0..3, done: false }));
    assert_eq!((body.finish_at_eof(), body.is_done(), body.data_bytes()), (Ok(()), true, 3));
    let complete = "5;a\r\nhello\r\n0\r\nA: b\r\n\r\n";
    for len in 0..complete.len() {
        assert_eq!(chunks(&complete[..len]), Err(BodyError::Truncated), "{len}");
    }
}

#[test]
fn body_state_is_small() {
    assert!(size_of::<Body>() <= 40);
}
