//! One active check of one backend: a TCP connection, or a request of HTTP/1.1
//! or HTTP/2 whose status decides.
//!
//! Every check has a connection of its own: a pooled one would answer for a
//! backend that does not accept any more.

mod exchange;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Request, Uri, Version};
use http_body_util::Empty;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::model::{Address, Probe, ProxyVersion};
use crate::proxy_protocol::{self, Header};
use crate::tls;

/// What a check goes over.
type Connection = Either<TcpStream, UnixStream>;

/// What a check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// It is well.
    Pass,
    /// It is not.
    Fail(ProbeFailure),
    /// It is well, but asks to be drained.
    Drain,
}

/// What a check failed of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeFailure {
    /// Its name could not be resolved.
    Resolve,
    /// It could not be connected to.
    Connect(io::ErrorKind),
    /// It did not answer in time.
    Timeout,
    /// It has no TLS as configured.
    Tls,
    /// What it answered is not the HTTP that it should be, too long, or broken off.
    Protocol,
    /// It answered with a status that does not mean up.
    Status(u16),
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve => f.write_str("the name does not resolve"),
            Self::Connect(kind) => write!(f, "cannot connect: {kind}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Tls => f.write_str("the TLS handshake failed"),
            Self::Protocol => f.write_str("no valid HTTP response"),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}

/// Checks one backend, again and again but never twice at a time.
#[derive(Debug)]
pub struct Prober {
    address: Address,
    probe: Probe,
    timeout: Duration,
    /// How HTTP requests are encrypted.
    tls: Option<Arc<tls::Client>>,
    /// Are they of HTTP/2?
    http2: bool,
    /// How the backend is told that the connection is our own.
    proxy_protocol: Option<ProxyVersion>,
    /// A lookup that outlived its check; the next check waits for it instead
    /// of starting another, so that a dead resolver cannot pile up threads.
    lookup: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Prober {
    /// Will check the backend at `address`; a check without an answer for
    /// `timeout` has failed.
    pub fn new(address: Address, probe: Probe, timeout: Duration) -> Self {
        Self { address, probe, timeout, tls: None, http2: false, proxy_protocol: None, lookup: None }
    }

    /// HTTP requests go over TLS.
    #[must_use]
    pub fn over(self, tls: Option<Arc<tls::Client>>) -> Self {
        Self { tls, ..self }
    }

    /// HTTP requests are of HTTP/2.
    #[must_use]
    pub fn speaking_http2(self, http2: bool) -> Self {
        Self { http2, ..self }
    }

    /// Connections begin with a PROXY header.
    #[must_use]
    pub fn announced(self, proxy_protocol: Option<ProxyVersion>) -> Self {
        Self { proxy_protocol, ..self }
    }

    /// Checks once. Cancel safe.
    pub async fn check(&mut self) -> ProbeResult {
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.try_check()).await {
            Ok(Ok(result)) => result,
            Ok(Err(failure)) => ProbeResult::Fail(failure),
            Err(_) => ProbeResult::Fail(ProbeFailure::Timeout),
        }
    }

    async fn try_check(&mut self) -> Result<ProbeResult, ProbeFailure> {
        let mut stream = self.connect().await?;
        if let Some(version) = self.proxy_protocol {
            let header = own_header(version, &stream);
            stream.write_all(&header).await.map_err(|error| ProbeFailure::Connect(error.kind()))?;
        }
        match &self.probe {
            Probe::Tcp => Ok(ProbeResult::Pass),
            Probe::Http { method, path, host, expect_status, drain_status } => {
                let host = host.clone().unwrap_or_else(|| self.address.authority());
                let ask = Ask { method, path, host: &host };
                let status = match &self.tls {
                    None if self.http2 => exchange::http2(stream, ask.http2("http")).await,
                    None => exchange::http1(stream, ask.http1()).await,
                    Some(tls) => {
                        let stream = encrypt(tls, &self.address, stream).await.ok_or(ProbeFailure::Tls)?;
                        if self.http2 {
                            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                                return Err(ProbeFailure::Tls);
                            }
                            exchange::http2(stream, ask.http2("https")).await
                        } else {
                            exchange::http1(stream, ask.http1()).await
                        }
                    }
                };
                let status = status.ok_or(ProbeFailure::Protocol)?;
                Ok(judge(status, expect_status, drain_status))
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, ProbeFailure> {
        let addresses = match &self.address {
            Address::Unix(path) => {
                let connected = UnixStream::connect(path).await;
                return connected.map(Either::Right).map_err(|error| ProbeFailure::Connect(error.kind()));
            }
            Address::Ip(address) => vec![*address],
            Address::Name(host, port) => {
                let (host, port) = (host.clone(), *port);
                let lookup = self.lookup.get_or_insert_with(|| {
                    tokio::spawn(async move {
                        tokio::net::lookup_host((host.as_str(), port)).await.map(Iterator::collect)
                    })
                });
                let found = lookup.await;
                self.lookup = None;
                found.map_err(|_| ProbeFailure::Resolve)?.map_err(|_| ProbeFailure::Resolve)?
            }
        };
        let mut failure = ProbeFailure::Resolve;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(Either::Left(stream)),
                Err(error) => failure = ProbeFailure::Connect(error.kind()),
            }
        }
        Err(failure)
    }
}

/// The header of a connection that is for no client.
fn own_header(version: ProxyVersion, stream: &Connection) -> Vec<u8> {
    let mut out = Vec::new();
    match version {
        // Not UNKNOWN, which some receivers refuse (§2.1 of the protocol).
        ProxyVersion::V1 => {
            let addresses = own_addresses(stream).unwrap_or(Header::Unknown);
            proxy_protocol::write_v1(&mut out, addresses);
        }
        ProxyVersion::V2 => proxy_protocol::write_v2(&mut out, Header::Local),
    }
    out
}

fn own_addresses(stream: &Connection) -> Option<Header> {
    let Either::Left(tcp) = stream else { return None };
    Some(Header::Tcp { source: tcp.local_addr().ok()?, destination: tcp.peer_addr().ok()? })
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Ask<'a> {
    method: &'a str,
    path: &'a str,
    host: &'a str,
}

impl Ask<'_> {
    const AGENT: HeaderValue = HeaderValue::from_static(concat!("homing/", env!("CARGO_PKG_VERSION")));

    fn http1(self) -> Option<Request<Empty<Bytes>>> {
        Request::builder()
            .method(self.method)
            .uri(self.path.parse::<Uri>().ok()?)
            .header(HOST, self.host)
            .header(USER_AGENT, Self::AGENT)
            .header(CONNECTION, HeaderValue::from_static("close"))
            .body(Empty::new())
            .ok()
    }

    fn http2(self, scheme: &str) -> Option<Request<()>> {
        let uri = Uri::builder().scheme(scheme).authority(self.host).path_and_query(self.path);
        Request::builder()
            .method(self.method)
            .uri(uri.build().ok()?)
            .version(Version::HTTP_2)
            .header(USER_AGENT, Self::AGENT)
            .body(())
            .ok()
    }
}

/// Every check shakes hands anew, as it connects anew.
async fn encrypt(tls: &tls::Client, address: &Address, stream: Connection) -> Option<TlsStream<Connection>> {
    let (config, name) = (tls.config()?, tls.server_name(&address.host())?);
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::debug!(backend = %address, %error, "no TLS with a backend");
            None
        }
    }
}

fn judge(status: u16, expect: &[(u16, u16)], drain: &[u16]) -> ProbeResult {
    if drain.contains(&status) {
        ProbeResult::Drain
    } else if expect.iter().any(|&(from, to)| (from..=to).contains(&status)) {
        ProbeResult::Pass
    } else {
        ProbeResult::Fail(ProbeFailure::Status(status))
    }
}

#[cfg(test)]
mod tests;
