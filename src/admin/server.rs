//! Connections of the admin listener.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
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
    /// Maximum number of concurrent connections. A further one replaces one that has sent no request, or
    /// waits.
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
    let mut open = VecDeque::new();
    loop {
        let accept = async {
            let accepted = listener.accept().await;
            if permits.available_permits() == 0 {
                close_silent(&open);
            }
            // The semaphore is never closed, so this never fails.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, accepted)
        };
        let (permit, accepted) = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let backend = Arc::clone(&backend);
                let connection = Arc::<Connection>::default();
                open.retain(|other: &Weak<Connection>| other.strong_count() > 0);
                open.push_back(Arc::downgrade(&connection));
                connections.spawn(async move {
                    serve_connection(limits, stream, peer, backend, connection).await;
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

/// An open connection.
#[derive(Debug, Default)]
struct Connection {
    /// Whether its request has arrived.
    asked: AtomicBool,
    /// Closes it.
    close: CancellationToken,
}

/// Closes the oldest connection that has sent no request yet. Without one, a new connection waits
/// until another ends.
fn close_silent(open: &VecDeque<Weak<Connection>>) {
    let silent = |connection: &Connection| {
        !connection.asked.load(Ordering::Relaxed) && !connection.close.is_cancelled()
    };
    if let Some(connection) = open.iter().filter_map(Weak::upgrade).find(|connection| silent(connection)) {
        connection.close.cancel();
    }
}

async fn serve_connection(
    limits: ConnectionLimits,
    stream: TcpStream,
    peer: SocketAddr,
    backend: Arc<dyn AdminBackend>,
    open: Arc<Connection>,
) {
    let close = open.close.clone();
    let service = service_fn(move |request| {
        open.asked.store(true, Ordering::Relaxed);
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
    let connection = close.run_until_cancelled(connection);
    match tokio::time::timeout(limits.connection, connection).await {
        Ok(Some(Ok(()))) => {}
        Ok(None) => tracing::debug!(%peer, "admin connection closed to make room"),
        Ok(Some(Err(error))) => tracing::debug!(%peer, %error, "admin connection failed"),
        Err(_) => tracing::debug!(%peer, "admin connection timed out"),
    }
}
