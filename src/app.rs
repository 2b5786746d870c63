//! The composition root: starts, reloads and stops a proxy.

mod admin_port;
mod background;
mod certificates;
mod error;
mod listeners;
mod machine;
mod rehearsal;
mod reload;
mod shared;
mod tables;
mod workers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control::{self, ControlHandle, ReloadSummary};
use crate::dial::names::Names;
use crate::model::{Bind, Config, LogOutput};
use crate::proxy::event_loop::Command;
use crate::telemetry::{AccessLog, Metrics};

use admin_port::AdminPort;
use background::Background;
pub use error::AppError;
use listeners::Listeners;
pub use rehearsal::{Rehearsal, rehearse};
use shared::Shared;
use workers::WorkerThreads;

/// How long before their grace period ends tunnels get their Close frame.
const CLOSE_BEFORE: Duration = Duration::from_secs(1);
/// How often a shutdown looks whether the last tunnel or event stream has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Whether all requests and tunnels ended by themselves.
    pub in_time: bool,
    /// Whether all tables with a file were saved.
    pub saved: bool,
}

/// A running proxy. Dropping it stops it immediately; [`Running::shutdown`]
/// stops it gracefully.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    /// Runs the control plane and the admin listener until dropped.
    _background: Background,
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
    let log = AccessLog::start(&config.access_log).map_err(|error| {
        let path = match &config.access_log.output {
            LogOutput::File(path) => path.clone(),
            LogOutput::Stdout | LogOutput::Stderr => PathBuf::default(),
        };
        AppError::AccessLog { path, error }
    })?;
    let background = Background::new()?;
    let entered = background.enter();
    let admin = admin_port::bind(&config)?;

    let count = config.server.workers.get();
    let names = Names::new(background.handle(), config.server.resolve_every);
    let (cancel, tracker) = (CancellationToken::new(), TaskTracker::new());
    let (control, snapshots) =
        control::start(Arc::new(config), Arc::new(tls), count, &names, &tracker, cancel.clone());
    tables::load(&control);
    let metrics = Arc::new(Metrics::new(count));
    metrics.watch_access_log(&log);
    let (workers, threads) = workers::start(count, &snapshots, &control, &metrics, &log, &names)?;

    let shared = Arc::new(Shared {
        control,
        metrics,
        log,
        names,
        workers,
        listeners: Listeners::default(),
        draining: AtomicBool::new(false),
        started: SystemTime::now(),
        last_reload: Mutex::default(),
        file: file.map(Path::to_owned),
        reloading: tokio::sync::Semaphore::new(1),
    });
    shared.listeners.serve(&shared.workers, sockets, &shared.control.snapshot());
    tracker.spawn(cancel.clone().run_until_cancelled_owned(certificates::watch(shared.control.clone())));
    let admin = admin.map(|listener| AdminPort::serve(listener, &shared, &tracker, &cancel));
    drop(entered);
    Ok(Running { shared, _background: background, threads, cancel, admin: admin.flatten() })
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

    /// Returns a handle that changes this proxy from elsewhere.
    pub fn remote(&self) -> Remote {
        Remote(Arc::clone(&self.shared))
    }

    /// Renders the metrics, as the admin listener does.
    pub fn metrics(&self) -> String {
        self.shared.metrics.render(&self.shared.control.snapshot())
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

    /// Reopens the access log's file, for log rotation. Returns false if it is no file.
    ///
    /// # Errors
    /// Any error from opening the file. Logging continues to the old file.
    pub fn reopen_log(&self) -> std::io::Result<bool> {
        self.shared.log.reopen()
    }

    /// Shuts down gracefully. Saves the tables first, for a process that is started meanwhile. Tunnels
    /// and event streams get `server.stream_grace` to end; Homing accepts connections until then. Then
    /// it lets requests in flight finish until `grace` has passed or `at_once` resolves, and saves
    /// the tables again.
    pub async fn shutdown(mut self, grace: Duration, at_once: impl Future<Output = ()>) -> Ended {
        let shared = Arc::clone(&self.shared);
        shared.draining.store(true, Ordering::Relaxed);
        tables::save(&shared.control);
        let began = Instant::now();
        let stream_grace = shared.control.snapshot().config.server.stream_grace.min(grace);
        let in_time = tokio::select! {
            ended = self.drain(began + stream_grace, began + grace / 2, began + grace) => ended,
            () = at_once => false,
        };
        if !in_time {
            shared.listeners.clear();
            shared.workers.tell(|| Command::Stop);
            self.threads.wait(None).await;
        }
        self.threads.join();
        let saved = tables::save(&shared.control);
        shared.log.close();
        Ended { in_time, saved }
    }

    /// Waits until `end` for the workers to finish. Returns false on timeout. Tunnels and event streams
    /// must end by `streams`. While there are some, and until `accepting`, connections are accepted.
    async fn drain(&mut self, streams: Instant, accepting: Instant, end: Instant) -> bool {
        let shared = Arc::clone(&self.shared);
        let told = streams.checked_sub(CLOSE_BEFORE).unwrap_or(streams);
        self.while_streaming(told.min(accepting)).await;
        if Instant::now() >= told {
            shared.workers.tell(|| Command::CloseStreams);
            self.while_streaming(streams.min(accepting)).await;
        }
        // Remove socket files first, so that no client finds a socket that is not accepting.
        shared.listeners.clear();
        shared.workers.tell(|| Command::Drain);
        if self.threads.wait(Some(told)).await {
            return true;
        }
        shared.workers.tell(|| Command::CloseStreams);
        self.threads.wait(Some(end)).await
    }

    /// Waits until no tunnel or event stream is open, or until the time.
    async fn while_streaming(&self, until: Instant) {
        while self.shared.metrics.endless_streams() > 0 && Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + LOOK)).await;
        }
    }
}

/// Changes a running proxy from elsewhere.
#[derive(Debug, Clone)]
pub struct Remote(Arc<Shared>);

impl Remote {
    /// Returns the control plane's handle.
    pub fn control(&self) -> &ControlHandle {
        &self.0.control
    }

    /// Applies a new configuration, as [`Running::reload`] does.
    ///
    /// # Errors
    /// [`AppError`]. The old configuration stays in effect.
    pub async fn reload(&self, config: Config) -> Result<ReloadSummary, AppError> {
        self.0.reload(config).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.shared.listeners.clear();
        self.shared.workers.tell(|| Command::Stop);
    }
}
