//! The PROXY protocol, versions 1 and 2, sans-IO (`proxy-protocol.txt` of
//! `HAProxy`; § below means a section of it).
//!
//! A proxy in front of us says by a header, before the first byte of the
//! connection proper, whose connection it relays. Whatever is not exactly
//! right is refused: a receiver that guesses lets clients choose their address.
//!
//! - [`parse`]: the header at the beginning of what was read, if there is one;
//! - [`write_v1`], [`write_v2`]: the header that begins an outgoing connection.

mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use thiserror::Error;

pub use v1::{MAX_V1_BYTES, write_v1};
pub use v2::{MAX_V2_BYTES, write_v2};

/// Whose connection it is that the header begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The sender's own, a health check for instance: the addresses of the
    /// socket count (version 2 only).
    Local,
    /// Somebody's, whose addresses the sender does not know or cannot say, or
    /// that no TCP connection has: the addresses of the socket count.
    Unknown,
    /// A TCP connection's between these two. A header holds addresses of one
    /// family; where it is written, IPv4 is mapped into IPv6 if the other is IPv6.
    Tcp {
        /// The client.
        source: SocketAddr,
        /// What the client connected to.
        destination: SocketAddr,
    },
    /// That of a client on a Unix domain socket, which has no address that
    /// anything could be keyed with (version 2 only).
    Unix,
}

/// What the bytes at the beginning of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// So far a header, or the beginning of what may become one.
    Partial,
    /// No header: no sender of the protocol begins like this.
    NotProxy,
    /// A header, and what follows after `len` bytes belongs to the connection.
    Complete {
        /// What it says.
        header: Header,
        /// Its length in bytes.
        len: usize,
    },
}

/// Why a header was refused. The connection has to be closed: whose it is, and
/// where its bytes begin, is not known (§2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// Longer than [`MAX_V1_BYTES`] or [`MAX_V2_BYTES`].
    #[error("PROXY header too long")]
    TooLong,
    /// Version 1: not `PROXY SP family SP source SP destination SP port SP port CRLF`,
    /// letter by letter (§2.1).
    #[error("malformed PROXY header line")]
    Line,
    /// Version 1: an address that is none of its family, or not canonical.
    #[error("malformed address in the PROXY header")]
    Address,
    /// Version 1: a port that is no decimal number up to 65535, or has leading zeros.
    #[error("malformed port in the PROXY header")]
    Port,
    /// The binary signature with another version than 2 (§2.2).
    #[error("unsupported version of the PROXY protocol")]
    Version,
    /// Version 2: neither LOCAL nor PROXY.
    #[error("unknown command in the PROXY header")]
    Command,
    /// Version 2: an address family or a transport protocol that is not assigned.
    #[error("unknown address family or transport in the PROXY header")]
    Family,
    /// Version 2: the length leaves no room for the addresses of the family.
    #[error("PROXY header too short for its addresses")]
    TooShort,
    /// Version 2: the extensions do not fill the rest of the header exactly (§2.2, TLV).
    #[error("malformed extensions in the PROXY header")]
    Extensions,
}

/// Reads the header at the beginning of `input`: everything that the
/// connection has delivered so far, from its first byte on.
///
/// The answer is `Partial` for every beginning of a header that is accepted
/// when it is whole. An error, and [`Parsed::NotProxy`], are final, and come
/// as soon as no continuation could be right; only a version 1 line that would
/// end right but past its limit waits for the limit.
pub fn parse(input: &[u8]) -> Result<Parsed, Error> {
    if begins(input, v1::SIGNATURE) {
        v1::parse(input)
    } else if begins(input, v2::SIGNATURE) {
        v2::parse(input)
    } else {
        Ok(Parsed::NotProxy)
    }
}

/// Does `input`, as far as it goes, agree with the signature?
fn begins(input: &[u8], signature: &[u8]) -> bool {
    input.iter().zip(signature).all(|(a, b)| a == b)
}

/// The addresses as a header can hold them: both IPv4, or both IPv6.
fn one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
        SocketAddr::V6(_) => address,
    };
    (mapped(source), mapped(destination))
}
