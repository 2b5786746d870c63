//! The PROXY protocol to backends: whose connection a backend's connection is.
//!
//! What was announced holds for the whole connection. It is used again only
//! for requests of the very same client, as long as that one's connection
//! lives: whoever had it next would be taken for somebody else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};

use crate::model::ProxyVersion;
use crate::proxy::client::connection::{Client, Origin};
use crate::proxy_protocol::{self, Header};

/// What a backend was told of whom its connection is for.
#[derive(Debug, Clone)]
pub(crate) struct Announced {
    source: SocketAddr,
    destination: SocketAddr,
    /// The connection it is for.
    client: Weak<Origin>,
}

impl Announced {
    /// For a request of this client whose address is `client_ip`. The port is
    /// the peer's where that is the client, and 0 where a proxy names it.
    pub(crate) fn new(client: &Client, client_ip: IpAddr) -> Self {
        let origin = &client.origin;
        let port = if client_ip == origin.peer { origin.port } else { 0 };
        let nowhere: IpAddr = match client_ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        Self {
            source: SocketAddr::new(client_ip, port),
            destination: origin.destination.unwrap_or_else(|| SocketAddr::new(nowhere, 0)),
            client: Rc::downgrade(origin),
        }
    }

    /// Is that the same?
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.source, self.destination) == (other.source, other.destination)
            && self.client.ptr_eq(&other.client)
    }

    /// Is the client's connection gone?
    pub(crate) fn is_over(&self) -> bool {
        self.client.strong_count() == 0
    }

    /// The header that says so.
    pub(crate) fn header(&self, version: ProxyVersion) -> Vec<u8> {
        let header = Header::Tcp { source: self.source, destination: self.destination };
        let mut out = Vec::new();
        match version {
            ProxyVersion::V1 => proxy_protocol::write_v1(&mut out, header),
            ProxyVersion::V2 => proxy_protocol::write_v2(&mut out, header),
        }
        out
    }
}
