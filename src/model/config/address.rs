//! Where backends and listeners are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// Where a backend listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host name, resolved at each connection attempt, and port.
    Name(String, u16),
    /// A Unix domain socket, by its absolute path.
    Unix(PathBuf),
}

impl Address {
    /// The host alone, without brackets; empty for a Unix domain socket, which
    /// is on none.
    pub fn host(&self) -> String {
        match self {
            Self::Ip(address) => address.ip().to_string(),
            Self::Name(host, _) => host.clone(),
            Self::Unix(_) => String::new(),
        }
    }

    /// What stands in Host where nothing better is known. A path cannot: a Unix
    /// domain socket is on this machine.
    pub fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// An IP address and port; port 0 is any free one.
    Ip(SocketAddr),
    /// A Unix domain socket, by its absolute path.
    Unix(PathBuf),
}

impl Bind {
    /// The IP address and port.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The path of the Unix domain socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Does a connection to `backend` end here, as far as the addresses tell?
    pub fn is_reached_by(&self, backend: &Address) -> bool {
        match (self, backend) {
            (Self::Unix(own), Address::Unix(path)) => own == path,
            (Self::Ip(own), Address::Ip(address)) => {
                let (there, here) = (address.ip().to_canonical(), own.ip().to_canonical());
                let same = there == here;
                let through_any = here.is_unspecified() && there.is_loopback() && covers(here, there);
                address.port() == own.port() && (same || through_any)
            }
            (Self::Ip(own), Address::Name(name, port)) => {
                let here = own.ip().to_canonical();
                name == "localhost" && *port == own.port() && (here.is_unspecified() || here.is_loopback())
            }
            (Self::Unix(_), Address::Ip(_) | Address::Name(..)) | (Self::Ip(_), Address::Unix(_)) => false,
        }
    }
}

/// Does a socket on the unspecified address `any` accept connections to `to`?
/// One on `[::]` takes IPv4 too.
fn covers(any: IpAddr, to: IpAddr) -> bool {
    any.is_ipv6() || to.is_ipv4()
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for Bind {
    /// As it is written.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
