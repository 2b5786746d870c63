//! A worker's main loop: starts and stops listening, advances the clocks, applies snapshots.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::LocalRuntime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::client::acceptor::Acceptor;
use super::client::admission;
use super::client::listener::Listening;
use super::listener_settings::ListenerSettings;
use super::wire::deadline;
use super::worker::{Phase, Shared, Worker};
use crate::model::Bind;
use crate::model::snapshot::Snapshot;

/// Ticks between two sweeps of idle backend connections.
const SWEEP_TICKS: u32 = 10;

/// A command to a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket, which is bound to this address. The settings are the first; reloads
    /// change them through the snapshot.
    Listen(Bind, Listening, ListenerSettings),
    /// Stop accepting on this address. Open connections continue.
    Unlisten(Bind),
    /// Stop accepting, close connections as they become idle, and exit when none is left.
    Drain,
    /// Tell tunnels and event streams to end: their grace period is nearly over. Listeners go on.
    CloseStreams,
    /// Use the latest snapshot, then answer.
    Settle(mpsc::UnboundedSender<()>),
    /// Exit now.
    Stop,
}

/// Runs a worker on this thread until it is told to stop.
///
/// # Errors
/// If the runtime cannot be created.
pub fn run(
    shared: Shared,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    commands: mpsc::UnboundedReceiver<Command>,
) -> io::Result<()> {
    let runtime = LocalRuntime::new()?;
    runtime.block_on(serve(shared, snapshots, commands));
    // Drops the tasks that did not finish in time.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(
    shared: Shared,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let snapshot = Arc::clone(&snapshots.borrow_and_update());
    let worker = Rc::new(Worker::new(shared, snapshot));
    tokio::task::spawn_local(tick(Rc::clone(&worker)));
    tokio::task::spawn_local(follow(Rc::clone(&worker), snapshots.clone()));
    if listen(&worker, &mut commands, &snapshots).await {
        drain(&worker, &mut commands).await;
    }
}

/// Starts and stops listeners as commanded. Returns true on a command to drain, false on one to
/// stop.
async fn listen(
    worker: &Rc<Worker>,
    commands: &mut mpsc::UnboundedReceiver<Command>,
    snapshots: &watch::Receiver<Arc<Snapshot>>,
) -> bool {
    let mut listening: Vec<(Bind, Rc<Notify>)> = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen(bind, socket, settings) => match Acceptor::new(socket) {
                Ok(acceptor) => {
                    let stop = Rc::new(Notify::new());
                    let accepting =
                        admission::accept(Rc::clone(worker), acceptor, settings, Rc::clone(&stop));
                    tokio::task::spawn_local(accepting);
                    listening.push((bind, stop));
                }
                Err(error) => {
                    tracing::error!(worker = worker.shared.index, address = %bind, %error, "cannot accept connections");
                }
            },
            Command::Unlisten(bind) => {
                for (_, stop) in listening.extract_if(.., |(address, _)| *address == bind) {
                    stop.notify_one();
                }
            }
            Command::Drain => {
                for (_, stop) in &listening {
                    stop.notify_one();
                }
                return true;
            }
            Command::CloseStreams => worker.close_streams(),
            Command::Settle(done) => {
                let latest = Arc::clone(&snapshots.borrow());
                if !Arc::ptr_eq(&latest, &worker.view().snapshot) {
                    worker.update(latest);
                }
                let _ = done.send(());
            }
            Command::Stop => return false,
        }
    }
    // The sender is gone: the rest of the process has ended.
    true
}

/// Waits until the last connection closes, or until a command to stop.
async fn drain(worker: &Rc<Worker>, commands: &mut mpsc::UnboundedReceiver<Command>) {
    worker.enter(Phase::Draining);
    let idle = worker.idle();
    tokio::pin!(idle);
    loop {
        tokio::select! {
            () = &mut idle => return,
            command = commands.recv() => match command {
                Some(Command::CloseStreams) => worker.close_streams(),
                Some(Command::Listen(..) | Command::Unlisten(_) | Command::Settle(_) | Command::Drain) => {}
                Some(Command::Stop) | None => return,
            }
        }
    }
}

/// Advances the clocks and deadlines, and sweeps the pools.
async fn tick(worker: Rc<Worker>) {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(deadline::TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 1u32.. {
        let now = ticks.tick().await;
        worker.set_clocks(now);
        worker.deadlines.tick(began.elapsed());
        worker.metrics().set_waiting_memory(worker.deadlines.charged() as u64);
        if count.is_multiple_of(SWEEP_TICKS) {
            worker.view().upstreams.iter().flat_map(|u| &u.pools).for_each(|pool| pool.sweep(now));
        }
    }
}

/// Applies each new snapshot.
async fn follow(worker: Rc<Worker>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    while snapshots.changed().await.is_ok() {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        worker.update(snapshot);
    }
}
