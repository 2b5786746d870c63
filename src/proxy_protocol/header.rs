//! What a header says, in either version.

use std::net::SocketAddr;

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

/// The addresses as a header can hold them: both IPv4, or both IPv6.
pub(super) fn one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
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
