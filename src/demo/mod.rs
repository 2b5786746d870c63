//! The built-in session-counting application, for `homing demo` and for tests.
//!
//! It is what Homing is for: an application that keeps its sessions in its own
//! memory. A visitor who is sent to another instance begins again at one. It
//! runs on hyper, so that it shares no code with the proxy's own codec.

mod body;
mod page;
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

use self::routes::Application;

/// Connections served at a time; more wait unaccepted.
const MAX_CONNECTIONS: usize = 1_024;
/// Waiting for a request's head, idle connections included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long stopping waits for answers under way.
const GRACE: Duration = Duration::from_millis(500);
/// How long accepting rests when it fails (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running instance; it stops when this is dropped.
#[derive(Debug)]
pub struct Running {
    id: String,
    local_addr: SocketAddr,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// Starts an instance that calls itself `id`.
pub async fn start(id: &str, bind: SocketAddr) -> io::Result<Running> {
    let listener = TcpListener::bind(bind).await?;
    let local_addr = listener.local_addr()?;
    let cancel = CancellationToken::new();
    let tasks = TaskTracker::new();
    let application = Arc::new(Application::new(id, cancel.clone(), tasks.clone()));
    tasks.spawn(accept(listener, application));
    Ok(Running { id: id.to_owned(), local_addr, cancel, tasks })
}

impl Running {
    /// What it calls itself.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops listening and ends: answers under way get half a second, streams and
    /// tunnels nothing. Its sessions are gone.
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
            // Never closed, so never an error.
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
                tracing::warn!(%error, "the demo application cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, application: Arc<Application>) {
    // Small writes (events, frames) go out at once; where that cannot be had
    // they go out later.
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
        tracing::debug!(%error, "a connection to the demo application broke off");
    }
}
