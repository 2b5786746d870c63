//! Listeners.

use super::Bind;
use crate::tls::ServerSettings;

/// `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Its address.
    pub bind: Bind,
    /// Permission bits of the Unix domain socket.
    pub mode: u32,
    /// TLS; `None`: plain HTTP.
    pub tls: Option<ServerSettings>,
    /// Whether connections start with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// Port of the https URL that plain HTTP requests are redirected to; `None`: no redirect.
    pub redirect_https: Option<u16>,
    /// Whether to accept HTTP/2.
    pub http2: bool,
}

/// Whether connections start with a PROXY header that names the client. Only headers from trusted
/// peers are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// No PROXY header.
    Off,
    /// Trusted peers may send one.
    Optional,
    /// Every connection must start with one. Connections from untrusted peers are closed.
    Required,
}

/// A PROXY protocol version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
}
