//! Where a client's requests come from: the same for all requests of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use crate::model::router::host_name;
use crate::proxy::backend::announced::Announced;
use crate::tls::Identities;

/// The client side of a connection, as known from its socket and handshake.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The peer's address. IPv4-mapped addresses are IPv4.
    pub peer: IpAddr,
    /// The peer's port.
    pub port: u16,
    /// The address that the client connected to, where known.
    pub destination: Option<SocketAddr>,
    /// RequestFacts from the TLS handshake; `None` without TLS.
    pub secure: Option<Box<Secure>>,
    /// Requests are redirected to https on this port.
    pub redirect_https: Option<u16>,
    /// Is the connection HTTP/2?
    pub http2: bool,
}

impl Origin {
    /// How a backend is told of a client with this address, who came on this connection. The
    /// port is the peer's if the peer is the client, and 0 if a proxy named the client.
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

/// What is known of a client by its handshake.
#[derive(Debug)]
pub(crate) struct Secure {
    /// The host that it asked for (SNI), in lower case, and the certificates it
    /// was chosen from.
    pub server_name: Option<(Box<str>, Arc<Identities>)>,
    /// Did it choose HTTP/2 (ALPN)?
    pub(crate) http2: bool,
    /// Its certificate's subject and digest.
    pub certificate: Option<Box<(String, String)>>,
}

impl Secure {
    /// May it ask for this host (as in Host)? A client that named another host
    /// in its handshake may only if the certificate that it got is for both:
    /// then it may use the connection for both (RFC 9110 §7.4).
    pub(crate) fn allows_host(&self, host: &str) -> bool {
        let Some((name, identities)) = &self.server_name else { return true };
        let host = host_name(host);
        host.is_empty()
            || host.eq_ignore_ascii_case(name)
            || identities.covers(name, &host.to_ascii_lowercase())
    }

    /// Subject and digest of its certificate, if it showed one.
    pub(crate) fn certificate(&self) -> Option<(&str, &str)> {
        self.certificate.as_deref().map(|(subject, digest)| (subject.as_str(), digest.as_str()))
    }

    /// What its certificate calls it: its subject or, where that is empty, its digest.
    pub(crate) fn certificate_name(&self) -> Option<&str> {
        let (subject, digest) = self.certificate()?;
        Some(if subject.is_empty() { digest } else { subject })
    }
}
