//! One client connection: request after request until either side has enough.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;

use super::buffer::{Buffer, Size};
use super::deadline::Deadline;
use super::io::Stream;
use super::request;
use super::worker::Worker;

/// How long, and for how many bytes, a connection that Homing closes is read
/// from, so that the last response is not destroyed by a reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;
/// How long, while Homing stops, a new connection has to begin its first request:
/// who has just connected is about to send.
const FIRST: Duration = Duration::from_secs(1);

/// A client connection.
#[derive(Debug)]
pub(super) struct Client {
    /// Its socket.
    pub stream: Stream,
    /// Bytes that were read and not yet used.
    pub held: Option<Buffer>,
    /// How far the search for the head's end got.
    pub scanned: usize,
    /// The other end's address; IPv4 where it is IPv4-mapped.
    pub peer: IpAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Its deadline.
    pub deadline: Deadline,
    first: First,
}

/// What became of a connection's first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    Awaited,
    /// Awaited for a moment only: Homing stops.
    Hurried,
    Served,
}

/// What becomes of the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// It waits for the next.
    Next,
    /// It is closed once the client has its response.
    Linger,
    /// It is broken off, so that a response that is not whole does not look it.
    Abort,
}

/// Serves a connection until it ends.
pub(super) async fn serve(worker: Rc<Worker>, socket: TcpStream, peer: SocketAddr) {
    let mut client = Client {
        stream: Stream::new(socket),
        held: None,
        scanned: 0,
        peer: peer.ip().to_canonical(),
        scheme: "http",
        deadline: worker.deadlines.register(),
        first: First::Awaited,
    };
    let timeouts = &worker.view().snapshot.config.timeouts;
    let (mut wait, keep_alive) = (timeouts.request_head, timeouts.keep_alive);
    while client.request_comes(&worker, wait).await {
        // Boxed, so that a connection that waits holds no room for a request.
        match Box::pin(request::serve(&worker, &mut client)).await {
            After::Next => {
                client.scanned = 0;
                client.first = First::Served;
                wait = keep_alive;
            }
            After::Linger => {
                client.linger(&worker).await;
                break;
            }
            After::Abort => {
                client.stream.reset_on_close();
                break;
            }
        }
    }
    worker.buffers.put_back(&mut client.held);
}

impl Client {
    /// Waits for the first bytes of a request; false when none will come.
    async fn request_comes(&mut self, worker: &Worker, wait: Duration) -> bool {
        if self.drop_empty_lines(worker) {
            return true;
        }
        self.deadline.set(wait);
        let comes = std::future::poll_fn(|cx| {
            loop {
                match worker.buffers.poll_fill(&mut self.held, Size::Small, &mut self.stream, cx) {
                    Poll::Ready(Ok(n)) if n > 0 && !self.drop_empty_lines(worker) => {}
                    Poll::Ready(Ok(n)) => return Poll::Ready(n > 0),
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => break,
                }
            }
            if worker.draining() {
                match self.first {
                    First::Awaited => {
                        self.first = First::Hurried;
                        self.deadline.set(wait.min(FIRST));
                    }
                    First::Hurried => {}
                    First::Served => return Poll::Ready(false),
                }
            }
            if self.deadline.expired(cx) { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        self.deadline.clear();
        comes
    }

    /// Are there bytes of a request? Empty lines alone, which old clients send
    /// behind a body, are none (RFC 9112 §2.2).
    fn drop_empty_lines(&mut self, worker: &Worker) -> bool {
        match self.held.as_ref().map(Buffer::filled) {
            None | Some([]) => false,
            Some(b"\r\n" | b"\r\n\r\n") => {
                worker.buffers.put_back(&mut self.held);
                false
            }
            Some(_) => true,
        }
    }

    /// Waits until the client is gone. What it sends ahead meanwhile is kept for
    /// its next request; then it is not looked at any more.
    pub(super) async fn gone(&mut self, worker: &Worker) {
        std::future::poll_fn(|cx| {
            if self.stream.poll_readable(cx).is_pending() {
                return Poll::Pending;
            }
            match worker.buffers.poll_fill(&mut self.held, Size::Small, &mut self.stream, cx) {
                Poll::Ready(Ok(0)) => Poll::Ready(()),
                Poll::Ready(Err(error)) if error.kind() != io::ErrorKind::OutOfMemory => Poll::Ready(()),
                // Either there was nothing yet, or there is more than is wanted.
                _ => Poll::Pending,
            }
        })
        .await;
    }

    /// Sends bytes whole, `patience` at most.
    ///
    /// # Errors
    /// The socket's; `TimedOut`.
    pub(super) async fn send(&mut self, bytes: &[u8], patience: Duration) -> io::Result<()> {
        self.deadline.set(patience);
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
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Ends the sending side and reads on for a while: closing a socket with
    /// unread bytes would reset it and take the response with it (RFC 9112 §9.6).
    async fn linger(&mut self, worker: &Worker) {
        self.deadline.set(LINGER);
        let mut left = LINGER_BYTES;
        let mut ended = false;
        std::future::poll_fn(|cx| {
            if !ended {
                match self.stream.poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => ended = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            loop {
                worker.buffers.put_back(&mut self.held);
                match worker.buffers.poll_fill(&mut self.held, Size::Small, &mut self.stream, cx) {
                    Poll::Ready(Ok(n)) if n > 0 && n <= left => left -= n,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if self.deadline.expired(cx) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Stream {
    /// Closing it will reset it.
    fn reset_on_close(&self) {
        // A socket that is gone already needs no reset.
        let _ = SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_that_waits_holds_no_room_for_a_request() {
        let size = future_size(serve);
        assert!(size <= 384, "the task of an idle connection takes {size} bytes");
    }
}
