//! The other end of the admin API, for the command line.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::guard::ADMIN_FIELD;
use crate::affinity::AdminState;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// What the admin listener answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The text.
    pub body: String,
}

/// There was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, or the connection broke off.
    #[error("cannot connect to the admin listener at {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// What came is not HTTP, or not whole.
    #[error("the admin listener at {address} did not answer")]
    Exchange {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer took too long.
    #[error("the admin listener at {address} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// Where.
        address: SocketAddr,
    },
}

/// Reads `path`.
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer, ClientError> {
    within_time(address, exchange(address, Method::GET, path)).await
}

/// Sets a backend's admin state.
pub async fn set_state(
    address: SocketAddr,
    upstream: &str,
    backend: &str,
    state: AdminState,
) -> Result<Answer, ClientError> {
    let (upstream, backend) = (percent_encode(upstream), percent_encode(backend));
    let path = format!("/upstreams/{upstream}/backends/{backend}/state?state={}", state.as_str());
    within_time(address, exchange(address, Method::POST, &path)).await
}

/// Makes the process load its configuration anew.
pub async fn reload(address: SocketAddr) -> Result<Answer, ClientError> {
    within_time(address, exchange(address, Method::POST, "/reload")).await
}

async fn within_time(
    address: SocketAddr,
    exchange: impl Future<Output = Result<Answer, ClientError>>,
) -> Result<Answer, ClientError> {
    tokio::time::timeout(TIMEOUT, exchange).await.unwrap_or(Err(ClientError::Timeout { address }))
}

async fn exchange(address: SocketAddr, method: Method, path: &str) -> Result<Answer, ClientError> {
    let broken = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Exchange { address, source };
    let stream =
        TcpStream::connect(address).await.map_err(|source| ClientError::Connect { address, source })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.into()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .header(ADMIN_FIELD, "1")
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(error.into()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| broken(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(broken)?;
        Ok(Answer { status, body: String::from_utf8_lossy(&body.to_bytes()).into_owned() })
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end as soon as the answer is in, before it is taken.
        _ = connection => answer.await,
    }
}

/// Everything but RFC 3986's unreserved characters.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
