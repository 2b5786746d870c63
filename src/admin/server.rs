//! The admin listener's connections.

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

/// What a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// Connections served at a time; more wait unaccepted.
    pub(super) connections: usize,
    /// From the connection to the end of the request's head.
    pub(super) head: Duration,
    /// A connection's whole life. Each carries one request, so that no idle or
    /// stuck one takes another's place for long.
    pub(super) connection: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections: 32, head: Duration::from_secs(5), connection: Duration::from_secs(30) }
    }
}

/// Bytes of a head.
const MAX_HEAD: usize = 16 * 1024;
/// Fields of a head.
const MAX_FIELDS: usize = 64;
/// How long cancellation waits for answers under way.
const GRACE: Duration = Duration::from_secs(1);
/// How long accepting rests when it fails (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the admin API until `cancel`; answers under way then get a second.
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
            // Never closed, so never an error.
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
                tracing::warn!(%error, "the admin listener cannot accept");
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
        Ok(Err(error)) => tracing::debug!(%peer, %error, "admin connection broke off"),
        Err(_) => tracing::debug!(%peer, "admin connection timed out"),
    }
}
