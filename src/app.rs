//! The composition root: starts, reloads and stops a proxy.

mod admin_port;
mod background;
mod certificates;
mod error;
mod listeners;
mod machine;
mod reload;
mod shared;
mod tables;
mod workers;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{self, ControlHandle, ReloadSummary};
use crate::model::{Bind, Config};
use crate::proxy::event_loop::Command;
use crate::telemetry::{AccessLog, Metrics};

use admin_port::AdminPort;
use background::Background;
pub use error::AppError;
use listeners::Listeners;
use shared::Shared;
use workers::WorkerThreads;

/// How long before the grace period ends tunnels get their close frame.
const CLOSE_TUNNELS_BEFORE: Duration = Duration::from_secs(1);

/// A running proxy. Dropping it stops it immediately; [`Running::shutdown`]
/// stops it gracefully.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    background: Background,
    threads: WorkerThreads,
    cancel: CancellationToken,
    admin: Option<SocketAddr>,
}

/// Starts a proxy. All listeners are bound when this returns. A reload reads
/// `file`.
///
/// # Errors
/// [`AppError`]. Nothing is left running.
pub fn start(config: Config, file: Option<&Path>) -> Result<Running, AppError> {
    // What can fail comes first, so that nothing has to be undone.
    let tls = certificates::load(&config)?;
    let sockets = listeners::bind_all(&config)?;
    let log = AccessLog::start(&config.access_log).map_err(AppError::AccessLog)?;
    let background = Background::new()?;
    let entered = background.enter();
    let admin = admin_port::bind(&config)?;

    let count = config.server.workers.get();
    let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
    let (control, snapshots) =
        control::start(Arc::new(config), Arc::new(tls), count, &tracker, cancel.clone());
    tables::load(&control);
    let metrics = Arc::new(Metrics::new(count));
    metrics.watch_access_log(&log);
    let (workers, threads) = workers::start(count, &snapshots, &control, &metrics, &log)?;

    let shared = Arc::new(Shared {
        control,
        metrics,
        log,
        workers,
        listeners: Listeners::default(),
        draining: AtomicBool::new(false),
        file: file.map(Path::to_owned),
        reloading: tokio::sync::Semaphore::new(1),
    });
    shared.listeners.serve(&shared.workers, sockets, &shared.control.snapshot());
    tracker.spawn(cancel.clone().run_until_cancelled_owned(certificates::watch(shared.control.clone())));
    let admin = admin.map(|listener| AdminPort::serve(listener, &shared, &tracker, &cancel));
    drop(entered);
    Ok(Running { shared, background, threads, cancel, admin: admin.flatten() })
}

impl Running {
    /// Returns the bound addresses, in configuration order.
    pub fn addresses(&self) -> Vec<Bind> {
        self.shared.listeners.addresses()
    }

    /// Returns the address of the admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Returns the control plane's handle.
    pub fn control(&self) -> &ControlHandle {
        &self.shared.control
    }

    /// Renders the metrics, as the admin listener does.
    pub fn metrics(&self) -> String {
        self.shared.metrics.render(&self.shared.control.snapshot())
    }

    /// Returns the control runtime, for tasks off the request path.
    pub fn handle(&self) -> Option<&Handle> {
        self.background.handle()
    }

    /// Applies a new configuration. Connections, bindings, counters and
    /// backend health carry over.
    ///
    /// # Errors
    /// [`AppError`]. The old configuration stays in effect.
    pub async fn reload(&self, config: Config) -> Result<ReloadSummary, AppError> {
        self.shared.reload(config).await
    }

    /// Reloads the configuration file. Returns a readable summary of the changes.
    ///
    /// # Errors
    /// [`AppError`]. The old configuration stays in effect.
    pub async fn reload_file(&self) -> Result<String, AppError> {
        self.shared.reload_file().await
    }

    /// Reopens the access log's file, for log rotation.
    ///
    /// # Errors
    /// Any error from opening the file. Logging continues to the old file.
    pub fn reopen_log(&self) -> std::io::Result<()> {
        self.shared.log.reopen()
    }

    /// Shuts down gracefully: stops accepting, lets requests in flight finish
    /// until `grace` has passed or `at_once` resolves, then saves the tables.
    /// Returns true if everything finished in time.
    pub async fn shutdown(mut self, grace: Duration, at_once: impl Future<Output = ()>) -> bool {
        let shared = Arc::clone(&self.shared);
        shared.draining.store(true, Ordering::Relaxed);
        // Remove socket files first, so that no client finds a socket that is not accepting.
        shared.listeners.clear();
        shared.workers.tell(|| Command::Drain);
        let end = Instant::now() + grace;
        let all_ended = tokio::select! {
            ended = self.drain(end) => ended,
            () = at_once => false,
        };
        if !all_ended {
            shared.workers.tell(|| Command::Stop);
            self.threads.wait(None).await;
        }
        self.threads.join();
        tables::save(&shared.control);
        shared.log.close();
        all_ended
    }

    /// Waits until `end` for the workers to finish. Tells tunnels to close shortly
    /// before. Returns false on timeout.
    async fn drain(&mut self, end: Instant) -> bool {
        if self.threads.wait(end.checked_sub(CLOSE_TUNNELS_BEFORE)).await {
            return true;
        }
        self.shared.workers.tell(|| Command::CloseTunnels);
        self.threads.wait(Some(end)).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.shared.listeners.clear();
        self.shared.workers.tell(|| Command::Stop);
    }
}
