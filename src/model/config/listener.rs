//! Where clients connect.

use std::sync::Arc;

use super::Bind;
use crate::tls;

/// `[[listener]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where it listens.
    pub bind: Bind,
    /// Who may connect to a Unix domain socket: the permission bits of its file.
    pub mode: u32,
    /// TLS; `None`: plain HTTP.
    pub tls: Option<Arc<tls::Server>>,
    /// Is the PROXY protocol spoken by who connects?
    pub proxy_protocol: ProxyProtocol,
    /// Plain requests are sent to this port with https; `None`: they are served.
    pub redirect_https: Option<u16>,
    /// Is HTTP/2 spoken too?
    pub http2: bool,
}

/// Whether connections begin with a header of the PROXY protocol, which says
/// whose they are. Only trusted peers are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// They do not.
    Off,
    /// Those of trusted peers may.
    Optional,
    /// All do; those of other peers are closed.
    Required,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}
