//! TLS to one backend.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect_error::ConnectError;
use super::socket::Socket;
use crate::tls;

/// How connections to a backend are encrypted.
#[derive(Debug)]
pub(super) struct BackendTls {
    client: Arc<tls::Client>,
    name: Option<ServerName<'static>>,
    sessions: usize,
    /// The shared configuration, and a copy of it with this backend's sessions.
    config: Mutex<Option<(Arc<ClientConfig>, Arc<ClientConfig>)>>,
}

impl BackendTls {
    /// Remembers up to `sessions` TLS sessions of the backend, for resumption.
    pub(super) fn new(client: Arc<tls::Client>, host: &str, sessions: usize) -> Self {
        let name = client.server_name(host);
        Self { client, name, sessions, config: Mutex::default() }
    }

    /// Returns whether it was created from these settings.
    pub(super) fn is_from(&self, client: &Arc<tls::Client>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// [`ConnectError::Tls`], or [`ConnectError::NotHttp2`] if the backend rejects ALPN.
    pub(super) async fn connect(&self, socket: Socket) -> Result<TlsStream<Socket>, ConnectError> {
        let (Some(name), Some(config)) = (self.name.clone(), self.config()) else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "TLS is not configured");
            return Err(ConnectError::Io(Arc::new(error)));
        };
        let connected = TlsConnector::from(config).connect(name, socket).await;
        connected.map_err(ConnectError::of_handshake)
    }

    /// Returns the current configuration. It changes when certificates are reloaded.
    fn config(&self) -> Option<Arc<ClientConfig>> {
        let current = self.client.config()?;
        if self.sessions == 0 {
            return Some(current);
        }
        let mut own = self.config.lock();
        match &*own {
            Some((base, own)) if Arc::ptr_eq(base, &current) => Some(Arc::clone(own)),
            _ => {
                let made = tls::with_sessions(&current, self.sessions);
                *own = Some((current, Arc::clone(&made)));
                Some(made)
            }
        }
    }
}
