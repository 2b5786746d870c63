//! A client's HTTP/2 connection: serves its streams and shuts it down.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::h2::server::{Builder, Connection, SendResponse};
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::Request;

use super::stream::ClientStream;
use super::transport::{Transport, WriteGauge};
use crate::model::Limits;
use crate::proxy::client::handshake::FIRST;
use crate::proxy::request::client::{After, Client};
use crate::proxy::request::origin::Origin;
use crate::proxy::request::pipeline;
use crate::proxy::wire::deadline::{Class, Deadline};
use crate::proxy::wire::stream::Stream;
use crate::proxy::worker::Worker;

/// Bytes buffered per stream for sending.
const SEND_BUFFER: usize = 16 * 1024;
/// Reset streams that are remembered, to ignore late frames for them.
const RESET_STREAMS: usize = 64;
/// Streams that a client may reset before they are accepted.
const RESET_UNSEEN: usize = 32;
/// Stream errors tolerated per connection. Until a client has received our settings, it may open
/// more streams than allowed.
const STREAM_ERRORS: usize = 1024;
/// Time allowed for the last frames of a connection that is closing.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the streams of a client until the connection closes.
pub(crate) async fn serve(worker: Rc<Worker>, client: Client) {
    let Client { stream, held, mut origin, deadline, .. } = client;
    // Without TLS, the protocol is only known now. The origin is not shared yet.
    if let Some(origin) = Rc::get_mut(&mut origin) {
        origin.http2 = true;
    }
    let gauge = Rc::new(WriteGauge::default());
    let (builder, wait) = {
        let config = &worker.view().snapshot.config;
        (builder(&config.limits), config.timeouts.request_head)
    };
    deadline.set(wait);
    let transport = Transport::new(Rc::clone(&worker), stream, held, Rc::clone(&gauge));
    let mut shaking = Box::pin(builder.handshake::<_, Bytes>(transport));
    let mut hurried = false;
    let connection = std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = shaking.as_mut().poll(cx) {
            return Poll::Ready(done.ok());
        }
        if worker.draining() && !hurried {
            hurried = true;
            deadline.set(wait.min(FIRST));
        }
        if gauge.flooded() || deadline.expired(cx) { Poll::Ready(None) } else { Poll::Pending }
    });
    let Some(connection) = connection.await else { return };
    worker.metrics().http2_opened();
    let streams = Rc::new(Streams::default());
    let mut open =
        Open { worker, origin, deadline, connection, gauge, streams, end: End::Open, waits: FAREWELL };
    open.deadline.set(wait);
    std::future::poll_fn(|cx| open.poll(cx)).await;
    let Open { connection, streams, .. } = open;
    // Fails the requests in flight, so that they are logged.
    drop(connection);
    std::future::poll_fn(|cx| streams.poll_none(cx)).await;
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.stream_window.saturating_mul(4))
        .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_local_error_reset_streams(Some(STREAM_ERRORS))
        .enable_connect_protocol();
    builder
}

/// An open connection.
struct Open {
    worker: Rc<Worker>,
    origin: Rc<Origin>,
    deadline: Deadline,
    connection: Connection<Transport, Bytes>,
    gauge: Rc<WriteGauge>,
    streams: Rc<Streams>,
    end: End,
    /// Current timeout for the client to take the remaining responses.
    waits: Duration,
}

/// The phases of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// No stream is open. Waits for the next.
    Idle,
    /// GOAWAY was sent. No new streams are accepted.
    Announced,
    /// As before, and no stream is open.
    Leaving,
    /// Closed for flooding.
    Cut,
}

impl Open {
    /// Ready when the connection must be dropped.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.stay();
                    self.open(request, respond);
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
                    if !self.look_for_the_end() {
                        break;
                    }
                }
            }
        }
        // Wakes this task when the last stream ends.
        let _ = self.streams.poll_none(cx);
        match (self.deadline.expired(cx), self.end) {
            (false, _) => Poll::Pending,
            (true, End::Open | End::Idle) => {
                self.say_goodbye();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            // A slow client may still be receiving responses.
            (true, End::Leaving) if self.takes_enough() => {
                self.wait_for_the_rest();
                Poll::Pending
            }
            (true, _) => Poll::Ready(()),
        }
    }

    /// Starts a new period in which the client must take the remaining responses.
    fn wait_for_the_rest(&mut self) {
        let idle = self.worker.view().snapshot.config.timeouts.upstream.body_idle;
        self.waits = if self.gauge.blocked() { idle.max(FAREWELL) } else { FAREWELL };
        self.gauge.taken();
        self.deadline.set(self.waits);
    }

    /// Returns true if the client received data at the minimum rate in the last period.
    fn takes_enough(&self) -> bool {
        let rate = self.worker.view().snapshot.config.timeouts.upstream.min_body_rate.unwrap_or(0);
        let wanted = rate.saturating_mul(self.waits.as_secs()).max(1);
        u64::try_from(self.gauge.taken()).is_ok_and(|taken| taken >= wanted)
    }

    /// Marks the connection as busy: a stream was opened.
    fn stay(&mut self) {
        self.end = match self.end {
            End::Open | End::Idle => End::Open,
            End::Announced | End::Leaving => End::Announced,
            End::Cut => return,
        };
        self.deadline.clear();
    }

    /// Moves to the next phase if it is time. Returns true if there are frames to send, so that the
    /// connection must be polled again.
    fn look_for_the_end(&mut self) -> bool {
        if self.gauge.flooded() && self.end != End::Cut {
            self.end = End::Cut;
            self.worker.metrics().http2_flooded();
            self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            self.deadline.set(FAREWELL);
            return true;
        }
        let busy = self.streams.any();
        match self.end {
            End::Open | End::Idle if self.worker.draining() => {
                self.say_goodbye();
                true
            }
            End::Open if !busy && self.streams.served() => {
                self.end = End::Idle;
                let wait = self.worker.view().snapshot.config.timeouts.keep_alive;
                self.deadline.set_as(Class::Idle, wait);
                false
            }
            End::Announced if !busy => {
                self.end = End::Leaving;
                self.wait_for_the_rest();
                false
            }
            _ => false,
        }
    }

    /// Starts a graceful shutdown: sends GOAWAY.
    fn say_goodbye(&mut self) {
        self.end = End::Announced;
        self.connection.graceful_shutdown();
        // A client that has just connected is about to send its first request.
        if self.streams.served() { self.deadline.clear() } else { self.deadline.set(FIRST) }
    }

    /// Serves a stream in its own task.
    fn open(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let worker = Rc::clone(&self.worker);
        let bridge = match ClientStream::new(request, respond, || worker.random()) {
            Ok(bridge) => bridge,
            Err(error) => {
                // Counts as a request: the keep-alive timeout now applies.
                self.streams.served.set(true);
                worker.metrics().http2_stream(true);
                tracing::debug!(peer = %self.origin.peer, %error, "HTTP/2 stream refused");
                return;
            }
        };
        worker.metrics().http2_stream(false);
        let seat = self.streams.begin();
        let stream = Stream::Bridged(Box::new(bridge));
        let mut client = Client::new(stream, Rc::clone(&self.origin), worker.deadlines.register());
        tokio::task::spawn_local(async move {
            let after = pipeline::serve(&worker, &mut client).await;
            worker.buffers.put_back(&mut client.held);
            if after == After::Abort {
                client.stream.reset_on_close();
            } else {
                // Ends the stream of a tunnel. Others have already ended.
                let _ = std::future::poll_fn(|cx| client.stream.poll_shutdown(cx)).await;
            }
            drop((client, seat));
        });
    }
}

/// Counts a connection's open streams.
#[derive(Debug, Default)]
struct Streams {
    open: Cell<usize>,
    served: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

/// Counts one open stream until dropped.
struct Seat(Rc<Streams>);

impl Streams {
    fn begin(self: &Rc<Self>) -> Seat {
        self.open.set(self.open.get() + 1);
        self.served.set(true);
        Seat(Rc::clone(self))
    }

    fn any(&self) -> bool {
        self.open.get() > 0
    }

    /// Returns true once a stream has been opened.
    fn served(&self) -> bool {
        self.served.get()
    }

    /// Ready when no stream is open.
    fn poll_none(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.any() {
            return Poll::Ready(());
        }
        *self.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if !self.0.any()
            && let Some(waker) = self.0.waiting.take()
        {
            waker.wake();
        }
    }
}
