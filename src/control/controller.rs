//! The task that owns the control state: the single writer.
//!
//! It runs on a runtime of its own, so that building a ring never delays a
//! request. Everything reaches it through channels; everybody else sees only
//! the snapshots that it publishes.

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
use crate::model::Config;
use crate::model::snapshot::{Memory, Report, Snapshot};

/// Starts the control plane on the current runtime. It ends, with its checks,
/// when `cancel` is cancelled; `tracker` knows of all its tasks.
///
/// # Panics
/// Outside a tokio runtime; and where [`ControlState::new`] does.
pub fn start(
    config: Arc<Config>,
    workers: usize,
    tracker: &TaskTracker,
    cancel: CancellationToken,
) -> (ControlHandle, watch::Receiver<Arc<Snapshot>>) {
    let began = Instant::now();
    let state = ControlState::new(config, workers, Duration::ZERO);
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
    let probers = Probers::new(check_sender, tracker.clone(), cancel.clone());
    let controller = Controller { state, began, publisher, probers };
    let inbox = Inbox { commands, checks, reports };
    tracker.spawn(async move { cancel.run_until_cancelled(controller.run(inbox)).await });
    (handle, published)
}

/// A way to talk to the control plane.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    commands: mpsc::Sender<Command>,
    reports: mpsc::Sender<Report>,
    published: watch::Receiver<Arc<Snapshot>>,
    slots: Arc<SlotRegistry>,
}

impl ControlHandle {
    /// Where workers report what requests saw. Bounded: a worker does not wait
    /// (`try_send`), a report too many is lost.
    pub fn reporter(&self) -> mpsc::Sender<Report> {
        self.reports.clone()
    }

    /// Sets what the operator wishes of a backend. When this returns, it is
    /// published.
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

    /// Takes over another configuration. When this returns, it is published.
    ///
    /// # Errors
    /// [`ControlError::TooManyBackends`] (nothing has changed then) or
    /// [`ControlError::Stopped`].
    pub async fn reload(&self, config: Config) -> Result<ReloadSummary, ControlError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Reload { config: Arc::new(config), reply }, answer).await
    }

    /// The world as it is.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.borrow())
    }

    /// The world as it is and as it will be.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.published.clone()
    }

    /// The slot of a backend, a new one for an id that was never configured:
    /// bindings loaded from a file are kept even if their backend is not
    /// configured now, for it may come back (until then they count as
    /// removed). `None` if there is no such upstream, or no slot left.
    pub fn slot_of(&self, upstream: &str, backend: &BackendId) -> Option<Slot> {
        self.slots.get(upstream)?.slot_of(backend)
    }

    /// The backend that has a slot, whether or not it is configured now.
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

/// Why the control plane did not do as it was told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No such upstream or backend.
    #[error(transparent)]
    UnknownBackend(#[from] UnknownBackend),
    /// Too many backends.
    #[error(transparent)]
    TooManyBackends(#[from] TooManyBackends),
    /// It has been stopped.
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
            // The order is that of importance: what workers report comes last,
            // so that a flood of it delays neither people nor checks nor time.
            tokio::select! {
                biased;
                Some(command) = inbox.commands.recv() => self.obey(command),
                Some(checked) = inbox.checks.recv() => self.checked(checked),
                () = tokio::time::sleep_until(due), if wakeup.is_some() => self.apply(Event::Tick),
                _ = sweep.tick() => self.sweep(),
                // Zero: there is nobody left who could report.
                1.. = inbox.reports.recv_many(&mut reports, REPORT_BATCH) => {
                    for report in reports.drain(..) {
                        self.apply(Event::Passive(report));
                    }
                }
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::Admin { upstream, backend, state, reply } => {
                let result = self.state.set_admin_state(&upstream, &backend, state, now);
                let result = result.map(|effects| self.take_effect(&effects));
                // Who asked may have gone; it is done all the same.
                let _ = reply.send(result);
            }
            Command::Reload { config, reply } => {
                let result = self.state.configure(config, now).map(|(summary, effects)| {
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
            // The task may have been stopped meanwhile.
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
            if let Memory::Table(table) = &upstream.memory {
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
        tracing::warn!(%upstream, backend, from, to, %reason, "state");
    } else {
        tracing::info!(%upstream, backend, from, to, %reason, "state");
    }
}

fn unix_now() -> Timestamp {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Timestamp(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// Reports that may wait.
const REPORTS: usize = 1024;
/// Reports applied before anything else is looked at again.
const REPORT_BATCH: usize = 128;
/// Commands that may wait.
const COMMANDS: usize = 16;
/// Ended checks that may wait; their tasks wait then.
const CHECKS: usize = 256;
/// How often the tables drop what has expired.
const SWEEP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
