//! TLS to one backend.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};

use super::connect_error::ConnectError;
use crate::model::Backend;
use crate::proxy::wire::socket::Socket;
use crate::proxy::wire::stream::Stream;
use crate::tls;

/// TLS sessions kept for resumption, per backend and worker.
const SESSIONS: usize = 8;

/// How connections to a backend are encrypted.
#[derive(Debug)]
pub(crate) struct BackendTls {
    client: Arc<tls::Client>,
    name: Option<ServerName<'static>>,
    /// The shared configuration, and a copy of it with this backend's sessions.
    config: RefCell<Option<(Arc<ClientConfig>, Arc<ClientConfig>)>>,
}

impl BackendTls {
    pub(crate) fn new(client: Arc<tls::Client>, backend: &Backend) -> Self {
        let name = client.server_name(&backend.address.host());
        Self { client, name, config: RefCell::default() }
    }

    /// Returns whether it was created from these settings.
    pub(crate) fn is_from(&self, client: &Arc<tls::Client>) -> bool {
        Arc::ptr_eq(&self.client, client)
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// [`ConnectError::Tls`], or [`ConnectError::NotHttp2`] if the backend rejects ALPN.
    pub(crate) async fn connect(&self, socket: Socket) -> Result<Stream, ConnectError> {
        let (Some(name), Some(config)) = (self.name.clone(), self.config()) else {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "TLS is not configured");
            return Err(ConnectError::Io(Arc::new(error)));
        };
        let connected = TlsConnector::from(config).connect(name, socket).await;
        let stream = connected.map_err(ConnectError::of_handshake)?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }

    /// Returns the current configuration. It changes when certificates are reloaded.
    fn config(&self) -> Option<Arc<ClientConfig>> {
        let current = self.client.config()?;
        let mut own = self.config.borrow_mut();
        match &*own {
            Some((base, own)) if Arc::ptr_eq(base, &current) => Some(Arc::clone(own)),
            _ => {
                let made = tls::with_sessions(&current, SESSIONS);
                *own = Some((current, Arc::clone(&made)));
                Some(made)
            }
        }
    }
}
