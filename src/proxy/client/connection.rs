//! One client connection: request after request until either side has enough.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::acceptor::Arrival;
use super::handshake::{self, Accepted, Secure};
use super::http2;
use super::listener::Service;
use crate::proxy::request::error::{self, Answer};
use crate::proxy::request::pipeline;
use crate::proxy::wire::buffer::{Buffer, Size};
use crate::proxy::wire::deadline::{Class, Deadline};
use crate::proxy::wire::stream::Stream;
use crate::proxy::worker::Worker;
use crate::tls;

/// How long, and for how many bytes, a connection that Homing closes is read
/// from, so that the last response is not destroyed by a reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;
/// How long, while Homing stops, a new connection has to begin its first request:
/// who has just connected is about to send.
pub(crate) const FIRST: Duration = Duration::from_secs(1);

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
    first: First,
}

/// Where a client's requests come from: the same for all of a connection.
#[derive(Debug)]
pub(crate) struct Origin {
    /// The other end's address; IPv4 where it is IPv4-mapped.
    pub peer: IpAddr,
    /// The other end's port.
    pub port: u16,
    /// What it connected to, where that is known.
    pub destination: Option<SocketAddr>,
    /// What its TLS handshake said; `None`: it came without TLS.
    pub secure: Option<Box<Secure>>,
    /// It is to ask again with https, on this port.
    pub redirect_https: Option<u16>,
    /// Does it speak HTTP/2?
    pub http2: bool,
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
pub(crate) enum After {
    /// It waits for the next.
    Next,
    /// It is closed once the client has its response.
    Linger,
    /// It is broken off, so that a response that is not whole does not look it.
    Abort,
}

/// Serves a plain connection until it ends, as its listener says.
pub(crate) fn serve(
    worker: Rc<Worker>,
    arrival: Arrival,
    service: &Service,
) -> impl Future<Output = ()> + use<> {
    // Outside of the task, which holds no room for what only this needs.
    let mut origin = Origin::new(&worker, &arrival);
    let Service { redirect_https, http2, .. } = *service;
    origin.redirect_https = redirect_https;
    let deadline = worker.deadlines.register();
    let mut client = Client::new(Stream::new(arrival.socket), Rc::new(origin), deadline);
    async move {
        match if http2 { client.speaks_http2(&worker).await } else { Some(false) } {
            // Boxed, so that a connection of HTTP/1 holds no room for it.
            Some(true) => Box::pin(http2::connection::serve(worker, client)).await,
            Some(false) => client.serve(&worker).await,
            None => {}
        }
    }
}

/// Shakes hands, and serves a connection until it ends.
pub(crate) async fn serve_secure(worker: Rc<Worker>, arrival: Arrival, tls: Arc<tls::Server>) {
    // Boxed, so that a connection holds no room for its handshake later.
    if let Some(mut client) = Box::pin(shake_hands(&worker, arrival, &tls)).await {
        if client.origin.http2 {
            Box::pin(http2::connection::serve(worker, client)).await;
        } else {
            client.serve(&worker).await;
        }
    }
}

/// The client, once its handshake has come to a good end.
async fn shake_hands(worker: &Worker, arrival: Arrival, tls: &tls::Server) -> Option<Client> {
    let mut origin = Origin::new(worker, &arrival);
    let socket = arrival.socket;
    let deadline = worker.deadlines.register();
    let patience = worker.view().snapshot.config.timeouts.tls_handshake;
    let (socket, speaks_http) = match handshake::accept(worker, socket, tls, &deadline, patience).await {
        Accepted::Secure(stream, secure) => {
            origin.http2 = secure.http2;
            origin.secure = Some(secure);
            return Some(Client::new(stream, Rc::new(origin), deadline));
        }
        Accepted::Plain(socket) => (socket, true),
        Accepted::Failed(socket) => (socket, false),
        Accepted::Gone => return None,
    };
    Client::new(Stream::new(socket), Rc::new(origin), deadline).refuse(worker, speaks_http).await;
    None
}

impl Origin {
    fn new(worker: &Worker, arrival: &Arrival) -> Self {
        let destination = match &arrival.destination {
            Some(destination) => Some(**destination),
            // Asking costs a system call.
            None if worker.view().announces => arrival.socket.local_address(),
            None => None,
        };
        Self {
            peer: arrival.peer.ip().to_canonical(),
            port: arrival.peer.port(),
            destination,
            secure: None,
            redirect_https: None,
            http2: false,
        }
    }
}

impl Client {
    /// A client that has said nothing yet.
    pub(crate) fn new(stream: Stream, origin: Rc<Origin>, deadline: Deadline) -> Self {
        Self { stream, held: None, scanned: 0, origin, deadline, first: First::Awaited }
    }

    /// Does it begin as a client of HTTP/2 does that knows this to be spoken
    /// (RFC 9113 §3.3)? What it begins with is kept. `None`: it does not begin.
    async fn speaks_http2(&mut self, worker: &Worker) -> Option<bool> {
        if !self.request_comes(worker).await {
            return None;
        }
        self.deadline.set(worker.view().snapshot.config.timeouts.request_head);
        let speaks = std::future::poll_fn(|cx| {
            loop {
                let held = self.held.as_ref().map_or(&[][..], Buffer::filled);
                let n = held.len().min(http2::PREFACE.len());
                if n == http2::PREFACE.len() || held != &http2::PREFACE[..n] {
                    return Poll::Ready(held.starts_with(http2::PREFACE));
                }
                match worker.buffers.poll_fill(&mut self.held, Size::Small, &mut self.stream, cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    // What there is may be the beginning of a request.
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if self.deadline.expired(cx) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        Some(speaks.await)
    }

    /// Serves request after request.
    async fn serve(&mut self, worker: &Rc<Worker>) {
        while self.request_comes(worker).await {
            // Boxed, so that a connection that waits holds no room for a request.
            match Box::pin(pipeline::serve(worker, self)).await {
                After::Next => {
                    self.scanned = 0;
                    self.first = First::Served;
                }
                After::Linger => {
                    self.linger(worker).await;
                    break;
                }
                After::Abort => {
                    self.stream.reset_on_close();
                    break;
                }
            }
        }
        worker.buffers.put_back(&mut self.held);
    }

    /// `http` or `https`.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.origin.secure.is_some() { "https" } else { "http" }
    }

    /// Takes leave of a client without TLS; one that speaks HTTP is told why.
    async fn refuse(&mut self, worker: &Worker, speaks_http: bool) {
        if speaks_http {
            let mut out = Vec::new();
            error::write_response(&mut out, &Answer::new(400, "https_expected"));
            if self.send(&out, LINGER).await.is_err() {
                return;
            }
        }
        self.linger(worker).await;
        worker.buffers.put_back(&mut self.held);
    }

    /// Waits for the first bytes of a request; false when none will come.
    async fn request_comes(&mut self, worker: &Worker) -> bool {
        if self.drop_empty_lines(worker) {
            return true;
        }
        let (class, wait) = {
            let timeouts = &worker.view().snapshot.config.timeouts;
            match self.first {
                First::Served => (Class::Idle, timeouts.keep_alive),
                _ => (Class::Busy, timeouts.request_head),
            }
        };
        self.deadline.set_as(class, wait);
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

    /// Is the client gone? Ready and false: it has sent something ahead, which is
    /// kept for its next request; it need not be looked at any more.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>, worker: &Worker) -> Poll<bool> {
        if self.stream.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        match worker.buffers.poll_fill(&mut self.held, Size::Small, &mut self.stream, cx) {
            Poll::Ready(Ok(n)) => Poll::Ready(n == 0),
            // A full buffer of requests sent ahead: no reason to give up.
            Poll::Ready(Err(error)) => Poll::Ready(error.kind() != io::ErrorKind::OutOfMemory),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Waits until the client is gone; for ever, once it has sent something ahead.
    pub(crate) async fn gone(&mut self, worker: &Worker) {
        if !std::future::poll_fn(|cx| self.poll_gone(cx, worker)).await {
            std::future::pending::<()>().await;
        }
    }

    /// Sends bytes whole, `patience` at most.
    ///
    /// # Errors
    /// The socket's; `TimedOut`.
    pub(crate) async fn send(&mut self, bytes: &[u8], patience: Duration) -> io::Result<()> {
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
            self.stream.poll_flush(cx)
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
        let size = future_size(serve_secure);
        assert!(size <= 512, "the task of an idle TLS connection takes {size} bytes");
    }
}
