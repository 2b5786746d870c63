//! One active check of one backend: a TCP connection, or an HTTP/1.1 or HTTP/2 request that is judged
//! by its response status.
//!
//! Each check opens a new connection. A pooled connection could still work when the backend no longer
//! accepts new ones.

mod bounded;
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

/// The connection of a check.
type Connection = Either<TcpStream, UnixStream>;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// The backend is healthy.
    Pass,
    /// The backend is not healthy.
    Fail(ProbeFailure),
    /// The backend is healthy and asks to be drained.
    Drain,
}

/// The reason why a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeFailure {
    /// The name could not be resolved.
    Resolve,
    /// The connection failed.
    Connect(io::ErrorKind),
    /// The check timed out.
    Timeout,
    /// The TLS handshake failed.
    Tls,
    /// The response was not valid HTTP of the configured version, too long, or truncated.
    Protocol,
    /// The response status does not mean up.
    Status(u16),
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve => f.write_str("name resolution failed"),
            Self::Connect(kind) => write!(f, "connect failed: {kind}"),
            Self::Timeout => f.write_str("timed out"),
            Self::Tls => f.write_str("TLS handshake failed"),
            Self::Protocol => f.write_str("invalid HTTP response"),
            Self::Status(status) => write!(f, "unexpected status {status}"),
        }
    }
}

impl fmt::Display for ProbeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("passed"),
            Self::Fail(failure) => failure.fmt(f),
            Self::Drain => f.write_str("passed, asks to be drained"),
        }
    }
}

/// Checks one backend repeatedly, one check at a time.
#[derive(Debug)]
pub struct Prober {
    address: Address,
    probe: Probe,
    timeout: Duration,
    /// TLS settings for HTTP requests; `None`: plain HTTP.
    tls: Option<Arc<tls::Client>>,
    /// Whether to send HTTP/2 requests.
    http2: bool,
    /// Version of the PROXY header that marks the connection as Homing's own.
    proxy_protocol: Option<ProxyVersion>,
    /// A name lookup that outlived its check. The next check waits for it instead of starting another,
    /// so a dead resolver cannot pile up threads.
    lookup: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Prober {
    /// Creates a prober for the backend at `address`. A check fails after `timeout`.
    pub fn new(address: Address, probe: Probe, timeout: Duration) -> Self {
        Self { address, probe, timeout, tls: None, http2: false, proxy_protocol: None, lookup: None }
    }

    /// Sends HTTP requests over TLS.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<tls::Client>>) -> Self {
        Self { tls, ..self }
    }

    /// Sends HTTP/2 requests.
    #[must_use]
    pub fn with_http2(self, http2: bool) -> Self {
        Self { http2, ..self }
    }

    /// Starts connections with a PROXY header.
    #[must_use]
    pub fn with_proxy_protocol(self, proxy_protocol: Option<ProxyVersion>) -> Self {
        Self { proxy_protocol, ..self }
    }

    /// Runs one check. Cancel safe.
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
                let request = CheckRequest { method, path, host: &host };
                let status = match &self.tls {
                    None if self.http2 => exchange::http2(stream, request.http2("http")).await,
                    None => exchange::http1(stream, request.http1()).await,
                    Some(tls) => {
                        let stream = encrypt(tls, &self.address, stream).await.ok_or(ProbeFailure::Tls)?;
                        if self.http2 {
                            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                                return Err(ProbeFailure::Tls);
                            }
                            exchange::http2(stream, request.http2("https")).await
                        } else {
                            exchange::http1(stream, request.http1()).await
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

/// Returns the PROXY header of a connection that has no client.
fn own_header(version: ProxyVersion, stream: &Connection) -> Vec<u8> {
    let mut out = Vec::new();
    match version {
        // Not UNKNOWN: some receivers reject it (§2.1 of the protocol).
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

/// The request of a check.
#[derive(Debug, Clone, Copy)]
struct CheckRequest<'a> {
    method: &'a str,
    path: &'a str,
    host: &'a str,
}

impl CheckRequest<'_> {
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

/// Performs a full TLS handshake, since each check uses a new connection.
async fn encrypt(tls: &tls::Client, address: &Address, stream: Connection) -> Option<TlsStream<Connection>> {
    let (config, name) = (tls.config()?, tls.server_name(&address.host())?);
    match TlsConnector::from(config).connect(name, stream).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::debug!(backend = %address, %error, "TLS handshake with backend failed");
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
