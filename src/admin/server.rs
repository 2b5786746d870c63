//! Connections of the admin listener.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AdminBackend, handler};

/// Limits on connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// Maximum number of concurrent connections. Further ones wait in the backlog.
    pub(super) connections: usize,
    /// Time allowed for a new connection to send its request head.
    pub(super) head: Duration,
    /// Maximum lifetime of a connection. Each serves one request, so idle or stuck connections do not
    /// block others for long.
    pub(super) connection: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections: 32, head: Duration::from_secs(5), connection: Duration::from_secs(30) }
    }
}

/// Maximum size of a request head in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Maximum number of request headers.
const MAX_FIELDS: usize = 64;
/// How long cancellation waits for requests in flight.
const GRACE: Duration = Duration::from_secs(1);
/// Pause after accepting a connection fails, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin API until `cancel` is cancelled. Requests in flight then get one more second.
pub async fn serve(listener: TcpListener, backend: Arc<dyn AdminBackend>, cancel: CancellationToken) {
    serve_within(ConnectionLimits::default(), listener, backend, cancel).await;
}

pub(super) async fn serve_within(
    limits: ConnectionLimits,
    listener: TcpListener,
    backend: Arc<dyn AdminBackend>,
    cancel: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    loop {
        let accept = async {
            // The semaphore is never closed, so this never fails.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let backend = Arc::clone(&backend);
                connections.spawn(async move {
                    serve_connection(limits, stream, peer, backend).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin listener cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(GRACE, connections.wait()).await;
}

async fn serve_connection(
    limits: ConnectionLimits,
    stream: TcpStream,
    peer: SocketAddr,
    backend: Arc<dyn AdminBackend>,
) {
    let service = service_fn(move |request| {
        let backend = Arc::clone(&backend);
        async move { Ok::<_, Infallible>(handler::handle(request, peer.ip(), backend).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(limits.connection, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "admin connection failed"),
        Err(_) => tracing::debug!(%peer, "admin connection timed out"),
    }
}
