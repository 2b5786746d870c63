//! The PROXY protocol: a written header parses back wherever it is split, and a rejected prefix
//! stays rejected whatever follows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use homing::proxy_protocol::{Error, Header, MAX_V1_BYTES, MAX_V2_BYTES, Parsed, parse, write_v1, write_v2};
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn v4() -> impl Strategy<Value = IpAddr> {
    any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
}

/// Addresses with runs of zeros in any place.
fn v6() -> impl Strategy<Value = Ipv6Addr> {
    prop::array::uniform8(prop_oneof![Just(0), Just(0xffff), any::<u16>()]).prop_map(Ipv6Addr::from)
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let mapped = v4().prop_map(|ip| match ip {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    });
    (prop_oneof![v4(), v6().prop_map(IpAddr::V6), mapped], any::<u16>())
        .prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn header() -> impl Strategy<Value = Header> {
    prop_oneof![
        6 => (address(), address()).prop_map(|(source, destination)| Header::Tcp { source, destination }),
        1 => select(vec![Header::Local, Header::Unknown, Header::Unix]),
    ]
}

/// Undoes IPv4-mapping: a header that has to use one family for both addresses may have mapped
/// one of them.
fn canonical(header: Header) -> Header {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    match header {
        Header::Tcp { source, destination } => {
            Header::Tcp { source: canonical(source), destination: canonical(destination) }
        }
        other => other,
    }
}

/// An IPv6 address in any of its spellings.
fn v6_text() -> impl Strategy<Value = String> {
    prop_oneof![
        v6().prop_map(|ip| ip.to_string()),
        v6().prop_map(|ip| ip.segments().map(|group| format!("{group:x}")).join(":")),
        v6().prop_map(|ip| ip.segments().map(|group| format!("{group:04X}")).join(":")),
        // Any number of groups on either side of the `::`, with or without IPv4 at the end.
        (0..8usize, 0..8usize, any::<bool>()).prop_filter_map("too many", |(before, after, dotted)| {
            let text = |groups| vec!["a0"; groups].join(":");
            let tail = match (after, dotted) {
                (0, true) => "10.0.0.255".to_owned(),
                (_, true) => format!("{}:192.0.2.1", text(after)),
                (_, false) => text(after),
            };
            (before + after + 2 * usize::from(dotted) <= 7).then(|| format!("{}::{tail}", text(before)))
        }),
        Just("1:2:3:4:5:6:100.99.98.97".to_owned()),
    ]
}

/// Pieces of valid and invalid headers.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &[&[u8]] = &[
        b"PROXY ",
        b"TCP4 ",
        b"TCP6 ",
        b"UNKNOWN",
        b"1.2.3.4",
        b"::",
        b"2001:db8::1",
        b" ",
        b"0",
        b"443",
        b"65535",
        b"\r\n",
        b"\r",
        b"\n",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\x20\x00\x00\x00",
        b"\x21\x11\x00\x0c",
        b"\x21\x21\x00\x27",
        b"\x21\x31\x00\xd8",
        b"\x21\x11\x00\x11",
        b"\x04\x00\x02",
        b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ];
    prop_oneof![6 => select(pieces).prop_map(<[u8]>::to_vec), 1 => prop::collection::vec(any::<u8>(), 1..20)]
}

/// The start of a header, followed by anything.
fn input() -> impl Strategy<Value = Vec<u8>> {
    let begin = select(vec![b"PROXY ".as_slice(), b"\r\n\r\n\0\r\nQUIT\n", b""]);
    (begin, prop::collection::vec(piece(), 0..14)).prop_map(|(begin, rest)| [begin, &rest.concat()].concat())
}

fn check_split(whole: &[u8], expected: Header) {
    for end in 0..whole.len() {
        assert_eq!(parse(&whole[..end]), Ok(Parsed::Partial), "{}", whole[..end].escape_ascii());
    }
    let follows = [whole, b"\r\nGET"].concat();
    let Ok(Parsed::Complete { header, len }) = parse(&follows) else { panic!("{:?}", parse(&follows)) };
    assert_eq!((canonical(header), len), (canonical(expected), whole.len()));
    if let Header::Tcp { source, destination } = header {
        assert_eq!(source.is_ipv4(), destination.is_ipv4());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_written_header_parses_back(header in header()) {
        let mut out = Vec::new();
        write_v1(&mut out, header);
        prop_assert!(out.len() <= MAX_V1_BYTES);
        check_split(&out, if matches!(header, Header::Tcp { .. }) { header } else { Header::Unknown });
        out.clear();
        write_v2(&mut out, header);
        check_split(&out, if header == Header::Unix { Header::Unknown } else { header });
    }

    #[test]
    fn every_spelling_of_an_address_parses(source in v6_text(), destination in v6_text(), port in any::<u16>()) {
        let line = format!("PROXY TCP6 {source} {destination} {port} 0\r\n");
        if line.len() <= MAX_V1_BYTES {
            let address = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
            check_split(
                line.as_bytes(),
                Header::Tcp { source: address(&source, port), destination: address(&destination, 0) },
            );
        }
    }

    #[test]
    fn a_result_is_final_and_independent_of_what_follows(input in input(), split in any::<Index>()) {
        let whole = parse(&input);
        let split = split.index(input.len() + 1);
        match parse(&input[..split]) {
            Ok(Parsed::Partial) => prop_assert!(split < MAX_V2_BYTES),
            // The error may change: only the end of a line shows how many words it has.
            Err(_) => prop_assert!(whole.is_err()),
            result => prop_assert_eq!(result, whole),
        }
        if let Ok(Parsed::Complete { len, .. }) = whole {
            prop_assert!(len <= input.len());
            prop_assert_eq!(parse(&input[..len]), whole);
            prop_assert_eq!(parse(&input[..len - 1]), Ok(Parsed::Partial));
        }
        if whole == Err(Error::TooLong) {
            prop_assert!(input.len() >= 15);
        }
    }
}
