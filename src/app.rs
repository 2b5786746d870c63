//! The composition root: starts, reloads and stops a proxy.

mod certificates;
mod tables;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminBackend, BoxFuture};
use crate::affinity::{AdminState, BackendId};
use crate::control::{self, ControlError, ControlHandle, ReloadSummary};
use crate::model::snapshot::Snapshot;
use crate::model::{Bind, Config, Listener};
use crate::proxy::client::listener::{self, Entrance, SocketFile};
use crate::proxy::connection_counts::ConnectionCounts;
use crate::proxy::event_loop::{self, Command};
use crate::proxy::worker;
use crate::telemetry::{AccessLog, Metrics};
use crate::{config, error_chain};

/// How long before the grace period ends tunnels get their close frame.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a proxy could not be started or reloaded.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener or the admin address could not be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The configured address.
        address: Bind,
        /// The operating system's error.
        source: io::Error,
    },
    /// Certificates or private keys are missing or invalid.
    #[error("{0}")]
    Tls(String),
    /// The access log could not be opened.
    #[error("cannot open the access log")]
    AccessLog(#[source] io::Error),
    /// A thread or runtime could not be created.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The control plane rejected a reload.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The configuration file is invalid. The message holds its diagnostics.
    #[error("{0}")]
    Config(String),
    /// The proxy has no configuration file to reload.
    #[error("no configuration file to reload")]
    NoFile,
}

/// A running proxy. Dropping it stops it immediately; [`Running::shutdown`]
/// stops it gracefully.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    runtime: Background,
    workers: Vec<JoinHandle<()>>,
    ended: mpsc::UnboundedReceiver<()>,
    cancel: CancellationToken,
    admin: Option<SocketAddr>,
}

/// State shared by the admin listener, the signal handlers and [`Running`].
#[derive(Debug)]
struct Shared {
    control: ControlHandle,
    metrics: Arc<Metrics>,
    log: AccessLog,
    commands: Vec<mpsc::UnboundedSender<Command>>,
    listeners: Mutex<Vec<Bound>>,
    draining: AtomicBool,
    /// The file that a reload reads.
    file: Option<PathBuf>,
    /// Allows one reload at a time.
    reloading: tokio::sync::Semaphore,
}

#[derive(Debug, Clone)]
struct Bound {
    /// The configured address. The port may be 0.
    configured: Bind,
    /// The bound address.
    actual: Bind,
    /// The listener's settings, replaced by reloads.
    entrance: Arc<Entrance>,
    /// The socket file of a Unix domain socket.
    file: Option<Arc<SocketFile>>,
}

/// Starts a proxy. All listeners are bound when this returns. A reload reads
/// `file`.
///
/// # Errors
/// [`AppError`]. Nothing is left running.
pub fn start(config: Config, file: Option<&Path>) -> Result<Running, AppError> {
    certificates::load(&config)?;
    let config = Arc::new(config);
    let count = config.server.workers.get();
    let mut sockets = Vec::new();
    for listener in &config.listeners {
        sockets.push((listener, bind(listener, count)?));
    }
    let log = AccessLog::start(&config.access_log).map_err(AppError::AccessLog)?;
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build();
    let runtime = Background(Some(runtime.map_err(AppError::Thread)?));
    let entered = runtime.0.as_ref().map(Runtime::enter);
    let admin = config.server.admin.map(|address| {
        let socket = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        });
        socket.map_err(|source| AppError::Bind { address: address.into(), source })
    });
    let admin = admin.transpose()?;

    let cancel = CancellationToken::new();
    let tracker = TaskTracker::new();
    let (control, snapshots) = control::start(Arc::clone(&config), count, &tracker, cancel.clone());
    tables::load(&control);

    let metrics = Arc::new(Metrics::new(count));
    metrics.watch_access_log(&log);
    let connections = Arc::new(AtomicUsize::new(0));
    let clients = Arc::new(ConnectionCounts::default());
    let (end, ended) = mpsc::unbounded_channel();
    let (mut commands, mut workers) = (Vec::new(), Vec::new());
    for index in 0..count {
        let (sender, receiver) = mpsc::unbounded_channel();
        let snapshots = snapshots.clone();
        let shared = worker::Shared {
            index,
            reports: control.reporter(),
            metrics: metrics.worker(index),
            log: log.clone(),
            connections: Arc::clone(&connections),
            clients: Arc::clone(&clients),
        };
        let end = end.clone();
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            if let Err(error) = event_loop::run(shared, snapshots, receiver) {
                tracing::error!(worker = index, %error, "worker failed");
            }
            let _ = end.send(());
        });
        workers.push(thread.map_err(AppError::Thread)?);
        commands.push(sender);
    }

    let shared = Arc::new(Shared {
        control,
        metrics,
        log,
        commands,
        listeners: Mutex::default(),
        draining: AtomicBool::new(false),
        file: file.map(Path::to_owned),
        reloading: tokio::sync::Semaphore::new(1),
    });
    for (listener, sockets) in sockets {
        shared.listen(listener, sockets);
    }
    tracker.spawn(cancel.clone().run_until_cancelled_owned(certificates::watch(shared.control.clone())));
    let admin = admin.map(|listener| {
        let address = listener.local_addr().ok();
        let backend: Arc<dyn AdminBackend> = Arc::new(AdminPort(Arc::clone(&shared)));
        tracker.spawn(admin::serve(listener, backend, cancel.clone()));
        address
    });
    drop(entered);
    Ok(Running { shared, runtime, workers, ended, cancel, admin: admin.flatten() })
}

impl Running {
    /// Returns the bound addresses, in configuration order.
    pub fn addresses(&self) -> Vec<Bind> {
        self.shared.listeners.lock().iter().map(|bound| bound.actual.clone()).collect()
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
        self.runtime.0.as_ref().map(Runtime::handle)
    }

    /// Applies a new configuration. Connections, bindings, counters and
    /// backend health carry over.
    ///
    /// # Errors
    /// [`AppError`]. The old configuration stays in effect.
    pub async fn reload(&self, config: Config) -> Result<ReloadSummary, AppError> {
        self.shared.reload_to(config).await
    }

    /// Reloads the configuration file. Returns a readable summary of the changes.
    ///
    /// # Errors
    /// [`AppError`]. The old configuration stays in effect.
    pub async fn reload_file(&self) -> Result<String, AppError> {
        self.shared.reload_from_file().await
    }

    /// Reopens the access log's file, for log rotation.
    ///
    /// # Errors
    /// Any error from opening the file. Logging continues to the old file.
    pub fn reopen_log(&self) -> io::Result<()> {
        self.shared.log.reopen()
    }

    /// Shuts down gracefully: stops accepting, lets requests in flight finish
    /// until `grace` has passed or `at_once` resolves, then saves the tables.
    /// Returns true if everything finished in time.
    pub async fn shutdown(mut self, grace: Duration, at_once: impl Future<Output = ()>) -> bool {
        let shared = Arc::clone(&self.shared);
        shared.draining.store(true, Ordering::Relaxed);
        // Remove socket files first, so that no client finds a socket that is not accepting.
        shared.listeners.lock().clear();
        shared.tell(|| Command::Drain);
        let end = Instant::now() + grace;
        let mut left = self.workers.len();
        let all_ended = tokio::select! {
            ended = self.drain(&mut left, end) => ended,
            () = at_once => false,
        };
        if !all_ended {
            shared.tell(|| Command::Stop);
            self.wait_for_workers(&mut left, None).await;
        }
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        tables::save(&shared.control);
        shared.log.close();
        all_ended
    }

    /// Waits until `end` for the workers to finish. Tells tunnels to close shortly
    /// before. Returns false on timeout.
    async fn drain(&mut self, left: &mut usize, end: Instant) -> bool {
        if self.wait_for_workers(left, end.checked_sub(FAREWELL)).await {
            return true;
        }
        self.shared.tell(|| Command::CloseTunnels);
        self.wait_for_workers(left, Some(end)).await
    }

    /// Waits for the workers to finish. Returns false if they have not by `until`.
    async fn wait_for_workers(&mut self, left: &mut usize, until: Option<Instant>) -> bool {
        while *left > 0 {
            let ended = match until {
                Some(until) => tokio::time::timeout_at(until, self.ended.recv()).await,
                None => Ok(self.ended.recv().await),
            };
            match ended {
                Ok(Some(())) => *left -= 1,
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.shared.listeners.lock().clear();
        self.shared.tell(|| Command::Stop);
    }
}

/// A runtime that may be dropped anywhere, even in a task of another runtime.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.commands {
            // A send error means that the worker has already finished.
            let _ = worker.send(command());
        }
    }

    fn listen(&self, listener: &Listener, bound: listener::Bound) {
        let entrance = Arc::new(Entrance::new(listener));
        let listener::Bound { bind: actual, sockets, file } = bound;
        for (worker, socket) in self.commands.iter().zip(sockets) {
            let _ = worker.send(Command::Listen(actual.clone(), socket, Arc::clone(&entrance)));
        }
        let (configured, file) = (listener.bind.clone(), file.map(Arc::new));
        self.listeners.lock().push(Bound { configured, actual, entrance, file });
    }

    async fn reload_to(&self, mut config: Config) -> Result<ReloadSummary, AppError> {
        let _turn = self.reloading.acquire().await;
        let old = Arc::clone(&self.control.snapshot().config);
        for (what, changed) in [
            ("server.workers", old.server.workers != config.server.workers),
            ("server.admin", old.server.admin != config.server.admin),
            ("access_log", old.access_log != config.access_log),
        ] {
            if changed {
                tracing::warn!("{what} has changed; restart to apply");
            }
        }
        // Do everything that can fail first, so that a failure changes nothing.
        certificates::load(&config)?;
        certificates::keep(&mut config, &old);
        let mut gone = self.listeners.lock().clone();
        let (mut kept, mut new) = (Vec::new(), Vec::new());
        for listener in config.listeners.clone() {
            if let Some(index) = gone.iter().position(|bound| bound.configured == listener.bind) {
                kept.push((gone.remove(index), listener));
            } else {
                let sockets = bind(&listener, self.commands.len())?;
                new.push((listener, sockets));
            }
        }
        let summary = self.control.reload(config).await?;
        for (bound, listener) in kept {
            bound.entrance.replace(&listener);
            if let Some(Err(error)) = bound.file.map(|file| file.set_mode(listener.mode)) {
                tracing::error!(address = %bound.actual, %error, "cannot change the mode of the socket file");
            }
        }
        for bound in gone {
            self.tell(|| Command::Unlisten(bound.actual.clone()));
            self.listeners.lock().retain(|other| other.actual != bound.actual);
            tracing::info!(address = %bound.actual, "stopped listening");
        }
        for (listener, sockets) in new {
            tracing::info!(address = %sockets.bind, "listening");
            self.listen(&listener, sockets);
        }
        Ok(summary)
    }

    async fn reload_from_file(&self) -> Result<String, AppError> {
        let file = self.file.as_deref().ok_or(AppError::NoFile)?;
        let loaded = config::load(file).map_err(|error| AppError::Config(error_chain(&error)))?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let summary = self.reload_to(loaded.config).await?;
        Ok(summary.to_string())
    }
}

/// The admin listener's access to the proxy.
struct AdminPort(Arc<Shared>);

impl AdminBackend for AdminPort {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.control.snapshot()
    }

    fn metrics_text(&self) -> String {
        self.0.metrics.render(&self.0.control.snapshot())
    }

    fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    fn set_state(
        &self,
        upstream: String,
        backend: BackendId,
        state: AdminState,
    ) -> BoxFuture<Result<(), String>> {
        let control = self.0.control.clone();
        Box::pin(async move {
            control.set_admin_state(&upstream, &backend, state).await.map_err(|error| error.to_string())
        })
    }

    fn reload(&self) -> BoxFuture<Result<String, String>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.reload_from_file().await.map_err(|error| error_chain(&error)) })
    }
}

fn bind(listener: &Listener, count: usize) -> Result<listener::Bound, AppError> {
    let refused = |source| AppError::Bind { address: listener.bind.clone(), source };
    listener::bind(listener, count).map_err(refused)
}
