//! How a listener serves its clients.

use std::sync::Arc;

use crate::model::{Bind, Listener, ProxyProtocol};
use crate::tls;

/// A listener's settings and its live TLS state. A connection uses those that are in effect when it
/// is accepted.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// The configured address, which identifies the listener across reloads.
    pub bind: Bind,
    /// TLS; `None` for plain HTTP.
    pub tls: Option<Arc<tls::Server>>,
    /// The port that plain requests are redirected to, with https.
    pub redirect_https: Option<u16>,
    /// Whether to accept HTTP/2 without TLS.
    pub http2: bool,
    /// Whether connections start with a PROXY header.
    pub proxy_protocol: ProxyProtocol,
}

impl ListenerSettings {
    /// The settings of a configured listener.
    pub fn new(listener: &Listener, tls: Option<&Arc<tls::Server>>) -> Self {
        Self {
            bind: listener.bind.clone(),
            tls: tls.cloned(),
            redirect_https: listener.redirect_https,
            http2: listener.http2,
            proxy_protocol: listener.proxy_protocol,
        }
    }
}
