//! How a listener serves its clients.

use std::sync::Arc;

use crate::model::snapshot::Snapshot;
use crate::model::{ListenerId, ProxyProtocol};
use crate::tls;

/// A listener's settings and its live TLS state. A connection uses those that are in effect when it
/// is accepted.
#[derive(Debug, Clone)]
pub struct ListenerSettings {
    /// Identifies the listener across reloads.
    pub id: ListenerId,
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
    /// The settings of the listener with this index in the configuration.
    pub fn new(snapshot: &Snapshot, index: usize) -> Self {
        let listener = &snapshot.config.listeners[index];
        Self {
            id: snapshot.config.listener_id(index),
            tls: snapshot.tls.listener(index).cloned(),
            redirect_https: listener.redirect_https,
            http2: listener.http2,
            proxy_protocol: listener.proxy_protocol,
        }
    }
}
