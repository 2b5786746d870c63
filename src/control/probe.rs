//! One active check of one backend: a TCP connection, or an HTTP/1.1 or HTTP/2 request that is judged
//! by its response status.
//!
//! Each check opens a new connection. A pooled connection could still work when the backend no longer
//! accepts new ones.

mod bounded;
mod exchange;

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::{Request, Uri, Version};
use http_body_util::Empty;

use crate::dial::connect_error::ConnectError;
use crate::dial::dialer::{Connection, Dialer};
use crate::dial::socket::Socket;
use crate::model::{Probe, ProxyVersion};
use crate::proxy_protocol::{self, Header};

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
    dialer: Dialer,
    probe: Probe,
    timeout: Duration,
    /// Whether to send HTTP/2 requests.
    http2: bool,
    /// Version of the PROXY header that marks the connection as Homing's own.
    proxy_protocol: Option<ProxyVersion>,
}

impl Prober {
    /// Creates a prober that connects with `dialer`. A check fails after `timeout`.
    pub fn new(dialer: Dialer, probe: Probe, timeout: Duration) -> Self {
        Self { dialer, probe, timeout, http2: false, proxy_protocol: None }
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

    async fn try_check(&self) -> Result<ProbeResult, ProbeFailure> {
        if let Some(name) = self.dialer.name() {
            name.refresh();
        }
        let socket = self.dialer.open().await?;
        let header = self.proxy_protocol.map(|version| own_header(version, &socket));
        let connection = self.dialer.start(socket, header.as_deref()).await?;
        let Probe::Http { method, path, host, expect_status, drain_status } = &self.probe else {
            return Ok(ProbeResult::Pass);
        };
        let host = host.clone().unwrap_or_else(|| self.dialer.address().authority());
        let request = CheckRequest { method, path, host: &host };
        let scheme = if matches!(connection, Connection::Tls(_)) { "https" } else { "http" };
        let status = if self.http2 {
            exchange::http2(connection, request.http2(scheme)).await
        } else {
            exchange::http1(connection, request.http1()).await
        };
        let status = status.ok_or(ProbeFailure::Protocol)?;
        Ok(judge(status, expect_status, drain_status))
    }
}

impl From<ConnectError> for ProbeFailure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::TimedOut => Self::Timeout,
            ConnectError::NoDescriptors | ConnectError::TooManyUnfinished => {
                Self::Connect(io::ErrorKind::Other)
            }
            ConnectError::Resolve(_) => Self::Resolve,
            ConnectError::Tls(_) | ConnectError::NotHttp2(_) => Self::Tls,
            ConnectError::Io(error) => Self::Connect(error.kind()),
        }
    }
}

/// Returns the PROXY header of a connection that has no client.
fn own_header(version: ProxyVersion, socket: &Socket) -> Vec<u8> {
    let mut out = Vec::new();
    match version {
        // Not UNKNOWN: some receivers reject it (§2.1 of the protocol).
        ProxyVersion::V1 => {
            let addresses = own_addresses(socket).unwrap_or(Header::Unknown);
            proxy_protocol::write_v1(&mut out, addresses);
        }
        ProxyVersion::V2 => proxy_protocol::write_v2(&mut out, Header::Local),
    }
    out
}

fn own_addresses(socket: &Socket) -> Option<Header> {
    Some(Header::Tcp { source: socket.local_address()?, destination: socket.peer_address()? })
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
