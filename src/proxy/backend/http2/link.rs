//! One HTTP/2 connection to a backend, from its first frame to its last.

use std::io;
use std::pin::Pin;
use std::rc::Weak;
use std::task::{Context, Poll};
use std::time::Duration;

use ::h2::client::{Builder, Connection, SendRequest};
use ::h2::{Ping, PingPong};
use bytes::Bytes;
use tokio::time::Sleep;

use super::links::Link;
use crate::proxy::backend::pool::Counted;
use crate::proxy::wire::stream::Stream;

/// Bytes of a response that may wait for a slow client …
const STREAM_WINDOW: u32 = 256 * 1024;
/// … and those of all on a connection: many slow ones do not stop the others.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// The most that is buffered of one request on its way out.
const SEND_BUFFER: usize = 64 * 1024;
/// The longest head, unpacked. What is too long for the limits is refused later.
const HEAD: u32 = 256 * 1024;
/// How long a backend that is doubted has to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an unused connection has to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// The backend speaks something else.
#[derive(Debug, thiserror::Error)]
#[error("the backend does not speak HTTP/2: {0}")]
pub(crate) struct NotHttp2(String);

impl NotHttp2 {
    pub(crate) fn error(why: impl Into<String>) -> io::Error {
        io::Error::other(Self(why.into()))
    }
}

/// The error of a backend that did not choose HTTP/2 in its TLS handshake.
pub(crate) fn not_chosen() -> io::Error {
    NotHttp2::error("it does not choose h2 (ALPN)")
}

/// Shakes hands: ends once the backend has said how many streams it takes.
///
/// # Errors
/// The connection's; that the backend does not speak HTTP/2.
pub(crate) async fn open(stream: Stream, counted: Counted) -> io::Result<(SendRequest<Bytes>, Driver)> {
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
        Poll::Ready(Ok(())) => Poll::Ready(Err(NotHttp2::error("it closed the connection"))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(failure(error))),
        Poll::Pending if send.current_max_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok((send, Driver { connection, ping, _counted: counted }))
}

fn failure(error: ::h2::Error) -> io::Error {
    let text = error.to_string();
    match error.into_io() {
        Some(error) if error.kind() != io::ErrorKind::UnexpectedEof => error,
        _ => NotHttp2::error(text),
    }
}

/// What moves a connection's frames.
pub(crate) struct Driver {
    connection: Connection<Stream, Bytes>,
    ping: Option<PingPong>,
    _counted: Counted,
}

impl Driver {
    /// Runs until the connection has ended.
    pub(crate) async fn run(mut self, link: &Weak<Link>) {
        let mut asked = false;
        let mut patience: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| {
            // Its streams know how it has ended.
            if Pin::new(&mut self.connection).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            // First, so that what is decided next is not decided by a word long answered.
            if asked && self.answered(cx) {
                (asked, patience) = (false, None);
            }
            match link.upgrade() {
                Some(link) => {
                    if link.doubted.replace(false) && !asked && self.ask() {
                        asked = true;
                        patience = Some(Box::pin(tokio::time::sleep(PATIENCE)));
                        // The connection has something to say.
                        cx.waker().wake_by_ref();
                    }
                    *link.driver.borrow_mut() = Some(cx.waker().clone());
                }
                // It is not used any more, and is about to say so.
                None if patience.is_none() => patience = Some(Box::pin(tokio::time::sleep(FAREWELL))),
                None => {}
            }
            match patience.as_mut() {
                Some(patience) => patience.as_mut().poll(cx),
                None => Poll::Pending,
            }
        })
        .await;
    }

    fn ask(&mut self) -> bool {
        self.ping.as_mut().is_some_and(|ping| ping.send_ping(Ping::opaque()).is_ok())
    }

    fn answered(&mut self, cx: &mut Context<'_>) -> bool {
        self.ping.as_mut().is_none_or(|ping| ping.poll_pong(cx).is_ready())
    }
}
