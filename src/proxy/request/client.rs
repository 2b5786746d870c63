//! The client side of a request: a connection, or one stream of an HTTP/2 connection.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::origin::Origin;
use crate::dial::socket::ResetWatch;
use crate::proxy::backend::owned::OwnedConnections;
use crate::proxy::wire::buffer::{Buffer, Buffers, Size};
use crate::proxy::wire::deadline::Deadline;
use crate::proxy::wire::stream::Stream;

/// A client connection, or one bridged stream.
#[derive(Debug)]
pub(crate) struct Client {
    /// The connection's bytes.
    pub stream: Stream,
    /// Bytes read but not yet used.
    pub held: Option<Buffer>,
    /// Bytes of `held` already searched for the end of the head.
    pub scanned: usize,
    /// The address and handshake of the connection.
    pub origin: Rc<Origin>,
    /// The deadline of whatever the connection waits for.
    pub deadline: Deadline,
    /// Boxed to keep other connections small.
    rare: Option<Box<Rare>>,
    /// What became of the latest request at a backend.
    pub asked: Asked,
}

/// What few connections have.
#[derive(Debug, Default)]
struct Rare {
    /// Backend connections that belong to this one.
    owned: OwnedConnections,
    /// Set once the client sends nothing more.
    reset_watch: Option<ResetWatch>,
}

/// What became of a request at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// No backend was asked, the backend failed, or the client ended a long response.
    Nobody,
    /// The backend answered it, and the client took the response.
    Answered,
    /// The client abandoned it early: the backend worked for nothing.
    Abandoned,
}

/// What to do with the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Wait for the next request.
    Next,
    /// Close it once the client has the response.
    Linger,
    /// Reset it, which makes a truncated response visible to the client.
    Abort,
}

impl Client {
    /// Creates a client that has sent nothing yet.
    pub(crate) fn new(stream: Stream, origin: Rc<Origin>, deadline: Deadline) -> Self {
        Self { stream, held: None, scanned: 0, origin, deadline, rare: None, asked: Asked::Nobody }
    }

    /// Returns the backend connections that belong to this one, if there are any.
    pub(crate) fn owned(&self) -> Option<&OwnedConnections> {
        self.rare.as_ref().map(|rare| &rare.owned)
    }

    /// Returns the backend connections that belong to this one, to take one.
    pub(crate) fn owned_mut(&mut self) -> Option<&mut OwnedConnections> {
        self.rare.as_mut().map(|rare| &mut rare.owned)
    }

    /// Returns the backend connections that belong to this one, to add one.
    pub(crate) fn own(&mut self) -> &mut OwnedConnections {
        &mut self.rare.get_or_insert_default().owned
    }

    /// Returns the memory that the connection holds, in bytes: an estimate of its state, and its buffer.
    pub(crate) fn held_bytes(&self) -> usize {
        self.stream.state_bytes() + self.held.as_ref().map_or(0, Buffer::size)
    }

    /// Returns `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.origin.secure.is_some() { "https" } else { "http" }
    }

    /// Polls for the client's disconnect. Ready with true if it is gone. Ready with false if that
    /// cannot be seen any more, because it has sent more bytes, which are kept for its next request;
    /// stop polling then. A client that has only ended its sending side (FIN, `close_notify`) may
    /// still wait for the response (RFC 9112 §9.6).
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<bool> {
        if let Some(watch) = self.rare.as_ref().and_then(|rare| rare.reset_watch.as_ref()) {
            return watch.poll(cx).map(|()| true);
        }
        if self.stream.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        match buffers.poll_fill(&mut self.held, Size::Small, &mut self.stream, cx) {
            Poll::Ready(Ok(0)) => self.poll_reset(cx),
            Poll::Ready(Ok(_)) => Poll::Ready(false),
            // TLS without a `close_notify`.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => self.poll_reset(cx),
            // A buffer full of pipelined requests is no disconnect.
            Poll::Ready(Err(error)) => Poll::Ready(error.kind() != io::ErrorKind::OutOfMemory),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Starts to watch for a reset, because the client sends nothing more.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let Some(watch) = self.stream.watch_reset() else { return Poll::Ready(false) };
        let rare = self.rare.get_or_insert_default();
        rare.reset_watch.insert(watch).poll(cx).map(|()| true)
    }

    /// Waits until the client is gone. Never returns if the client sends more bytes first.
    pub(crate) async fn gone(&mut self, buffers: &Buffers) {
        if !std::future::poll_fn(|cx| self.poll_gone(cx, buffers)).await {
            std::future::pending::<()>().await;
        }
    }

    /// Sends all bytes within `timeout`.
    ///
    /// # Errors
    /// An error of the socket, or `TimedOut`.
    pub(crate) async fn send(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        self.deadline.set(timeout);
        let mut sent = 0;
        std::future::poll_fn(|cx| {
            while sent < bytes.len() {
                match self.stream.poll_write(cx, &bytes[sent..]) {
                    Poll::Ready(Ok(n)) => sent += n,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if self.deadline.expired(cx) => {
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.stream.poll_flush(cx)
        })
        .await
    }
}
