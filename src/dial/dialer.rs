//! Opens connections to one backend.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::connect_error::ConnectError;
use super::names::{Name, Names};
use super::socket::Socket;
use super::tls::BackendTls;
use crate::model::Address;
use crate::tls;

/// Opens connections to one backend. Used by one worker or one health check.
#[derive(Debug)]
pub struct Dialer {
    address: Address,
    /// The addresses of a backend that is given by name.
    name: Option<Arc<Name>>,
    tls: Option<BackendTls>,
    /// Whether the backend must choose HTTP/2 in its TLS handshake.
    http2: bool,
}

/// A connection that is ready for HTTP.
#[derive(Debug)]
pub enum Connection {
    /// Without TLS.
    Plain(Socket),
    /// With TLS. Boxed: it is large.
    Tls(Box<TlsStream<Socket>>),
}

impl Dialer {
    /// For connections without TLS.
    pub fn new(address: Address, names: &Names) -> Self {
        let name = match &address {
            Address::Name(host, port) => Some(names.get(host, *port)),
            Address::Ip(_) | Address::Unix(_) => None,
        };
        Self { address, name, tls: None, http2: false }
    }

    /// Adds TLS, if there is any. Remembers up to `sessions` TLS sessions.
    #[must_use]
    pub fn with_tls(self, client: Option<&Arc<tls::Client>>, sessions: usize) -> Self {
        let host = self.address.host();
        let tls = client.map(|client| BackendTls::new(Arc::clone(client), &host, sessions));
        Self { tls, ..self }
    }

    /// Expects the backend to speak HTTP/2.
    #[must_use]
    pub fn with_http2(self, http2: bool) -> Self {
        Self { http2, ..self }
    }

    /// The backend's address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The name that the backend is given by, if it is not given by address.
    pub fn name(&self) -> Option<&Arc<Name>> {
        self.name.as_ref()
    }

    /// Returns whether connections are encrypted with this TLS state, or with none.
    pub fn has_tls(&self, client: Option<&Arc<tls::Client>>) -> bool {
        match (&self.tls, client) {
            (Some(own), Some(client)) => own.is_from(client),
            (own, client) => own.is_none() && client.is_none(),
        }
    }

    /// Opens a socket. The addresses of a name are tried in order.
    ///
    /// # Errors
    /// The name has no addresses, or the last address could not be connected to.
    pub async fn open(&self) -> Result<Socket, ConnectError> {
        match &self.address {
            Address::Ip(address) => Ok(TcpStream::connect(address).await?.into()),
            Address::Unix(path) => Ok(UnixStream::connect(path).await?.into()),
            Address::Name(host, _) => {
                let unresolved = || ConnectError::Resolve(host.as_str().into());
                let name = self.name.as_ref().ok_or_else(unresolved)?;
                let mut failure = None;
                for address in &*name.addresses().await? {
                    match TcpStream::connect(address).await {
                        Ok(socket) => return Ok(socket.into()),
                        Err(error) => failure = Some(error),
                    }
                }
                Err(failure.map_or_else(unresolved, ConnectError::from))
            }
        }
    }

    /// Sends a PROXY header and performs the TLS handshake, where there is either.
    ///
    /// # Errors
    /// The header cannot be sent, the handshake fails, or the backend does not choose HTTP/2.
    pub async fn start(
        &self,
        mut socket: Socket,
        proxy_header: Option<&[u8]>,
    ) -> Result<Connection, ConnectError> {
        if let Some(header) = proxy_header {
            socket.write_all(header).await?;
        }
        let Some(tls) = &self.tls else { return Ok(Connection::Plain(socket)) };
        // Boxed, so that the futures of connections without TLS stay small.
        let stream = Box::pin(tls.connect(socket)).await?;
        if self.http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(ConnectError::NotHttp2("h2 not selected by ALPN".into()));
        }
        Ok(Connection::Tls(Box::new(stream)))
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
