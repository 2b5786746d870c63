//! The PROXY protocol to backends: which client a backend connection is for.
//!
//! A PROXY header names one client for the whole connection. The connection is therefore
//! reused only for requests of the same client connection, and only while that one is open.

use std::any::Any;
use std::net::SocketAddr;
use std::rc::Weak;

use crate::model::ProxyVersion;
use crate::proxy_protocol::{self, Header};

/// The client that a backend connection was opened for.
#[derive(Debug, Clone)]
pub(crate) struct Announced {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// The client connection. Dead once it is closed.
    pub(crate) client: Weak<dyn Any>,
}

impl Announced {
    /// Returns whether both name the same client connection, with the same addresses.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        (self.source, self.destination) == (other.source, other.destination)
            && self.client.ptr_eq(&other.client)
    }

    /// Returns whether the client connection is closed.
    pub(crate) fn client_is_gone(&self) -> bool {
        self.client.strong_count() == 0
    }

    /// Returns the PROXY header to send.
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
