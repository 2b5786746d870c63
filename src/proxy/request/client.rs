//! The client side of a request: its connection, or its stream of one.

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::origin::Origin;
use crate::proxy::wire::buffer::{Buffer, Buffers, Size};
use crate::proxy::wire::deadline::Deadline;
use crate::proxy::wire::stream::Stream;

/// A client connection.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its socket.
    pub stream: Stream,
    /// Bytes that were read and not yet used.
    pub held: Option<Buffer>,
    /// How far the search for the head's end got.
    pub scanned: usize,
    /// Who it is.
    pub origin: Rc<Origin>,
    /// Its deadline.
    pub deadline: Deadline,
}

/// What becomes of the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// It waits for the next.
    Next,
    /// It is closed once the client has its response.
    Linger,
    /// It is broken off, so that a response that is not whole does not look it.
    Abort,
}

impl Client {
    /// A client that has sent nothing yet.
    pub(crate) fn new(stream: Stream, origin: Rc<Origin>, deadline: Deadline) -> Self {
        Self { stream, held: None, scanned: 0, origin, deadline }
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.origin.secure.is_some() { "https" } else { "http" }
    }

    /// Is the client gone? Ready and false: it has sent something ahead, which is
    /// kept for its next request; it need not be looked at any more.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>, buffers: &Buffers) -> Poll<bool> {
        if self.stream.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        match buffers.poll_fill(&mut self.held, Size::Small, &mut self.stream, cx) {
            Poll::Ready(Ok(n)) => Poll::Ready(n == 0),
            // A full buffer of requests sent ahead: no reason to give up.
            Poll::Ready(Err(error)) => Poll::Ready(error.kind() != io::ErrorKind::OutOfMemory),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits until the client is gone; for ever, once it has sent something ahead.
    pub(crate) async fn gone(&mut self, buffers: &Buffers) {
        if !std::future::poll_fn(|cx| self.poll_gone(cx, buffers)).await {
            std::future::pending::<()>().await;
        }
    }

    /// Sends bytes whole, `timeout` at most.
    ///
    /// # Errors
    /// The socket's; `TimedOut`.
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
