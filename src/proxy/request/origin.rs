//! Where a client's requests come from. All requests of a connection have the same origin.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::model::router::host_name;
use crate::proxy::backend::announced::Announced;
use crate::tls::Identities;

/// The client side of a connection, as known from its socket and handshake.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The peer's address. IPv4-mapped addresses are converted to IPv4.
    pub peer: IpAddr,
    /// The peer's port.
    pub port: u16,
    /// The address that the client connected to, if known.
    pub destination: Option<SocketAddr>,
    /// Facts from the TLS handshake; `None` without TLS.
    pub secure: Option<Box<Secure>>,
    /// The https port to redirect requests to, if the listener redirects.
    pub redirect_https: Option<u16>,
    /// Whether the connection is HTTP/2.
    pub http2: bool,
}

impl Origin {
    /// Returns what a PROXY header tells a backend about a client of this connection. The port is
    /// the peer's if the peer is the client, and 0 if a trusted proxy named the client.
    pub(crate) fn announced_as(self: &Rc<Self>, client_ip: IpAddr) -> Announced {
        let port = if client_ip == self.peer { self.port } else { 0 };
        let unspecified: IpAddr = match client_ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let connection: Weak<Self> = Rc::downgrade(self);
        Announced {
            source: SocketAddr::new(client_ip, port),
            destination: self.destination.unwrap_or_else(|| SocketAddr::new(unspecified, 0)),
            client: connection,
        }
    }
}

/// Facts from a client's TLS handshake.
#[derive(Debug)]
pub(crate) struct Secure {
    /// The server name (SNI), in lower case, and the certificates that it selected from.
    pub server_name: Option<(Box<str>, Arc<Identities>)>,
    /// Whether ALPN selected HTTP/2.
    pub(crate) http2: bool,
    /// The subject and digest of the client's certificate.
    pub certificate: Option<Box<(String, String)>>,
}

impl Secure {
    /// Returns whether a request on this connection may have this Host. If the client named another
    /// server in its handshake, the certificate that it got must cover both names (RFC 9110 §7.4).
    pub(crate) fn allows_host(&self, host: &str) -> bool {
        let Some((name, identities)) = &self.server_name else { return true };
        let host = host_name(host);
        host.is_empty()
            || host.eq_ignore_ascii_case(name)
            || identities.covers(name, &host.to_ascii_lowercase())
    }

    /// Returns the subject and digest of the client's certificate, if it sent one.
    pub(crate) fn certificate(&self) -> Option<(&str, &str)> {
        self.certificate.as_deref().map(|(subject, digest)| (subject.as_str(), digest.as_str()))
    }

    /// Returns the name in the client's certificate: its subject, or its digest if the subject is
    /// empty.
    pub(crate) fn certificate_name(&self) -> Option<&str> {
        let (subject, digest) = self.certificate()?;
        Some(if subject.is_empty() { digest } else { subject })
    }
}
