//! Version 2: binary (§2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::error::Error;
use super::header::{Header, Parsed, one_family};

/// The start of a version 2 header.
pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The maximum length of a header, including extensions. The format allows 64 KiB; senders write a
/// few hundred bytes.
pub const MAX_V2_BYTES: usize = 4096;

/// The length of the fixed part: signature, version and command, family, length.
const FIXED: usize = 16;

/// The length of an extension's type and length.
const EXTENSION_HEAD: usize = 3;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

const INET_BYTES: usize = 12;
const INET6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;

pub(super) fn parse(input: &[u8]) -> Result<Parsed, Error> {
    let at = |n: usize| input.get(n).copied();

    let Some(command) = at(12) else { return Ok(Parsed::Partial) };
    if command >> 4 != 2 {
        return Err(Error::Version);
    }
    if !matches!(command, LOCAL | PROXY) {
        return Err(Error::Command);
    }
    let Some(family) = at(13) else { return Ok(Parsed::Partial) };
    // In a LOCAL header everything except the length is ignored, including the family.
    let addresses = if command == LOCAL { None } else { Addresses::of(family)? };

    let Some(high) = at(14) else { return Ok(Parsed::Partial) };
    // The low byte can only increase it.
    let len = FIXED + usize::from(u16::from_be_bytes([high, at(15).unwrap_or(0)]));
    if len > MAX_V2_BYTES {
        return Err(Error::TooLong);
    }
    if input.len() < FIXED {
        return Ok(Parsed::Partial);
    }
    let block = &input[FIXED..input.len().min(len)];
    if let Some(addresses) = addresses {
        let announced = (len - FIXED).checked_sub(addresses.bytes()).ok_or(Error::TooShort)?;
        check_extensions(block.get(addresses.bytes()..).unwrap_or_default(), announced)?;
    }
    if input.len() < len {
        return Ok(Parsed::Partial);
    }
    let header = match addresses {
        _ if command == LOCAL => Header::Local,
        None => Header::Unknown,
        Some(addresses) => addresses.read(block),
    };
    Ok(Parsed::Complete { header, len })
}

/// The layout of the addresses, and whether they belong to a TCP connection.
#[derive(Debug, Clone, Copy)]
enum Addresses {
    Inet { tcp: bool },
    Inet6 { tcp: bool },
    Unix,
}

impl Addresses {
    /// Returns `None` if either half of the byte is UNSPEC: the rest is ignored then.
    fn of(family: u8) -> Result<Option<Self>, Error> {
        let tcp = match family & 0x0f {
            0 => None,
            1 => Some(true),
            2 => Some(false),
            _ => return Err(Error::Family),
        };
        Ok(match (family >> 4, tcp) {
            (0, _) | (1..=3, None) => None,
            (1, Some(tcp)) => Some(Self::Inet { tcp }),
            (2, Some(tcp)) => Some(Self::Inet6 { tcp }),
            (3, Some(_)) => Some(Self::Unix),
            _ => return Err(Error::Family),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::Inet { .. } => INET_BYTES,
            Self::Inet6 { .. } => INET6_BYTES,
            Self::Unix => UNIX_BYTES,
        }
    }

    /// Reads the header from a block with all the addresses.
    fn read(self, block: &[u8]) -> Header {
        let tcp = match self {
            Self::Unix => return Header::Unix,
            // HTTP does not run over datagrams.
            Self::Inet { tcp: false } | Self::Inet6 { tcp: false } => None,
            Self::Inet { tcp: true } => pair::<4, Ipv4Addr>(block),
            Self::Inet6 { tcp: true } => pair::<16, Ipv6Addr>(block),
        };
        tcp.map_or(Header::Unknown, |(source, destination)| Header::Tcp { source, destination })
    }
}

/// Reads two addresses of `N` bytes and their ports.
fn pair<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(block: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let [a, b, c, d] = *rest.first_chunk::<4>()?;
    let address =
        |bytes: [u8; N], port: [u8; 2]| SocketAddr::new(A::from(bytes).into(), u16::from_be_bytes(port));
    Some((address(*source, [a, b]), address(*destination, [c, d])))
}

/// Checks that the extensions fill `announced` bytes exactly, as far as they have arrived. Their
/// contents are ignored.
fn check_extensions(mut received: &[u8], mut announced: usize) -> Result<(), Error> {
    while announced > 0 {
        let room = announced.checked_sub(EXTENSION_HEAD).ok_or(Error::Extensions)?;
        let Some(&high) = received.get(1) else { return Ok(()) };
        let low = received.get(2).copied();
        let value = usize::from(u16::from_be_bytes([high, low.unwrap_or(0)]));
        announced = room.checked_sub(value).ok_or(Error::Extensions)?;
        if low.is_none() {
            return Ok(());
        }
        received = received.get(EXTENSION_HEAD + value..).unwrap_or_default();
    }
    Ok(())
}

/// Appends the header in binary. A Unix domain socket is sent as a connection with unknown
/// addresses, because its paths are not kept.
pub fn write_v2(out: &mut Vec<u8>, header: Header) {
    out.extend_from_slice(SIGNATURE);
    let (source, destination) = match header {
        Header::Tcp { source, destination } => one_family(source, destination),
        Header::Local => return out.extend_from_slice(&[LOCAL, UNSPEC, 0, 0]),
        Header::Unknown | Header::Unix => return out.extend_from_slice(&[PROXY, UNSPEC, 0, 0]),
    };
    let (family, bytes) = if source.is_ipv4() { (TCP4, INET_BYTES) } else { (TCP6, INET6_BYTES) };
    out.extend_from_slice(&[PROXY, family]);
    #[expect(clippy::cast_possible_truncation, reason = "12 or 36")]
    out.extend_from_slice(&(bytes as u16).to_be_bytes());
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
            IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
        }
    }
    for address in [source, destination] {
        out.extend_from_slice(&address.port().to_be_bytes());
    }
}
