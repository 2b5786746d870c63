//! The task that owns the control state and is its only writer.
//!
//! It runs on its own runtime, so building a ring never delays a request. All input arrives through
//! channels. Other threads see only the snapshots that it publishes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::prober::{Checked, Probers};
use super::reload::ReloadSummary;
use super::slots::{SlotRegistry, TooManyBackends};
use super::state::{ControlState, Effects, Event, UnknownBackend};
use super::transition::Transition;
use crate::affinity::{AdminState, BackendId, Slot, Timestamp};
use crate::dial::names::Names;
use crate::model::Config;
use crate::model::live_tls::LiveTls;
use crate::model::snapshot::{Report, Snapshot};

/// Starts the control plane on the current runtime. It stops with all its checks when `cancel` is
/// cancelled. `tracker` tracks all its tasks.
///
/// # Panics
/// If called outside a tokio runtime, or if [`ControlState::new`] panics.
pub fn start(
    config: Arc<Config>,
    tls: Arc<LiveTls>,
    workers: usize,
    names: &Arc<Names>,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> (ControlHandle, watch::Receiver<Arc<Snapshot>>) {
    let began = Instant::now();
    let state =
        ControlState::new(config, workers, Duration::ZERO).with_tls(tls).with_start(SystemTime::now());
    let (publisher, published) = watch::channel(state.snapshot());
    let (report_sender, reports) = mpsc::channel(REPORTS);
    let (command_sender, commands) = mpsc::channel(COMMANDS);
    let (check_sender, checks) = mpsc::channel(CHECKS);
    let handle = ControlHandle {
        commands: command_sender,
        reports: report_sender,
        published: published.clone(),
        slots: Arc::clone(state.slots()),
    };
    let probers = Probers::new(check_sender, Arc::clone(names), tracker.clone(), cancel.clone());
    let controller = Controller { state, began, publisher, probers };
    let inbox = Inbox { commands, checks, reports };
    tracker.spawn(async move { cancel.run_until_cancelled(controller.run(inbox)).await });
    (handle, published)
}

/// A handle to the control plane.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    commands: mpsc::Sender<Command>,
    reports: mpsc::Sender<Report>,
    published: watch::Receiver<Arc<Snapshot>>,
    slots: Arc<SlotRegistry>,
}

impl ControlHandle {
    /// Returns the channel for reports from workers. It is bounded. Workers use `try_send`, and reports
    /// are dropped when it is full.
    pub fn reporter(&self) -> mpsc::Sender<Report> {
        self.reports.clone()
    }

    /// Sets the operator's admin state of a backend. The change is published when this returns.
    ///
    /// # Errors
    /// [`ControlError::UnknownBackend`] or [`ControlError::Stopped`].
    pub async fn set_admin_state(
        &self,
        upstream: &str,
        backend: &BackendId,
        state: AdminState,
    ) -> Result<(), ControlError> {
        let (reply, answer) = oneshot::channel();
        let (upstream, backend) = (upstream.to_owned(), backend.clone());
        self.ask(Command::Admin { upstream, backend, state, reply }, answer).await
    }

    /// Applies a new configuration with its TLS state. The change is published when this returns.
    ///
    /// # Errors
    /// [`ControlError::TooManyBackends`] (nothing changes) or [`ControlError::Stopped`].
    pub async fn reload(&self, config: Config, tls: LiveTls) -> Result<ReloadSummary, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Reload { config: Arc::new(config), tls: Arc::new(tls), reply }, answer).await
    }

    /// Returns the current snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.borrow())
    }

    /// Returns a receiver for the current and all later snapshots.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.clone()
    }

    /// Returns the slot of a backend and assigns one to an id that was never configured. Bindings loaded
    /// from a file are kept even if their backend is not configured now, because it may be added later;
    /// until then they count as removed. Returns `None` if the upstream is unknown or no slot is left.
    pub fn slot_of(&self, upstream: &str, backend: &BackendId) -> Option<Slot> {
        self.slots.get(upstream)?.slot_of(backend)
    }

    /// Returns the backend that has this slot, even if it is not configured now.
    pub fn id_of(&self, upstream: &str, slot: Slot) -> Option<BackendId> {
        self.slots.get(upstream)?.id_of(slot)
    }

    async fn ask<T, E: Into<ControlError>>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, E>>,
    ) -> Result<T, ControlError> {
        self.commands.send(command).await.map_err(|_| ControlError::Stopped)?;
        answer.await.map_err(|_| ControlError::Stopped)?.map_err(Into::into)
    }
}

/// An error of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The upstream or backend is unknown.
    #[error(transparent)]
    UnknownBackend(#[from] UnknownBackend),
    /// The configuration has too many backends.
    #[error(transparent)]
    TooManyBackends(#[from] TooManyBackends),
    /// The control plane has stopped.
    #[error("the control plane has stopped")]
    Stopped,
}

#[derive(Debug)]
enum Command {
    Admin {
        upstream: String,
        backend: BackendId,
        state: AdminState,
        reply: oneshot::Sender<Result<(), UnknownBackend>>,
    },
    Reload {
        config: Arc<Config>,
        tls: Arc<LiveTls>,
        reply: oneshot::Sender<Result<ReloadSummary, TooManyBackends>>,
    },
}

struct Inbox {
    commands: mpsc::Receiver<Command>,
    checks: mpsc::Receiver<Checked>,
    reports: mpsc::Receiver<Report>,
}

struct Controller {
    state: ControlState,
    began: Instant,
    publisher: watch::Sender<Arc<Snapshot>>,
    probers: Probers,
}

impl Controller {
    async fn run(mut self, mut inbox: Inbox) {
        self.probers.reconcile(&self.state.snapshot());
        let mut sweep = tokio::time::interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports = Vec::with_capacity(REPORT_BATCH);
        loop {
            let wakeup = self.state.next_wakeup().and_then(|wakeup| self.began.checked_add(wakeup));
            let due = wakeup.unwrap_or(self.began);
            // Ordered by importance. Reports come last, so that a flood of them does not delay commands,
            // checks or timers.
            tokio::select! {
                biased;
                Some(command) = inbox.commands.recv() => self.execute(command),
                Some(checked) = inbox.checks.recv() => self.checked(checked),
                () = tokio::time::sleep_until(due), if wakeup.is_some() => self.apply(Event::Tick),
                _ = sweep.tick() => self.sweep(),
                // 0 means that all senders are gone.
                1.. = inbox.reports.recv_many(&mut reports, REPORT_BATCH) => {
                    for report in reports.drain(..) {
                        self.apply(Event::Passive(report));
                    }
                }
            }
        }
    }

    fn execute(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Admin { upstream, backend, state, reply } => {
                let result = self.state.set_admin_state(&upstream, &backend, state, now);
                let result = result.map(|effects| self.take_effect(&effects));
                // The caller may be gone. The change applies all the same.
                let _ = reply.send(result);
            }
            Command::Reload { config, tls, reply } => {
                let result = self.state.reload(config, tls, now).map(|(summary, effects)| {
                    self.take_effect(&effects);
                    summary
                });
                let _ = reply.send(result);
            }
        }
    }

    fn checked(&mut self, checked: Checked) {
        let Checked { upstream, slot, result, next } = checked;
        self.apply(Event::Probe { upstream: Arc::clone(&upstream), slot, result });
        if let Some(interval) = self.state.check_interval(&upstream, slot) {
            // The task may have been stopped in the meantime.
            let _ = next.send(interval);
        }
    }

    fn apply(&mut self, event: Event) {
        let effects = self.state.apply(event, self.now());
        self.take_effect(&effects);
    }

    fn take_effect(&mut self, effects: &Effects) {
        effects.log.iter().for_each(log);
        if effects.changed {
            let snapshot = self.state.snapshot();
            self.probers.reconcile(&snapshot);
            self.publisher.send_replace(snapshot);
        }
    }

    fn sweep(&self) {
        let now = unix_now();
        for upstream in &self.state.snapshot().upstreams {
            if let Some(table) = &upstream.memory.table {
                table.sweep(now);
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

fn log(transition: &Transition) {
    let Transition { upstream, backend, from, to, reason } = transition;
    let backend = backend.as_ref().map(tracing::field::display);
    if reason.is_warning() {
        tracing::warn!(%upstream, backend, from, to, %reason, "state changed");
    } else {
        tracing::info!(%upstream, backend, from, to, %reason, "state changed");
    }
}

fn unix_now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Timestamp(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// Capacity of the report channel.
const REPORTS: usize = 1024;
/// Maximum number of reports applied in a row.
const REPORT_BATCH: usize = 128;
/// Capacity of the command channel.
const COMMANDS: usize = 16;
/// Capacity of the channel for finished checks. Their tasks wait when it is full.
const CHECKS: usize = 256;
/// How often expired entries are removed from the tables.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
