//! A worker: one thread with its own runtime, listeners, pools, buffers and
//! counters. Workers share the snapshot and the backends' counters, and
//! nothing else that a request touches.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use tokio::runtime::LocalRuntime;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::connection_counts::{Clients, Held};
use super::view::View;
use crate::affinity::Timestamp;
use crate::model::snapshot::{Report, Snapshot};
use crate::model::{Bind, ProxyProtocol};
use crate::proxy::client::acceptor::{Acceptor, Arrival};
use crate::proxy::client::connection;
use crate::proxy::client::listener::{Entrance, Listening};
use crate::proxy::client::proxy_header;
use crate::proxy::client::room::{self, Descriptors};
use crate::proxy::request::error::{self, Answer};
use crate::proxy::wire::buffer::Buffers;
use crate::proxy::wire::deadline::{self, Deadlines};
use crate::proxy::wire::socket::Socket;
use crate::telemetry::{AccessLog, Refusal, WorkerMetrics};

/// Pause after a failed accept, typically for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Ticks between two looks at idle backend connections.
const SWEEP_TICKS: u32 = 10;

/// What a worker is told by the rest of the process.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket too, and serve as the entrance says; where it
    /// listens names it.
    Listen(Bind, Listening, Arc<Entrance>),
    /// Accept no longer on this one; its connections go on.
    Unlisten(Bind),
    /// Accept no more, end connections as they fall idle, and stop when none is left.
    Drain,
    /// Take leave of tunnels: the grace period is nearly over.
    Farewell,
    /// Stop now.
    Stop,
}

/// What a worker is made of.
#[derive(Debug)]
pub struct Parts {
    /// Its number, from 0.
    pub index: usize,
    /// The state of the world, and its changes.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Where observations of backends go.
    pub reports: mpsc::Sender<Report>,
    /// Its counters.
    pub metrics: Arc<WorkerMetrics>,
    /// The access log.
    pub log: AccessLog,
    /// Client connections over all workers.
    pub connections: Arc<AtomicUsize>,
    /// The same by client.
    pub clients: Arc<Clients>,
    /// What it is told.
    pub commands: mpsc::UnboundedReceiver<Command>,
}

/// A worker's state, shared by its tasks.
pub(crate) struct Worker {
    pub(crate) buffers: Buffers,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) descriptors: Descriptors,
    /// TLS handshakes in progress.
    pub(crate) handshakes: Cell<usize>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) log: AccessLog,
    index: usize,
    view: RefCell<Rc<View>>,
    changed: Notify,
    reports: mpsc::Sender<Report>,
    connections: Arc<AtomicUsize>,
    clients: Arc<Clients>,
    own_connections: Cell<usize>,
    ended: Notify,
    phase: Cell<Phase>,
    now: Cell<Timestamp>,
    ticked: Cell<Instant>,
    random: RefCell<fastrand::Rng>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    Draining,
    Closing,
}

/// Runs a worker on this thread until it is told to stop and has.
///
/// # Errors
/// If its runtime cannot be made.
pub fn run(parts: Parts) -> io::Result<()> {
    let runtime = LocalRuntime::new()?;
    runtime.block_on(serve(parts));
    // Whatever did not end in time ends here.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(parts: Parts) {
    let Parts { index, mut snapshots, reports, metrics, log, connections, clients, mut commands } = parts;
    let snapshot = Arc::clone(&snapshots.borrow_and_update());
    let worker = Rc::new(Worker {
        buffers: Buffers::new(snapshot.config.limits.head_bytes),
        deadlines: Rc::default(),
        descriptors: Descriptors::new(),
        handshakes: Cell::new(0),
        index,
        view: RefCell::new(Rc::new(View::new(index, snapshot, &metrics, None))),
        changed: Notify::new(),
        metrics,
        log,
        reports,
        connections,
        clients,
        own_connections: Cell::new(0),
        ended: Notify::new(),
        phase: Cell::new(Phase::Serving),
        now: Cell::new(Timestamp::of(SystemTime::now())),
        ticked: Cell::new(Instant::now()),
        random: RefCell::default(),
    });
    tokio::task::spawn_local(Rc::clone(&worker).tick());
    tokio::task::spawn_local(Rc::clone(&worker).follow(snapshots));

    let mut listening: Vec<(Bind, Rc<Notify>)> = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen(bind, listener, entrance) => match Acceptor::new(listener) {
                Ok(listener) => {
                    let stop = Rc::new(Notify::new());
                    tokio::task::spawn_local(Rc::clone(&worker).accept(listener, entrance, Rc::clone(&stop)));
                    listening.push((bind, stop));
                }
                Err(error) => tracing::error!(worker = index, address = %bind, %error, "cannot accept"),
            },
            Command::Unlisten(bind) => listening.retain(|(own, stop)| {
                let stays = *own != bind;
                if !stays {
                    stop.notify_one();
                }
                stays
            }),
            Command::Drain => {
                for (_, stop) in listening.drain(..) {
                    stop.notify_one();
                }
                worker.phase.set(Phase::Draining);
                worker.deadlines.wake_all();
                tokio::task::spawn_local(Rc::clone(&worker).stop_when_idle());
                break;
            }
            // There is nobody to take leave of as long as all are served.
            Command::Farewell => {}
            Command::Stop => return,
        }
    }
    loop {
        tokio::select! {
            // Not looked at before the sockets accepted last have had their turn.
            () = worker.ended.notified() => if worker.own_connections.get() == 0 {
                break;
            },
            command = commands.recv() => match command {
                Some(Command::Farewell) => {
                    worker.phase.set(Phase::Closing);
                    worker.deadlines.wake_all();
                }
                Some(Command::Listen(..) | Command::Unlisten(_) | Command::Drain) => {}
                Some(Command::Stop) | None => break,
            }
        }
    }
}

impl Worker {
    /// The state of the world, now.
    pub(crate) fn view(&self) -> Rc<View> {
        Rc::clone(&self.view.borrow())
    }

    /// Is no new request wanted on old connections?
    pub(crate) fn draining(&self) -> bool {
        self.phase.get() > Phase::Serving
    }

    /// Are tunnels to take their leave?
    pub(crate) fn closing(&self) -> bool {
        self.phase.get() > Phase::Draining
    }

    /// The time, at most a tick old.
    pub(crate) fn now(&self) -> Timestamp {
        self.now.get()
    }

    /// The time of the last tick, for what needs no better.
    pub(crate) fn coarse_now(&self) -> Instant {
        self.ticked.get()
    }

    /// A random number; not for secrets.
    pub(crate) fn random(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// Tells the control plane of a backend. If it is too busy to listen, the
    /// observation is lost: there will be more of the kind.
    pub(crate) fn report(&self, report: Report) {
        let _ = self.reports.try_send(report);
    }

    /// Waits until the state of the world is as wanted, or until then.
    pub(crate) async fn wait_until(&self, until: Instant, wanted: impl Fn(&View) -> bool) {
        loop {
            let changed = self.changed.notified();
            if wanted(&self.view()) {
                return;
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return;
            }
        }
    }

    /// Keeps the clock, the deadlines and the pools.
    async fn tick(self: Rc<Self>) {
        let began = Instant::now();
        let mut ticks = tokio::time::interval(deadline::TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for count in 1u32.. {
            let now = ticks.tick().await;
            self.now.set(Timestamp::of(SystemTime::now()));
            self.ticked.set(now);
            self.deadlines.tick(began.elapsed());
            if count.is_multiple_of(SWEEP_TICKS) {
                for pool in self.view().upstreams.iter().flat_map(|u| &u.pools) {
                    pool.sweep(now);
                }
            }
        }
    }

    /// Takes over each new snapshot.
    async fn follow(self: Rc<Self>, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        while snapshots.changed().await.is_ok() {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.buffers.set_head_bytes(snapshot.config.limits.head_bytes);
            let before = self.view();
            let reloaded = !Arc::ptr_eq(&before.snapshot.config, &snapshot.config);
            let view = View::new(self.index, snapshot, &self.metrics, Some(&before));
            self.view.replace(Rc::new(view));
            if reloaded {
                // Tunnels look whether they are still wanted.
                self.deadlines.wake_all();
            }
            self.changed.notify_waiters();
        }
    }

    /// Accepts until told to stop; what waits to be accepted then is served too.
    async fn accept(self: Rc<Self>, listener: Acceptor, entrance: Arc<Entrance>, stop: Rc<Notify>) {
        loop {
            tokio::select! {
                biased;
                accepted = listener.accept() => match accepted {
                    Ok(arrival) => self.admit(arrival, &entrance),
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        let plain = entrance.service().tls.is_none();
                        if room::are_exhausted(&error) && self.shed(&listener, plain).await {
                            continue;
                        }
                        tracing::warn!(worker = self.index, %error, "cannot accept; trying again");
                        if tokio::time::timeout(ACCEPT_PAUSE, stop.notified()).await.is_ok() {
                            break;
                        }
                    }
                },
                () = stop.notified() => break,
            }
        }
        for arrival in listener.into_waiting() {
            self.admit(arrival, &entrance);
        }
    }

    fn admit(self: &Rc<Self>, arrival: Arrival, entrance: &Entrance) {
        let service = entrance.service();
        let view = self.view();
        let config = &view.snapshot.config;
        let plain = service.tls.is_none();
        let refuse = |refusal| self.refuse(&arrival.socket, plain, refusal, arrival.peer);
        if !self.has_room_for(&arrival.socket) {
            return refuse(Refusal::Descriptors);
        }
        let held = if arrival.is_from_afar() { self.place_for(arrival.peer.ip()) } else { Ok(None) };
        let held = match held {
            Ok(held) => held,
            Err(refusal) => return refuse(refusal),
        };
        if self.connections.fetch_add(1, Ordering::Relaxed) >= config.limits.connections {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return refuse(Refusal::Connections);
        }
        self.own_connections.set(self.own_connections.get() + 1);
        self.metrics.connection_opened();
        let counted = Counted { worker: Rc::clone(self), _held: held };
        // Each future is made where it is awaited: handed in, it would be held twice.
        match service.tls.clone() {
            _ if service.proxy_protocol != ProxyProtocol::Off => tokio::task::spawn_local(async move {
                proxy_header::serve(Rc::clone(&counted.worker), arrival, service).await;
            }),
            None => tokio::task::spawn_local(async move {
                let worker = Rc::clone(&counted.worker);
                connection::serve(worker, arrival, &service).await;
            }),
            Some(tls) => tokio::task::spawn_local(async move {
                connection::serve_secure(Rc::clone(&counted.worker), arrival, tls).await;
            }),
        };
    }

    /// One of a client's places, where their number is limited; trusted peers
    /// have as many as they like.
    pub(crate) fn place_for(&self, client: IpAddr) -> Result<Option<Held>, Refusal> {
        let view = self.view();
        let config = &view.snapshot.config;
        match config.limits.connections_per_client {
            Some(limit) if !config.client_ip.trusts(client.to_canonical()) => {
                self.clients.enter(client, limit).map(Some).ok_or(Refusal::PerClient)
            }
            _ => Ok(None),
        }
    }

    /// Closes a connection, after a word that there are too many.
    pub(crate) fn refuse(&self, socket: &Socket, plain: bool, refusal: Refusal, peer: SocketAddr) {
        self.metrics.refused_connection(refusal);
        tracing::debug!(%peer, limit = refusal.as_str(), "connection refused");
        // Over TLS it would take a handshake to say so.
        if plain {
            refuse(socket);
        }
    }

    /// Sees that the end is noticed even if there is nothing left to end.
    async fn stop_when_idle(self: Rc<Self>) {
        tokio::task::yield_now().await;
        self.ended.notify_one();
    }
}

/// A client connection in the counts for as long as it lives.
struct Counted {
    worker: Rc<Worker>,
    /// Its place in its client's count.
    _held: Option<Held>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let worker = &self.worker;
        worker.connections.fetch_sub(1, Ordering::Relaxed);
        worker.own_connections.set(worker.own_connections.get() - 1);
        worker.metrics.connection_closed();
        if worker.own_connections.get() == 0 && worker.draining() {
            worker.ended.notify_one();
        }
    }
}

/// Tells a client that there are too many, if it can be told at once.
fn refuse(socket: &Socket) {
    let mut out = Vec::new();
    let retry_after = Some(Duration::from_secs(1));
    error::write_response(&mut out, &Answer { retry_after, ..Answer::new(503, "too_many_connections") });
    let _ = socket.try_write(&out);
}

/// Is it the connection that failed, not the accepting?
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
