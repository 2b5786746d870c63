//! Version 1: one line of text (§2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arrayvec::ArrayVec;

use super::error::Error;
use super::header::{Header, Parsed, one_family};

/// The start of a version 1 header.
pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// The maximum length of a line, including its CRLF.
pub const MAX_V1_BYTES: usize = 107;

/// The number of words in a line: `PROXY`, the family, two addresses, two ports.
const WORDS: usize = 6;

const FAMILIES: [&[u8]; 3] = [b"TCP4", b"TCP6", UNKNOWN];
const UNKNOWN: &[u8] = b"UNKNOWN";

pub(super) fn parse(input: &[u8]) -> Result<Parsed, Error> {
    let input = &input[..input.len().min(MAX_V1_BYTES)];
    let (line, whole) = match memchr::memchr(b'\n', input) {
        Some(end) => (&input[..end], true),
        None => (input, false),
    };
    let (text, ended) = match line.strip_suffix(b"\r") {
        Some(text) => (text, true),
        None if whole => return Err(Error::Line),
        None => (line, false),
    };
    match parse_text(text, ended)? {
        Some(header) if whole => Ok(Parsed::Complete { header, len: line.len() + 1 }),
        _ if input.len() == MAX_V1_BYTES => Err(Error::TooLong),
        _ => Ok(Parsed::Partial),
    }
}

/// Parses the line without its CRLF. If it has not `ended`, its last word may be incomplete.
fn parse_text(text: &[u8], ended: bool) -> Result<Option<Header>, Error> {
    let words: ArrayVec<&[u8], WORDS> = text.splitn(WORDS, |byte| *byte == b' ').collect();
    let word = |n: usize| words.get(n).map(|word| Word { text: word, whole: ended || n + 1 < words.len() });

    let Some(family) = word(1) else { return Ok(None) };
    if !FAMILIES.iter().any(|known| family.may_be(known)) {
        return Err(Error::Line);
    }
    if !family.whole {
        return Ok(None);
    }
    if family.text == UNKNOWN {
        // The rest is ignored, but must not contain a CR without LF.
        return if text.contains(&b'\r') { Err(Error::Line) } else { Ok(ended.then_some(Header::Unknown)) };
    }
    let is_v4 = family.text == b"TCP4";
    let source = word(2).map(|word| word.address(is_v4)).transpose()?.flatten();
    let destination = word(3).map(|word| word.address(is_v4)).transpose()?.flatten();
    let source_port = word(4).map(|word| word.port()).transpose()?.flatten();
    let destination_port = word(5).map(|word| word.port()).transpose()?.flatten();
    match (source, destination, source_port, destination_port) {
        (Some(source), Some(destination), Some(source_port), Some(destination_port)) => {
            Ok(Some(Header::Tcp {
                source: SocketAddr::new(source, source_port),
                destination: SocketAddr::new(destination, destination_port),
            }))
        }
        _ if ended => Err(Error::Line),
        _ => Ok(None),
    }
}

/// A word of the line. It is `whole` unless it is the last word of a line that has not ended.
struct Word<'b> {
    text: &'b [u8],
    whole: bool,
}

impl Word<'_> {
    /// Returns true if it is `known`, or a prefix of it.
    fn may_be(&self, known: &[u8]) -> bool {
        if self.whole { self.text == known } else { known.starts_with(self.text) }
    }

    /// Parses the address; `None` if it is incomplete.
    fn address(&self, is_v4: bool) -> Result<Option<IpAddr>, Error> {
        if self.whole {
            return read_address(self.text, is_v4).map(Some).ok_or(Error::Address);
        }
        let viable = COMPLETIONS.iter().any(|completion| {
            let mut text = ArrayVec::<u8, MAX_ADDRESS>::new();
            text.try_extend_from_slice(self.text).is_ok()
                && text.try_extend_from_slice(completion).is_ok()
                && read_address(&text, is_v4).is_some()
        });
        if viable { Ok(None) } else { Err(Error::Address) }
    }

    /// Parses the port; `None` if it is incomplete.
    fn port(&self) -> Result<Option<u16>, Error> {
        let digits = self.text.iter().all(u8::is_ascii_digit);
        if !digits || (self.text.len() > 1 && self.text[0] == b'0') {
            return Err(Error::Port);
        }
        match (str::from_utf8(self.text).unwrap_or_default().parse(), self.text, self.whole) {
            (Ok(port), _, true) => Ok(Some(port)),
            (Ok(_), _, false) | (Err(_), [], false) => Ok(None),
            _ => Err(Error::Port),
        }
    }
}

/// The longest address: IPv6 with an IPv4 address at the end.
const MAX_ADDRESS: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();

/// Every prefix of an address becomes an address with one of these appended.
const COMPLETIONS: [&[u8]; 11] =
    [b"", b"0", b":", b"::", b":0", b".0", b".0.0", b".0.0.0", b"0.0", b"0.0.0", b"0.0.0.0"];

fn read_address(text: &[u8], is_v4: bool) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    // The standard library accepts what `inet_pton` accepts: no leading zeros in IPv4, and
    // `::ffff:192.0.2.1`, which senders write.
    if is_v4 {
        text.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    } else {
        text.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    }
}

/// Appends the header as a line. Version 1 cannot express [`Header::Local`] and [`Header::Unix`]:
/// they become `UNKNOWN`, which some receivers refuse (§2.1). A health check should therefore send
/// the addresses of its own socket.
pub fn write_v1(out: &mut Vec<u8>, header: Header) {
    let Header::Tcp { source, destination } = header else {
        out.extend_from_slice(b"PROXY UNKNOWN\r\n");
        return;
    };
    let (source, destination) = one_family(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (written(source.ip()), written(destination.ip()));
    let (from_port, to_port) = (source.port(), destination.port());
    out.extend_from_slice(format!("PROXY {family} {from} {to} {from_port} {to_port}\r\n").as_bytes());
}

/// Formats an address. IPv6 is written without dots: the specification allows only hexadecimal
/// groups in it.
fn written(address: IpAddr) -> String {
    match address {
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0xffff, high, low] => format!("::ffff:{high:x}:{low:x}"),
            _ => v6.to_string(),
        },
        IpAddr::V4(v4) => v4.to_string(),
    }
}
