//! A client's HTTP/2 connection: serves its streams and shuts it down.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::h2::server::{Builder, Connection, SendResponse};
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::Request;
use tokio::time::Instant;

use super::flood::{AskedBudget, PREFACE};
use super::stream::ClientStream;
use super::transport::{Transport, WriteGauge};
use crate::model::Limits;
use crate::proxy::bridge::observer::{Mark, Marks, Observer};
use crate::proxy::bridge::unsent::Unsent;
use crate::proxy::client::handshake::DRAINING_FIRST_REQUEST;
use crate::proxy::client::refusal::stream_for;
use crate::proxy::connection_counts::client_key;
use crate::proxy::notices::Limit;
use crate::proxy::request::client::{After, Asked, Client};
use crate::proxy::request::origin::Origin;
use crate::proxy::request::pipeline;
use crate::proxy::wire::deadline::{Class, Deadline};
use crate::proxy::wire::stream::Stream;
use crate::proxy::worker::Worker;

/// Bytes buffered per stream for sending.
const SEND_BUFFER: usize = 16 * 1024;
/// The largest frame that a client may send: the default (RFC 9113 §6.5.2).
const MAX_FRAME: usize = 16 * 1024;
/// Reset streams that are remembered, to ignore late frames for them.
const RESET_STREAMS: usize = 64;
/// Streams that a client may reset before they are accepted.
const PENDING_RESET_STREAMS: usize = 32;
/// Stream errors tolerated per connection. Until a client has received our settings, it may open
/// more streams than allowed.
const STREAM_ERRORS: usize = 1024;
/// How long a client may go on sending a request body after its response. A stream that is reset
/// right behind its response makes some clients lose the response.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes taken in that time.
const LINGER_BYTES: usize = 1 << 20;
/// Estimated memory of a connection besides its transport and streams.
const CONNECTION_BYTES: usize = 32 * 1024;
/// A connection with open streams has no timeout of its own, but may be closed to free memory.
const BUSY: Duration = Duration::from_secs(365 * 24 * 3600);
/// Time allowed for the last frames of a connection that is closing.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves the streams of a client until the connection closes.
pub(crate) async fn serve(worker: Rc<Worker>, client: Client) {
    let Client { stream, held, mut origin, deadline, .. } = client;
    // Without TLS, the protocol is only known now. The origin is not shared yet.
    if let Some(origin) = Rc::get_mut(&mut origin) {
        origin.http2 = true;
    }
    let gauge = Rc::new(WriteGauge::default());
    let (builder, wait, header_list) = {
        let config = &worker.view().snapshot.config;
        (builder(&config.limits), config.timeouts.request_head, header_list(&config.limits))
    };
    let marks = Rc::new(Marks::default());
    // `h2` refuses larger blocks itself.
    let max_block = header_list.saturating_add(MAX_FRAME);
    let observer = Observer::of_client(PREFACE.len(), max_block, Rc::clone(&marks));
    deadline.set(wait);
    let transport_bytes = stream.state_bytes();
    let transport = Transport::new(Rc::clone(&worker), stream, held, Rc::clone(&gauge), observer);
    let mut handshake = Box::pin(builder.handshake::<_, Bytes>(transport));
    let mut shortened = false;
    let connection = std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = handshake.as_mut().poll(cx) {
            return Poll::Ready(done.ok());
        }
        if worker.draining() && !shortened {
            shortened = true;
            deadline.set(wait.min(DRAINING_FIRST_REQUEST));
        }
        if gauge.flooded() || deadline.expired(cx) { Poll::Ready(None) } else { Poll::Pending }
    });
    let Some(connection) = connection.await else { return };
    worker.metrics().http2_opened();
    deadline.charge(CONNECTION_BYTES + transport_bytes);
    let streams = Rc::new(Streams::new(worker.coarse_now()));
    let mut server = ServerConnection {
        worker,
        origin,
        deadline,
        connection,
        gauge,
        marks,
        streams,
        unsent: Unsent::default(),
        phase: Phase::Open,
        drain_timeout: CLOSE_TIMEOUT,
    };
    server.deadline.set(wait);
    std::future::poll_fn(|cx| server.poll(cx)).await;
    let ServerConnection { connection, streams, .. } = server;
    // Fails the requests in flight, so that they are logged.
    drop(connection);
    std::future::poll_fn(|cx| streams.poll_idle(cx)).await;
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.stream_window.saturating_mul(4))
        .max_header_list_size(u32::try_from(header_list(limits)).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESET_STREAMS)
        .max_local_error_reset_streams(Some(STREAM_ERRORS))
        .enable_connect_protocol();
    builder
}

/// Returns the limit on a list of headers. HTTP/2 counts 32 bytes more for each (RFC 9113 §6.5.2).
fn header_list(limits: &Limits) -> usize {
    limits.head_bytes.saturating_add(32 * limits.fields)
}

/// An open connection.
struct ServerConnection {
    worker: Rc<Worker>,
    origin: Rc<Origin>,
    deadline: Deadline,
    connection: Connection<Transport, Bytes>,
    gauge: Rc<WriteGauge>,
    marks: Rc<Marks>,
    streams: Rc<Streams>,
    /// Frames that wait to be sent.
    unsent: Unsent,
    phase: Phase,
    /// Current timeout for the client to take the remaining responses.
    drain_timeout: Duration,
}

/// The phases of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// No stream is open. Waits for the next.
    Idle,
    /// GOAWAY was sent. No new streams are accepted.
    GoingAway,
    /// As before, and no stream is open.
    Draining,
    /// Closed for flooding.
    Flooded,
}

impl ServerConnection {
    /// Ready when the connection must be dropped.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.deadline.is_shed() {
            self.worker.notices.turned_away(Limit::Memory, self.worker.coarse_now(), &self.origin.peer);
            return Poll::Ready(());
        }
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.mark_busy();
                    self.serve_stream(request, respond);
                }
                Poll::Ready(Some(Err(error))) => {
                    // The h2 crate has its own flood limits.
                    if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && error.is_library() {
                        self.worker.metrics().http2_flooded();
                    }
                    tracing::debug!(peer = %self.origin.peer, %error, "HTTP/2 connection failed");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {
                    // Poll the connection again, so that it sends GOAWAY.
                    if !self.advance_phase() {
                        break;
                    }
                }
            }
        }
        // Wakes this task when the last stream ends.
        let _ = self.streams.poll_idle(cx);
        match (self.deadline.expired(cx), self.phase) {
            (false, _) => Poll::Pending,
            (true, Phase::Open | Phase::Idle) => {
                self.go_away();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            // A slow client may still be receiving responses.
            (true, Phase::Draining) if self.drains_fast_enough() => {
                self.restart_drain_timeout();
                Poll::Pending
            }
            (true, _) => Poll::Ready(()),
        }
    }

    /// Starts a new period in which the client must take the remaining responses.
    fn restart_drain_timeout(&mut self) {
        let idle = self.worker.view().snapshot.config.timeouts.upstream.body_idle;
        self.drain_timeout = if self.gauge.blocked() { idle.max(CLOSE_TIMEOUT) } else { CLOSE_TIMEOUT };
        self.gauge.taken();
        self.deadline.set(self.drain_timeout);
    }

    /// Returns true if the client received data at the minimum rate in the last period.
    fn drains_fast_enough(&self) -> bool {
        let rate = self.worker.view().snapshot.config.timeouts.upstream.min_body_rate.unwrap_or(0);
        let wanted = rate.saturating_mul(self.drain_timeout.as_secs()).max(1);
        u64::try_from(self.gauge.taken()).is_ok_and(|taken| taken >= wanted)
    }

    /// Marks the connection as busy: a stream was opened.
    fn mark_busy(&mut self) {
        self.phase = match self.phase {
            Phase::Open | Phase::Idle => Phase::Open,
            Phase::GoingAway | Phase::Draining => Phase::GoingAway,
            Phase::Flooded => return,
        };
        self.deadline.set(BUSY);
    }

    /// Moves to the next phase if it is time. Returns true if there are frames to send, so that the
    /// connection must be polled again.
    fn advance_phase(&mut self) -> bool {
        if self.gauge.flooded() && self.phase != Phase::Flooded {
            self.phase = Phase::Flooded;
            self.worker.metrics().http2_flooded();
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.deadline.set(CLOSE_TIMEOUT);
            return true;
        }
        let busy = self.streams.any_open();
        match self.phase {
            Phase::Open | Phase::Idle if self.worker.draining() => {
                self.go_away();
                true
            }
            Phase::Open if !busy && self.streams.served() => {
                self.phase = Phase::Idle;
                let wait = self.worker.view().snapshot.config.timeouts.keep_alive;
                self.deadline.set_as(Class::Idle, wait);
                false
            }
            Phase::GoingAway if !busy => {
                self.phase = Phase::Draining;
                self.restart_drain_timeout();
                false
            }
            _ => false,
        }
    }

    /// Starts a graceful shutdown: sends GOAWAY.
    fn go_away(&mut self) {
        self.phase = Phase::GoingAway;
        self.connection.graceful_shutdown();
        // A client that has just connected is about to send its first request.
        self.deadline.set(if self.streams.served() { BUSY } else { DRAINING_FIRST_REQUEST });
    }

    /// Serves a stream in its own task.
    fn serve_stream(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let worker = Rc::clone(&self.worker);
        let mark = Mark { marks: Rc::clone(&self.marks), stream: respond.stream_id().into() };
        let mut bridge =
            match ClientStream::new(request, respond, mark, || worker.random(), self.unsent.clone()) {
                Ok(bridge) => bridge,
                Err(error) => {
                    // Counts as a request: the keep-alive timeout now applies.
                    self.streams.served.set(true);
                    worker.metrics().http2_stream(true);
                    tracing::debug!(peer = %self.origin.peer, %error, "HTTP/2 stream refused");
                    return;
                }
            };
        let Ok(held) = stream_for(&worker, self.origin.peer) else {
            self.streams.served.set(true);
            bridge.refuse_stream();
            return;
        };
        worker.metrics().http2_stream(false);
        let counted = self.streams.open();
        let gauge = Rc::clone(&self.gauge);
        let stream = Stream::Bridged(Box::new(bridge));
        let deadline = worker.deadlines.register(client_key(self.origin.peer));
        let mut client = Client::new(stream, Rc::clone(&self.origin), deadline);
        tokio::task::spawn_local(async move {
            let after = pipeline::serve(&worker, &mut client).await;
            worker.buffers.put_back(&mut client.held);
            if after == After::Abort {
                client.stream.reset_on_close();
            } else {
                // Ends the stream of a tunnel. Others have already ended.
                let _ = std::future::poll_fn(|cx| client.stream.poll_shutdown(cx)).await;
                if after == After::Linger {
                    linger(&mut client).await;
                }
            }
            if !counted.note(client.asked, &worker) {
                gauge.set_flooded();
            }
            drop((client, counted, held));
        });
    }
}

/// Drops the rest of a request that was answered early, for a while.
async fn linger(client: &mut Client) {
    client.deadline.set(LINGER);
    let mut left = LINGER_BYTES;
    std::future::poll_fn(|cx| {
        let ended = client.stream.poll_drain(cx, &mut left).is_ready();
        if ended || client.deadline.expired(cx) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Counts a connection's open streams, and those that were abandoned.
#[derive(Debug)]
struct Streams {
    open: Cell<usize>,
    served: Cell<bool>,
    asked: RefCell<AskedBudget>,
    waker: RefCell<Option<Waker>>,
}

/// Counts one open stream until dropped.
struct OpenStream(Rc<Streams>);

impl OpenStream {
    /// Notes what became of the stream's request. Returns false if the client has exceeded its
    /// budget of abandoned requests. The connection's task is about to see that.
    fn note(&self, asked: Asked, worker: &Worker) -> bool {
        let mut budget = self.0.asked.borrow_mut();
        match asked {
            Asked::Nobody => {}
            Asked::Answered => budget.answered(),
            Asked::Abandoned if budget.abandoned(worker.coarse_now()) => {}
            Asked::Abandoned => {
                if let Some(waker) = self.0.waker.take() {
                    waker.wake();
                }
                return false;
            }
        }
        true
    }
}

impl Streams {
    fn new(now: Instant) -> Self {
        Self {
            open: Cell::new(0),
            served: Cell::new(false),
            asked: RefCell::new(AskedBudget::new(now)),
            waker: RefCell::default(),
        }
    }

    fn open(self: &Rc<Self>) -> OpenStream {
        self.open.set(self.open.get() + 1);
        self.served.set(true);
        OpenStream(Rc::clone(self))
    }

    fn any_open(&self) -> bool {
        self.open.get() > 0
    }

    /// Returns true once a stream has been opened.
    fn served(&self) -> bool {
        self.served.get()
    }

    /// Ready when no stream is open.
    fn poll_idle(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.any_open() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if !self.0.any_open()
            && let Some(waker) = self.0.waker.take()
        {
            waker.wake();
        }
    }
}
