//! One HTTP/2 connection to a backend.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::h2::client::{Builder, Connection, SendRequest};
use ::h2::{Ping, PingPong};
use bytes::Bytes;
use tokio::time::{Instant, Sleep};

use super::budget::Budget;
use super::observed::Observed;
use super::send_window::{SendWindow, Watched};
use crate::dial::connect_error::ConnectError;
use crate::proxy::backend::asker::Asker;
use crate::proxy::backend::lease::{OpenConnection, Usage};
use crate::proxy::bridge::observer::{Marks, Observer};
use crate::proxy::bridge::unsent::Unsent;
use crate::proxy::wire::stream::Stream;

/// The flow-control window of a stream, in bytes: how much of a response may wait for a slow
/// client.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The most concurrent streams of a connection. A backend may allow fewer.
pub(super) const MAX_STREAMS: u16 = 100;
/// The flow-control window of a connection, in bytes. It has room for every stream's window, so
/// that no number of slow clients can block the others.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
/// Bytes of a request to buffer per stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Reset streams that are remembered, to ignore late frames for them. Without that, each such frame
/// would cause another reset.
const RESET_STREAMS: usize = 2 * MAX_STREAMS as usize;
/// The longest head, in decompressed bytes. The configured limits are checked later.
const MAX_HEAD: u32 = 256 * 1024;
/// The longest header block that is observed. `h2` refuses longer ones.
const MAX_BLOCK: usize = 512 * 1024;
/// How long the backend has to answer a PING.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection has to send its GOAWAY.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A request that waited for less than this causes no PING when it is abandoned.
const MIN_SILENCE: Duration = Duration::from_secs(1);

/// One HTTP/2 connection to a backend.
pub(crate) struct Link {
    pub(crate) send: SendRequest<Bytes>,
    /// The address that it goes to, if the backend is given by name.
    pub(super) peer: Option<SocketAddr>,
    /// What `h2` does not tell of the backend's frames.
    pub(crate) marks: Rc<Marks>,
    /// Open streams.
    pub(super) streams: Cell<usize>,
    /// When the last response head arrived.
    last_response: Cell<Option<Instant>>,
    /// Whether a stream was opened before.
    used: Cell<bool>,
    pub(super) idle_since: Cell<Instant>,
    /// Whether the driver must send a PING.
    pub(crate) ping_wanted: Cell<bool>,
    /// Wakes the driver.
    pub(crate) driver: RefCell<Option<Waker>>,
    /// The client that has the connection for itself, if any.
    pub(super) owner: Option<u64>,
    /// The resets that the backend may still be sent.
    resets: RefCell<Budget>,
    /// What the backend still takes of uploads.
    window: Rc<SendWindow>,
    /// Unfinished uploads.
    uploads: RefCell<Vec<Upload>>,
    /// Frames that wait to be sent.
    pub(crate) unsent: Unsent,
}

/// An unfinished upload.
#[derive(Debug)]
struct Upload {
    serial: u64,
    client: u64,
    /// Bytes sent.
    sent: i64,
}

impl Link {
    pub(super) fn new(
        send: SendRequest<Bytes>,
        peer: Option<SocketAddr>,
        owner: Option<u64>,
        window: Rc<SendWindow>,
        marks: Rc<Marks>,
    ) -> Self {
        let now = Instant::now();
        Self {
            send,
            peer,
            marks,
            streams: Cell::new(0),
            last_response: Cell::default(),
            used: Cell::new(false),
            idle_since: Cell::new(now),
            ping_wanted: Cell::new(false),
            driver: RefCell::default(),
            owner,
            resets: RefCell::new(Budget::of_link(now)),
            window,
            uploads: RefCell::default(),
            unsent: Unsent::default(),
        }
    }

    /// Counts a new stream. Returns what the connection was used for before.
    pub(super) fn begin_stream(&self) -> Usage {
        self.streams.set(self.streams.get() + 1);
        match (self.used.replace(true), self.last_response.get()) {
            (false, _) => Usage::First,
            (true, None) => Usage::Early,
            (true, Some(_)) => Usage::Again,
        }
    }

    /// Returns whether a client may open another stream. An upload does not go where others have
    /// left it little of the window.
    pub(super) fn has_room_for(&self, asker: Asker) -> bool {
        let most = self.send.current_max_send_streams().min(MAX_STREAMS.into());
        self.streams.get() < most && !(asker.upload && self.owner.is_none() && self.window.is_low())
    }

    /// Returns whether little of the window is left, and this client's unfinished uploads may be
    /// why.
    pub(super) fn is_held_by(&self, client: u64) -> bool {
        let sent = || self.uploads.borrow().iter().filter(|up| up.client == client).map(|up| up.sent).sum();
        self.window.is_low() && self.window.little() <= sent()
    }

    pub(super) fn begin_upload(&self, serial: u64, client: u64) {
        self.uploads.borrow_mut().push(Upload { serial, client, sent: 0 });
    }

    pub(super) fn uploaded(&self, serial: u64, bytes: usize) {
        if let Some(upload) = self.uploads.borrow_mut().iter_mut().find(|upload| upload.serial == serial) {
            upload.sent = upload.sent.saturating_add_unsigned(bytes as u64);
        }
    }

    pub(super) fn end_upload(&self, serial: u64) {
        self.uploads.borrow_mut().retain(|upload| upload.serial != serial);
    }

    /// Returns whether the backend may be sent another reset, and counts it.
    pub(super) fn may_reset(&self, now: Instant) -> bool {
        self.resets.borrow_mut().spend(1, now)
    }

    /// Returns whether the connection takes new streams.
    pub(super) fn is_usable(&self) -> bool {
        self.end().is_none()
    }

    /// Returns whether the backend has sent GOAWAY.
    pub(super) fn is_going_away(&self) -> bool {
        self.end().is_some_and(|error| error.is_go_away() && error.is_remote())
    }

    /// Returns the error that ended the connection, or will end it.
    fn end(&self) -> Option<::h2::Error> {
        match self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(())) | Poll::Pending => None,
        }
    }

    /// Notes that a response head arrived.
    pub(crate) fn response_arrived(&self) {
        self.last_response.set(Some(Instant::now()));
    }

    /// Notes that a request was abandoned after waiting since `since`. If no response arrived on
    /// the connection in the meantime, the driver sends a PING to see whether the backend is alive.
    /// A short wait causes none, because some servers take many PINGs for an attack.
    pub(crate) fn request_abandoned(&self, since: Instant) {
        let silent = self.last_response.get().is_none_or(|last| last < since);
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

/// Performs the HTTP/2 handshake. Returns once the backend has said how many streams it allows.
///
/// # Errors
/// The connection failed, or the backend does not speak HTTP/2.
pub(crate) async fn open(
    stream: Stream,
    counted: OpenConnection,
) -> Result<(SendRequest<Bytes>, Driver), ConnectError> {
    let window = Rc::<SendWindow>::default();
    let stream = Watched::new(stream, Rc::clone(&window));
    let mut builder = Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(MAX_HEAD)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .enable_push(false)
        // Opens no stream before the backend's SETTINGS.
        .initial_max_send_streams(0);
    let marks = Rc::new(Marks::default());
    let observer = Observer::of_backend(MAX_BLOCK, Rc::clone(&marks));
    let stream = Observed { stream, observer };
    let (send, mut connection) = builder.handshake::<_, Bytes>(stream).await.map_err(failure)?;
    let ping = connection.ping_pong();
    std::future::poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(ConnectError::NotHttp2("connection closed".into()))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(failure(error))),
        Poll::Pending if send.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok((send, Driver { connection, ping, window, marks, counted }))
}

/// Converts an error of the handshake.
fn failure(error: ::h2::Error) -> ConnectError {
    let text = error.to_string();
    match error.into_io() {
        Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => error.into(),
        _ => ConnectError::NotHttp2(text.into()),
    }
}

/// Sends and receives a connection's frames.
pub(crate) struct Driver {
    connection: Connection<Observed, Bytes>,
    ping: Option<PingPong>,
    /// The window that the backend grants the connection.
    pub(super) window: Rc<SendWindow>,
    pub(super) marks: Rc<Marks>,
    counted: OpenConnection,
}

impl Driver {
    /// Returns the address of the connection, if the backend is given by name.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.counted.peer()
    }

    /// Runs until the connection ends, or a PING is not answered in time.
    pub(crate) async fn run(mut self, link: &Weak<Link>) {
        let mut pinged = false;
        let mut timeout: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| {
            // The streams get the error, if there is one.
            if Pin::new(&mut self.connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // Checked first, so that a PING already answered neither times out nor delays the next.
            if pinged && self.pong_received(cx) {
                (pinged, timeout) = (false, None);
            }
            match link.upgrade() {
                Some(link) => {
                    if link.ping_wanted.replace(false) && !pinged && self.send_ping() {
                        pinged = true;
                        timeout = Some(Box::pin(tokio::time::sleep(PING_TIMEOUT)));
                        // The connection must be polled again to send the PING.
                        cx.waker().wake_by_ref();
                    }
                    *link.driver.borrow_mut() = Some(cx.waker().clone());
                }
                // The connection is no longer used and is about to send GOAWAY.
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

    /// Queues a PING. Returns false if one cannot be sent.
    fn send_ping(&mut self) -> bool {
        self.ping.as_mut().is_some_and(|ping| ping.send_ping(Ping::opaque()).is_ok())
    }

    /// Returns whether the PING was answered.
    fn pong_received(&mut self, cx: &mut Context<'_>) -> bool {
        self.ping.as_mut().is_none_or(|ping| ping.poll_pong(cx).is_ready())
    }
}
