//! The worker threads.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::error::AppError;
use super::machine;
use crate::affinity::recent::RecentUse;
use crate::control::ControlHandle;
use crate::dial::names::Names;
use crate::model::snapshot::Snapshot;
use crate::proxy::connection_counts::ConnectionCounts;
use crate::proxy::event_loop::{self, Command};
use crate::proxy::worker;
use crate::telemetry::{AccessLog, Metrics};

/// How long a reload waits for the workers.
const SETTLE: Duration = Duration::from_secs(1);

/// Sends commands to all workers.
#[derive(Debug)]
pub(super) struct Workers {
    pub(super) commands: Vec<mpsc::UnboundedSender<Command>>,
}

impl Workers {
    /// Waits until all workers use the latest snapshot, or for a second: a worker that is stuck for
    /// longer will use it for its next request.
    pub(super) async fn settle(&self) {
        let (done, mut settled) = mpsc::unbounded_channel();
        self.tell(|| Command::Settle(done.clone()));
        drop(done);
        let _ = tokio::time::timeout(SETTLE, async { while settled.recv().await.is_some() {} }).await;
    }

    pub(super) fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.commands {
            // A send error means that the worker has already finished.
            let _ = worker.send(command());
        }
    }
}

/// Waits for the workers to finish.
#[derive(Debug)]
pub(super) struct WorkerThreads {
    threads: Vec<JoinHandle<()>>,
    running: usize,
    ended: mpsc::UnboundedReceiver<()>,
}

impl WorkerThreads {
    /// Waits for the workers to finish. Returns false if they have not by `until`.
    pub(super) async fn wait(&mut self, until: Option<Instant>) -> bool {
        while self.running > 0 {
            let ended = match until {
                Some(until) => tokio::time::timeout_at(until, self.ended.recv()).await,
                None => Ok(self.ended.recv().await),
            };
            match ended {
                Ok(Some(())) => self.running -= 1,
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
        true
    }

    /// Joins the threads, which have finished or are about to.
    pub(super) fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Starts `count` workers, which do not listen yet.
pub(super) fn start(
    count: usize,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
    control: &ControlHandle,
    metrics: &Metrics,
    log: &AccessLog,
    names: &Arc<Names>,
) -> Result<(Workers, WorkerThreads), AppError> {
    let connections = Arc::new(AtomicUsize::new(0));
    let clients = Arc::new(ConnectionCounts::default());
    let recent = Arc::new(RecentUse::default());
    let streams = Arc::new(ConnectionCounts::default());
    let machine_memory = machine::memory();
    let (end, ended) = mpsc::unbounded_channel();
    let (mut commands, mut threads) = (Vec::new(), Vec::new());
    for index in 0..count {
        let (sender, receiver) = mpsc::unbounded_channel();
        let snapshots = snapshots.clone();
        let shared = worker::Shared {
            index,
            reports: control.reporter(),
            metrics: metrics.worker(index),
            names: Arc::clone(names),
            log: log.clone(),
            connections: Arc::clone(&connections),
            clients: Arc::clone(&clients),
            recent: Arc::clone(&recent),
            streams: Arc::clone(&streams),
            machine_memory,
        };
        let end = end.clone();
        let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            if let Err(error) = event_loop::run(shared, snapshots, receiver) {
                tracing::error!(worker = index, %error, "worker failed");
            }
            let _ = end.send(());
        });
        threads.push(thread.map_err(AppError::Thread)?);
        commands.push(sender);
    }
    Ok((Workers { commands }, WorkerThreads { threads, running: count, ended }))
}
