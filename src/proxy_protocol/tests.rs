use super::*;

fn complete(input: &[u8]) -> Header {
    for end in 0..input.len() {
        assert_eq!(
            parse(&input[..end]),
            Ok(Parsed::Partial),
            "{:?}",
            input[..end].escape_ascii().to_string()
        );
    }
    let mut followed = input.to_vec();
    followed.extend_from_slice(b"GET / HTTP/1.1\r\n");
    let Ok(Parsed::Complete { header, len }) = parse(&followed) else {
        panic!("{:?} of {}", parse(&followed), input.escape_ascii());
    };
    assert_eq!(len, input.len());
    header
}

/// Returns the error, which must come with the last byte and not before.
fn refused(input: &[u8]) -> Error {
    let before = &input[..input.len() - 1];
    assert_eq!(parse(before), Ok(Parsed::Partial), "{}", before.escape_ascii());
    match parse(input) {
        Err(error) => error,
        other => panic!("{other:?} of {}", input.escape_ascii()),
    }
}

fn tcp(source: &str, destination: &str) -> Header {
    Header::Tcp { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut header = v2::SIGNATURE.to_vec();
    header.extend_from_slice(&[command, family]);
    header.extend_from_slice(&u16::try_from(block.len()).unwrap().to_be_bytes());
    header.extend_from_slice(block);
    header
}

const INET: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn line_names_the_client() {
    assert_eq!(
        complete(b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"),
        tcp("192.0.2.1:56324", "198.51.100.7:443")
    );
    assert_eq!(
        complete(b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 0 65535\r\n"),
        tcp("[2001:db8::1]:0", "[::ffff:192.0.2.1]:65535")
    );
    assert_eq!(
        complete(
            b"PROXY TCP6 ffff:ffff:FFFF:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n"
        ),
        tcp(
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535"
        )
    );
}

#[test]
fn unknown_line_ignores_the_rest() {
    assert_eq!(complete(b"PROXY UNKNOWN\r\n"), Header::Unknown);
    assert_eq!(complete(b"PROXY UNKNOWN  any\0thing\xff \r\n"), Header::Unknown);
    let mut longest = b"PROXY UNKNOWN ".to_vec();
    longest.resize(MAX_V1_BYTES - 2, b'x');
    longest.extend_from_slice(b"\r\n");
    assert_eq!(complete(&longest), Header::Unknown);
}

#[test]
fn line_length_is_limited() {
    let mut endless = b"PROXY UNKNOWN ".to_vec();
    endless.resize(MAX_V1_BYTES, b'x');
    assert_eq!(refused(&endless), Error::TooLong);
    endless[MAX_V1_BYTES - 1] = b'\r';
    assert_eq!(refused(&endless), Error::TooLong);
    endless.push(b'\n');
    assert_eq!(parse(&endless), Err(Error::TooLong));
}

#[test]
fn invalid_line_is_refused_at_once() {
    for (line, error) in [
        (b"PROXY  ".as_slice(), Error::Line),
        (b"PROXY t", Error::Line),
        (b"PROXY TCP5", Error::Line),
        (b"PROXY TCP \r".get(..10).unwrap(), Error::Line),
        (b"PROXY TCP44", Error::Line),
        (b"PROXY UNKNOWNX", Error::Line),
        (b"PROXY UNKNOWN\n", Error::Line),
        (b"PROXY UNKNOWN\rX", Error::Line),
        (b"PROXY UNKNOWN a\rb", Error::Line),
        (b"PROXY UNKNOWN a\n", Error::Line),
        (b"PROXY \r", Error::Line),
        (b"PROXY TCP4  ", Error::Address),
        (b"PROXY TCP4 01", Error::Address),
        (b"PROXY TCP4 256", Error::Address),
        (b"PROXY TCP4 1.2.3.4.", Error::Address),
        (b"PROXY TCP4 1.2.3 ", Error::Address),
        (b"PROXY TCP4 1.2.3.4\t", Error::Address),
        (b"PROXY TCP4 1.2.3.\xb2", Error::Address),
        (b"PROXY TCP4 :", Error::Address),
        (b"PROXY TCP6 1.", Error::Address),
        (b"PROXY TCP6 1::2::", Error::Address),
        (b"PROXY TCP6 12345", Error::Address),
        (b"PROXY TCP6 1:2:3:4:5:6:7:8:", Error::Address),
        (b"PROXY TCP6 1:2:3:4:5:6:7 ", Error::Address),
        (b"PROXY TCP6 fe80::1%", Error::Address),
        (b"PROXY TCP6 [", Error::Address),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4  ", Error::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 +", Error::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 00", Error::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536", Error::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 655350", Error::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 ", Error::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \r", Error::Port),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", Error::Line),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r", Error::Line),
        (b"PROXY TCP4\r", Error::Line),
    ] {
        assert_eq!(refused(line), error, "{}", line.escape_ascii());
    }
    // The CR ends the line; without LF it does not.
    assert_eq!(parse(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\rX"), Err(Error::Port));
}

#[test]
fn other_protocols_are_detected_at_once() {
    for (input, told_at) in [
        (b"GET / HTTP/1.1\r\n".as_slice(), 1),
        (b"POST / HTTP/1.1\r\n", 2),
        (b"PROPFIND / HTTP/1.1\r\n", 4),
        (b"PROXY/ HTTP/1.1\r\n", 6),
        (b"PRI * HTTP/2.0\r\n", 3),
        (b"\x16\x03\x01", 1),
        (b"\r\nGET", 3),
        (b"\r\n\r\n\0\r\nQUIT\r", 12),
    ] {
        for end in 0..input.len() {
            let expected = if end < told_at { Parsed::Partial } else { Parsed::NotProxy };
            assert_eq!(parse(&input[..end]), Ok(expected), "{}", input[..end].escape_ascii());
        }
    }
}

#[test]
fn binary_header_names_the_client() {
    assert_eq!(complete(&binary(0x21, 0x11, &INET)), tcp("192.0.2.1:56324", "198.51.100.7:443"));
    let mut inet6 = [0; 36];
    inet6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    inet6[15] = 1;
    inet6[31] = 2;
    inet6[33] = 3;
    inet6[35] = 4;
    assert_eq!(complete(&binary(0x21, 0x21, &inet6)), tcp("[2001:db8::1]:3", "[::2]:4"));
    assert_eq!(complete(&binary(0x21, 0x31, &[b'/'; 216])), Header::Unix);
    assert_eq!(complete(&binary(0x21, 0x32, &[0; 216])), Header::Unix);
}

#[test]
fn local_and_unspecified_headers_have_no_addresses() {
    assert_eq!(complete(&binary(0x20, 0x00, b"")), Header::Local);
    // The family and the block are ignored.
    assert_eq!(complete(&binary(0x20, 0x11, &INET)), Header::Local);
    assert_eq!(complete(&binary(0x20, 0xff, b"\x04\xff")), Header::Local);
    for family in [0x00, 0x01, 0x02, 0x10, 0x20, 0x30] {
        assert_eq!(complete(&binary(0x21, family, b"")), Header::Unknown);
        assert_eq!(complete(&binary(0x21, family, b"junk")), Header::Unknown);
    }
    // HTTP does not run over datagrams.
    assert_eq!(complete(&binary(0x21, 0x12, &INET)), Header::Unknown);
}

#[test]
fn extensions_are_skipped() {
    let mut block = INET.to_vec();
    block.extend_from_slice(b"\x01\x00\x02h2");
    block.extend_from_slice(b"\x04\x00\x00");
    block.extend_from_slice(&[0x20, 0x01, 0x00]);
    block.resize(block.len() + 256, 7);
    assert_eq!(complete(&binary(0x21, 0x11, &block)), tcp("192.0.2.1:56324", "198.51.100.7:443"));
}

#[test]
fn extensions_must_fill_the_header() {
    let with = |announced: u8, extensions: &[u8]| {
        let mut header = binary(0x21, 0x11, &[0; 12]);
        header[15] += announced;
        header.extend_from_slice(extensions);
        header
    };
    // Too short for a type and a length: detected with the header's length.
    assert_eq!(refused(&with(1, b"")[..16]), Error::Extensions);
    assert_eq!(refused(&with(2, b"")[..16]), Error::Extensions);
    assert_eq!(refused(&with(3, b"\x01\x00\x01")), Error::Extensions);
    assert_eq!(refused(&with(5, b"\x01\x01")), Error::Extensions);
    assert_eq!(refused(&with(5, b"\x01\x00\x03")), Error::Extensions);
    assert_eq!(refused(&with(5, b"\x01\x00\x01")), Error::Extensions);
}

#[test]
fn binary_header_length_is_limited() {
    let longest = MAX_V2_BYTES - 16 - 12 - 3;
    let mut block = INET.to_vec();
    block.push(4);
    block.extend_from_slice(&u16::try_from(longest).unwrap().to_be_bytes());
    block.resize(block.len() + longest, 0);
    let whole = binary(0x21, 0x11, &block);
    assert_eq!(whole.len(), MAX_V2_BYTES);
    assert_eq!(complete(&whole), tcp("192.0.2.1:56324", "198.51.100.7:443"));

    let mut header = binary(0x21, 0x11, &[]);
    header[14..].copy_from_slice(&u16::try_from(MAX_V2_BYTES - 15).unwrap().to_be_bytes());
    assert_eq!(refused(&header), Error::TooLong);
    header[14] = 0x10;
    assert_eq!(refused(&header[..15]), Error::TooLong);
    // Also for LOCAL, although its contents are ignored.
    header[12] = 0x20;
    assert_eq!(refused(&header[..15]), Error::TooLong);
}

#[test]
fn unassigned_binary_header_is_refused_at_once() {
    for version in [0x01, 0x11, 0x31, 0xff] {
        assert_eq!(refused(&binary(version, 0x11, &INET)[..13]), Error::Version);
    }
    assert_eq!(refused(&binary(0x22, 0x11, &INET)[..13]), Error::Command);
    for family in [0x13, 0x41, 0x40, 0x03, 0xf1] {
        assert_eq!(refused(&binary(0x21, family, &INET)[..14]), Error::Family);
    }
    assert_eq!(refused(&binary(0x21, 0x11, &INET[..11])[..16]), Error::TooShort);
    assert_eq!(refused(&binary(0x21, 0x21, &[0; 35])[..16]), Error::TooShort);
    assert_eq!(refused(&binary(0x21, 0x31, &[0; 215])[..16]), Error::TooShort);
}

#[test]
fn written_header_has_one_family() {
    let line = |header| {
        let mut out = Vec::new();
        write_v1(&mut out, header);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(line(tcp("192.0.2.1:1", "192.0.2.2:2")), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    assert_eq!(line(tcp("[::ffff:192.0.2.1]:1", "192.0.2.2:2")), "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
    // No dots in an IPv6 address: the specification does not allow them.
    assert_eq!(line(tcp("192.0.2.1:1", "[2001:db8::2]:2")), "PROXY TCP6 ::ffff:c000:201 2001:db8::2 1 2\r\n");
    for header in [Header::Local, Header::Unknown, Header::Unix] {
        assert_eq!(line(header), "PROXY UNKNOWN\r\n");
    }
}

#[test]
fn written_binary_header_is_exact() {
    let written = |header| {
        let mut out = Vec::new();
        write_v2(&mut out, header);
        out
    };
    assert_eq!(written(tcp("192.0.2.1:56324", "198.51.100.7:443")), binary(0x21, 0x11, &INET));
    assert_eq!(written(Header::Local), binary(0x20, 0, b""));
    assert_eq!(written(Header::Unknown), binary(0x21, 0, b""));
    assert_eq!(written(Header::Unix), binary(0x21, 0, b""));
}
