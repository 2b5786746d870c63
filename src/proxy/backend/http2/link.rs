//! One HTTP/2 connection to a backend, from its first frame to its last.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Weak;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::h2::client::{Builder, Connection, SendRequest};
use ::h2::{Ping, PingPong};
use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use crate::proxy::backend::connect_error::ConnectError;
use crate::proxy::backend::lease::{OpenConnection, Usage};
use crate::proxy::wire::stream::Stream;

/// Bytes of a response that may wait for a slow client …
const STREAM_WINDOW: u32 = 256 * 1024;
/// … and those of all on a connection: many slow ones do not stop the others.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The most that is buffered of one request on its way out.
const SEND_BUFFER: usize = 64 * 1024;
/// The longest head, unpacked. What is too long for the limits is refused later.
const HEAD: u32 = 256 * 1024;
/// How long a backend that is ping_wanted has to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection has to say goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a connection may be silent before that means anything.
const MIN_SILENCE: Duration = Duration::from_secs(1);

/// One HTTP/2 connection to a backend.
pub(crate) struct Link {
    pub(crate) send: SendRequest<Bytes>,
    pub(super) streams: Cell<usize>,
    /// When the last response came over it.
    last_response: Cell<Option<Instant>>,
    used: Cell<bool>,
    pub(super) idle_since: Cell<Instant>,
    /// Is the backend to show that it is there?
    pub(crate) ping_wanted: Cell<bool>,
    pub(crate) driver: RefCell<Option<Waker>>,
}

impl Link {
    pub(super) fn new(send: SendRequest<Bytes>) -> Self {
        Self {
            send,
            streams: Cell::new(0),
            last_response: Cell::default(),
            used: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            ping_wanted: Cell::new(false),
            driver: RefCell::default(),
        }
    }

    /// Counts a stream that begins. Returns what the connection was used for before.
    pub(super) fn begin_stream(&self) -> Usage {
        self.streams.set(self.streams.get() + 1);
        match (self.used.replace(true), self.last_response.get()) {
            (false, _) => Usage::First,
            (true, None) => Usage::Early,
            (true, Some(_)) => Usage::Again,
        }
    }

    /// May a stream be used on it?
    pub(super) fn is_usable(&self) -> bool {
        self.end().is_none()
    }

    /// Has the backend announced its end (GOAWAY)?
    pub(super) fn is_going_away(&self) -> bool {
        self.end().is_some_and(|error| error.is_go_away() && error.is_remote())
    }

    /// What it has ended with, or will.
    fn end(&self) -> Option<::h2::Error> {
        match self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    /// A response has come over it.
    pub(crate) fn response_arrived(&self) {
        self.last_response.set(Some(Instant::now()));
    }

    /// A request was given up that had waited since then. If nothing else came in
    /// the meantime, the backend is to show that it is there; not at once, as
    /// some take many a PING for an attack.
    pub(crate) fn request_abandoned(&self, since: Instant) {
        let silent = self.last_response.get().is_none_or(|last_response| last_response < since);
        if !silent || since.elapsed() < MIN_SILENCE {
            return;
        }
        self.ping_wanted.set(true);
        if let Some(driver) = self.driver.borrow_mut().take() {
            driver.wake();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("streams", &self.streams.get()).finish_non_exhaustive()
    }
}

/// Shakes hands: ends once the backend has said how many streams it takes.
///
/// # Errors
/// The connection's; that the backend does not speak HTTP/2.
pub(crate) async fn open(
    stream: Stream,
    counted: OpenConnection,
) -> Result<(SendRequest<Bytes>, Driver), ConnectError> {
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEAD)
        .enable_push(false)
        // Until the backend has said it.
        .initial_max_send_streams(0);
    let (send, mut connection) = builder.handshake::<_, Bytes>(stream).await.map_err(failure)?;
    let ping = connection.ping_pong();
    std::future::poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(ConnectError::NotHttp2("it closed the connection".into()))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(failure(error))),
        Poll::Pending if send.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok((send, Driver { connection, ping, _counted: counted }))
}

fn failure(error: ::h2::Error) -> ConnectError {
    let text = error.to_string();
    match error.into_io() {
        Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => error.into(),
        _ => ConnectError::NotHttp2(text.into()),
    }
}

/// What moves a connection's frames.
pub(crate) struct Driver {
    connection: Connection<Stream, Bytes>,
    ping: Option<PingPong>,
    _counted: OpenConnection,
}

impl Driver {
    /// Runs until the connection has ended.
    pub(crate) async fn run(mut self, link: &Weak<Link>) {
        let mut pinged = false;
        let mut timeout: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| {
            // Its streams know how it has ended.
            if Pin::new(&mut self.connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // First, so that what is decided next is not decided by a word long answered.
            if pinged && self.pong_received(cx) {
                (pinged, timeout) = (false, None);
            }
            match link.upgrade() {
                Some(link) => {
                    if link.ping_wanted.replace(false) && !pinged && self.send_ping() {
                        pinged = true;
                        timeout = Some(Box::pin(tokio::time::sleep(PING_TIMEOUT)));
                        // The connection has something to say.
                        cx.waker().wake_by_ref();
                    }
                    *link.driver.borrow_mut() = Some(cx.waker().clone());
                }
                // It is not used any more, and is about to say so.
                None if timeout.is_none() => timeout = Some(Box::pin(tokio::time::sleep(CLOSE_TIMEOUT))),
                None => {}
            }
            match timeout.as_mut() {
                Some(timeout) => timeout.as_mut().poll(cx),
                None => Poll::Pending,
            }
        })
        .await;
    }

    fn send_ping(&mut self) -> bool {
        self.ping.as_mut().is_some_and(|ping| ping.send_ping(Ping::opaque()).is_ok())
    }

    fn pong_received(&mut self, cx: &mut Context<'_>) -> bool {
        self.ping.as_mut().is_none_or(|ping| ping.poll_pong(cx).is_ready())
    }
}
