//! Addresses and protocols of the proxy.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Time limit for any step.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Host name in requests and in the certificate.
pub const HOST: &str = "soak";

/// A client protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 without TLS.
    H2c,
    /// HTTP/2 over TLS.
    H2,
}

impl Protocol {
    /// Returns its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::H1 => "HTTP/1.1",
            Self::Tls => "HTTP/1.1 over TLS",
            Self::H2c => "h2c",
            Self::H2 => "HTTP/2 over TLS",
        }
    }

    /// Returns true for HTTP/2.
    pub fn http2(self) -> bool {
        matches!(self, Self::H2c | Self::H2)
    }

    /// Returns true for TLS.
    pub fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::H2)
    }
}

/// The proxy's two listeners, and TLS configurations that trust its certificate.
#[derive(Debug, Clone)]
pub struct Target {
    plain: SocketAddr,
    secure: SocketAddr,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

impl Target {
    /// Creates a certificate and writes it with its key to the file `pem`.
    pub fn new(plain: SocketAddr, secure: SocketAddr, pem: &Path) -> Result<Self> {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([HOST.to_owned()])?;
        std::fs::write(pem, cert.pem() + &signing_key.serialize_pem()).context("write the certificate")?;
        let mut roots = RootCertStore::empty();
        roots.add(cert.der().clone())?;
        let http1 = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let mut http2 = http1.clone();
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { plain, secure, http1: Arc::new(http1), http2: Arc::new(http2) })
    }

    /// Returns the listener address for a protocol.
    pub fn address(&self, protocol: Protocol) -> SocketAddr {
        if protocol.tls() { self.secure } else { self.plain }
    }

    /// Returns the TLS configuration for HTTP/2.
    pub fn http2(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.http2)
    }

    /// Opens an HTTP/1.1 connection.
    pub fn open(&self, protocol: Protocol) -> io::Result<Stream> {
        let socket = TcpStream::connect(self.address(protocol))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        if !protocol.tls() {
            return Ok(Stream::Plain(socket));
        }
        let tls = ClientConnection::new(Arc::clone(&self.http1), host()).map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(StreamOwned::new(tls, socket))))
    }
}

/// Returns [`HOST`] as a TLS server name.
pub fn host() -> ServerName<'static> {
    ServerName::try_from(HOST).expect("HOST should be a valid server name")
}

/// A connection, with or without TLS.
pub enum Stream {
    /// A plain TCP connection.
    Plain(TcpStream),
    /// A TLS connection.
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// Closes the sending side.
    pub fn shut(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown(Shutdown::Write),
            Self::Tls(tls) => {
                tls.conn.send_close_notify();
                tls.flush()
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(tls) => tls.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}
