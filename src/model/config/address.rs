//! Addresses of backends and listeners.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// The address of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host name and port. `dial::names` resolves the name.
    Name(String, u16),
    /// The absolute path of a Unix domain socket.
    Unix(PathBuf),
}

impl Address {
    /// Returns the host without brackets. Empty for a Unix domain socket, which has none.
    pub fn host(&self) -> String {
        match self {
            Self::Ip(address) => address.ip().to_string(),
            Self::Name(host, _) => host.clone(),
            Self::Unix(_) => String::new(),
        }
    }

    /// Returns the default Host header. For a Unix domain socket it is `localhost`, because a path is
    /// not a valid host.
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

/// The address of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// An IP address and port. Port 0 means any free port.
    Ip(SocketAddr),
    /// The absolute path of a Unix domain socket.
    Unix(PathBuf),
}

impl Bind {
    /// Returns the IP address and port.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Returns the path of the Unix domain socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Ip(_) => None,
            Self::Unix(path) => Some(path),
        }
    }

    /// Returns whether a connection to `backend` would reach this listener, judging by the addresses
    /// alone.
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

/// Returns whether a socket bound to the unspecified address `any` accepts connections to `to`.
/// `[::]` also accepts IPv4.
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
    /// Serializes the address as it is written in the configuration.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
