//! The contents of a PROXY header, in either version.

use std::net::SocketAddr;

/// The original connection, as described by a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The sender's own connection, such as a health check: use the addresses of the socket
    /// (version 2 only).
    Local,
    /// A connection whose addresses the sender does not know, cannot express, or that is not TCP:
    /// use the addresses of the socket.
    Unknown,
    /// A TCP connection between these addresses. A header contains addresses of one family: when
    /// written, IPv4 is mapped into IPv6 if the other address is IPv6.
    Tcp {
        /// The client's address.
        source: SocketAddr,
        /// The address the client connected to.
        destination: SocketAddr,
    },
    /// A connection over a Unix domain socket, which has no address to use as a key (version 2
    /// only).
    Unix,
}

/// The result of parsing the start of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// Valid so far; more bytes are needed.
    Partial,
    /// Not a PROXY header.
    NotProxy,
    /// A complete header. The bytes after `len` belong to the connection.
    Complete {
        /// Its contents.
        header: Header,
        /// Its length in bytes.
        len: usize,
    },
}

/// Returns the addresses as a header can contain them: both IPv4 or both IPv6.
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
