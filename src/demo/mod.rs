//! The built-in application that counts visits per session, for `homing demo` and for tests.
//!
//! It keeps its sessions in memory, like the applications that Homing is made for, and copies each to
//! the successor that Homing announces. A visitor who is sent to an instance without a copy starts
//! again at one. It uses hyper, so it shares no code with the proxy's
//! own codec.

mod body;
mod page;
mod replicas;
mod response;
mod routes;
mod sessions;
mod websocket;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
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

pub use self::replicas::Stage;
use self::routes::Application;

/// Maximum number of concurrent connections. Further ones wait in the backlog.
const MAX_CONNECTIONS: usize = 1_024;
/// Time allowed to send a request head, including idle time.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long stopping waits for requests in flight.
const GRACE: Duration = Duration::from_millis(500);
/// Pause after accepting a connection fails, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running instance. It stops when this is dropped.
#[derive(Debug)]
pub struct Running {
    id: String,
    local_addr: SocketAddr,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// Starts an instance named `id`, on its own.
pub async fn start(id: &str, bind: SocketAddr) -> io::Result<Running> {
    start_on(None, id, bind).await
}

/// Starts an instance named `id` that copies its sessions to others on the same stage.
pub async fn start_on(stage: Option<Stage>, id: &str, bind: SocketAddr) -> io::Result<Running> {
    let listener = TcpListener::bind(bind).await?;
    let local_addr = listener.local_addr()?;
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let application = Arc::new(Application::new(id, stage, cancel.clone(), tasks.clone()));
    tasks.spawn(accept(listener, application));
    Ok(Running { id: id.to_owned(), local_addr, cancel, tasks })
}

impl Running {
    /// Returns its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops the instance. Requests in flight get half a second; streams and tunnels are closed
    /// immediately. All sessions are lost.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn accept(listener: TcpListener, application: Arc<Application>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accept = async {
            // The semaphore is never closed, so this never fails.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = application.cancel.cancelled() => return,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let application_of_connection = Arc::clone(&application);
                application.tasks.spawn(async move {
                    serve(stream, application_of_connection).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "demo application cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, application: Arc<Application>) {
    // Send small writes (events, frames) immediately. If this fails, they are only delayed.
    let _ = stream.set_nodelay(true);
    let cancel = application.cancel.clone();
    let service = service_fn(move |request| {
        let application = Arc::clone(&application);
        async move { Ok::<_, Infallible>(application.handle(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection to the demo application failed");
    }
}
