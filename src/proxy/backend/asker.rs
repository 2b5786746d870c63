//! Who asks for a connection to a backend, and what for.

use std::net::IpAddr;

use crate::proxy::connection_counts::client_key;

/// The client of a request, as far as the choice of a shared connection depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asker {
    /// The client's address, or the /64 prefix of an IPv6 address.
    pub(super) client: u64,
    /// Whether the request has a body.
    pub(super) upload: bool,
}

impl Asker {
    pub(crate) fn new(client: IpAddr, upload: bool) -> Self {
        Self { client: client_key(client), upload }
    }
}
