//! A client's HTTP/2 connection: its streams, and its end.

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

/// The most that is buffered of one response on its way out.
const SEND_BUFFER: usize = 16 * 1024;
/// Streams that a client has reset and that are not yet forgotten.
const RESET_STREAMS: usize = 64;
/// Streams that a client may reset before they were looked at.
const RESET_UNSEEN: usize = 32;
/// Errors of a client in its streams that are put up with. A client may open
/// more streams than it may have before it has heard how many these are.
const STREAM_ERRORS: usize = 1024;
/// How long a connection that is closed has for the last frames.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves the streams of a client until the connection ends.
pub(crate) async fn serve(worker: Rc<Worker>, client: Client) {
    let Client { stream, held, mut origin, deadline, .. } = client;
    // Without TLS it turned out only now; nobody else has it yet.
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
    // Whatever is still on its way fails now, and is recorded.
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
    /// How long a leaving client is waited for.
    waits: Duration,
}

/// How near the connection is to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// No stream is open; one is waited for.
    Idle,
    /// The client knows that no stream will be taken any more.
    Announced,
    /// The same, and none is open.
    Leaving,
    /// It is cut.
    Cut,
}

impl Open {
    /// Ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.stay();
                    self.open(request, respond);
                }
                Poll::Ready(Some(Err(error))) => {
                    // The crate has limits of its own.
                    if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) && error.is_library() {
                        self.worker.metrics().http2_flooded();
                    }
                    tracing::debug!(peer = %self.origin.peer, %error, "HTTP/2 connection failed");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {
                    // Saying goodbye is for the connection to do: poll it again.
                    if !self.look_for_the_end() {
                        break;
                    }
                }
            }
        }
        // The last stream may end without a word to the connection.
        let _ = self.streams.poll_none(cx);
        match (self.deadline.expired(cx), self.end) {
            (false, _) => Poll::Pending,
            (true, End::Open | End::Idle) => {
                self.say_goodbye();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            // Responses may still be on their way to a slow client.
            (true, End::Leaving) if self.takes_enough() => {
                self.wait_for_the_rest();
                Poll::Pending
            }
            (true, _) => Poll::Ready(()),
        }
    }

    /// From now on the client has a while to take what is left for it.
    fn wait_for_the_rest(&mut self) {
        let idle = self.worker.view().snapshot.config.timeouts.upstream.body_idle;
        self.waits = if self.gauge.blocked() { idle.max(FAREWELL) } else { FAREWELL };
        self.gauge.taken();
        self.deadline.set(self.waits);
    }

    /// Did it take as much in that while as a client must?
    fn takes_enough(&self) -> bool {
        let rate = self.worker.view().snapshot.config.timeouts.upstream.min_body_rate.unwrap_or(0);
        let wanted = rate.saturating_mul(self.waits.as_secs()).max(1);
        u64::try_from(self.gauge.taken()).is_ok_and(|taken| taken >= wanted)
    }

    /// There is a stream again.
    fn stay(&mut self) {
        self.end = match self.end {
            End::Open | End::Idle => End::Open,
            End::Announced | End::Leaving => End::Announced,
            End::Cut => return,
        };
        self.deadline.clear();
    }

    /// True if something is to be said to the client now.
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

    fn say_goodbye(&mut self) {
        self.end = End::Announced;
        self.connection.graceful_shutdown();
        // Who has just connected is about to send.
        if self.streams.served() { self.deadline.clear() } else { self.deadline.set(FIRST) }
    }

    /// Serves a stream in a task of its own.
    fn open(&self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let worker = Rc::clone(&self.worker);
        let bridge = match ClientStream::new(request, respond, || worker.random()) {
            Ok(bridge) => bridge,
            Err(error) => {
                // It was one, all the same: the connection's time runs from its end.
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
                // A tunnel has still to say that it is over; all else has.
                let _ = std::future::poll_fn(|cx| client.stream.poll_shutdown(cx)).await;
            }
            drop((client, seat));
        });
    }
}

/// The streams that are being served.
#[derive(Debug, Default)]
struct Streams {
    open: Cell<usize>,
    served: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

/// One of them, for as long as it is.
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

    /// Was there any yet?
    fn served(&self) -> bool {
        self.served.get()
    }

    /// Ready when there is none.
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
