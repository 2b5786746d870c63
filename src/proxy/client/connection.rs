//! A client connection: serves requests one after another until either side closes it.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::acceptor::Arrival;
use super::handshake::{self, DRAINING_FIRST_REQUEST, HandshakeOutcome};
use super::http2;
use crate::proxy::connection_counts::client_key;
use crate::proxy::listener_settings::ListenerSettings;
use crate::proxy::request::client::{After, Client};
use crate::proxy::request::origin::Origin;
use crate::proxy::request::{Answer, pipeline, write_answer};
use crate::proxy::wire::buffer::{Buffer, Size};
use crate::proxy::wire::deadline::Class;
use crate::proxy::wire::stream::Stream;
use crate::proxy::worker::Worker;
use crate::tls;

/// How long Homing reads from a connection that it closes, so that a reset does not destroy the
/// last response.
const LINGER: Duration = Duration::from_secs(2);
/// The most bytes read in that time.
const LINGER_BYTES: usize = 1 << 20;

/// A client connection, and whether it has served a request.
struct Connection {
    client: Client,
    first: FirstRequest,
}

/// The state of a connection's first request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstRequest {
    Awaited,
    /// Awaited with a shorter timeout, because Homing is shutting down.
    AwaitedBriefly,
    Served,
}

/// Serves a connection without TLS until it closes.
pub(crate) fn serve(
    worker: Rc<Worker>,
    arrival: Arrival,
    settings: &ListenerSettings,
) -> impl Future<Output = ()> + use<> {
    // Outside of the async block, to keep the future small.
    let mut origin = origin_of(&worker, &arrival);
    let ListenerSettings { redirect_https, http2, .. } = *settings;
    origin.redirect_https = redirect_https;
    let deadline = worker.deadlines.register(client_key(origin.peer));
    let client = Client::new(Stream::new(arrival.socket), Rc::new(origin), deadline);
    let mut connection = Connection::new(client);
    async move {
        match if http2 { connection.starts_with_preface(&worker).await } else { Some(false) } {
            // Boxed to keep the future of an HTTP/1 connection small.
            Some(true) => Box::pin(http2::connection::serve(worker, connection.client)).await,
            Some(false) => connection.serve(&worker).await,
            None => {}
        }
    }
}

/// Performs the TLS handshake, then serves the connection until it closes.
pub(crate) async fn serve_secure(worker: Rc<Worker>, arrival: Arrival, tls: Arc<tls::Server>) {
    // Boxed, to free its memory after the handshake.
    if let Some(mut connection) = Box::pin(accept_tls(&worker, arrival, &tls)).await {
        if connection.client.origin.http2 {
            Box::pin(http2::connection::serve(worker, connection.client)).await;
        } else {
            connection.serve(&worker).await;
        }
    }
}

/// Performs the TLS handshake. `None` if it failed; the connection is then closed.
async fn accept_tls(worker: &Worker, arrival: Arrival, tls: &tls::Server) -> Option<Connection> {
    let mut origin = origin_of(worker, &arrival);
    let socket = arrival.socket;
    let deadline = worker.deadlines.register(client_key(origin.peer));
    let timeout = worker.view().snapshot.config.timeouts.tls_handshake;
    let (socket, speaks_http) =
        match handshake::accept(worker, socket, origin.peer, tls, &deadline, timeout).await {
            HandshakeOutcome::Secure(stream, secure) => {
                origin.http2 = secure.http2;
                origin.secure = Some(secure);
                return Some(Connection::new(Client::new(stream, Rc::new(origin), deadline)));
            }
            HandshakeOutcome::Plain(socket) => (socket, true),
            HandshakeOutcome::Failed(socket) => (socket, false),
            HandshakeOutcome::Gone => return None,
        };
    let client = Client::new(Stream::new(socket), Rc::new(origin), deadline);
    Connection::new(client).refuse(worker, speaks_http).await;
    None
}

/// Returns what is known about a client before its first byte.
fn origin_of(worker: &Worker, arrival: &Arrival) -> Origin {
    let destination = match &arrival.destination {
        Some(destination) => Some(**destination),
        // Costs a system call, so only if a backend needs it.
        None if worker.view().announces => arrival.socket.local_address(),
        None => None,
    };
    Origin {
        peer: arrival.peer.ip().to_canonical(),
        port: arrival.peer.port(),
        destination,
        secure: None,
        redirect_https: None,
        http2: false,
    }
}

impl Connection {
    fn new(client: Client) -> Self {
        client.deadline.charge(client.held_bytes());
        Self { client, first: FirstRequest::Awaited }
    }

    /// Returns true if the client starts with the HTTP/2 preface (prior knowledge, RFC 9113 §3.3).
    /// The bytes read stay buffered. `None` if the client sends nothing.
    async fn starts_with_preface(&mut self, worker: &Worker) -> Option<bool> {
        if !self.wait_for_request(worker).await {
            return None;
        }
        self.client.deadline.set(worker.view().snapshot.config.timeouts.request_head);
        let starts = std::future::poll_fn(|cx| {
            loop {
                let held = self.client.held.as_ref().map_or(&[][..], Buffer::filled);
                let n = held.len().min(http2::PREFACE.len());
                if n == http2::PREFACE.len() || held != &http2::PREFACE[..n] {
                    return Poll::Ready(held.starts_with(http2::PREFACE));
                }
                match worker.buffers.poll_fill(
                    &mut self.client.held,
                    Size::Small,
                    &mut self.client.stream,
                    cx,
                ) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    // The bytes so far may be the start of an HTTP/1 request.
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if self.client.deadline.expired(cx) => return Poll::Ready(false),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        Some(starts.await)
    }

    /// Serves requests until the connection closes.
    async fn serve(&mut self, worker: &Rc<Worker>) {
        while self.wait_for_request(worker).await {
            // Boxed to keep the future of an idle connection small.
            match Box::pin(pipeline::serve(worker, &mut self.client)).await {
                After::Next => {
                    self.client.scanned = 0;
                    self.first = FirstRequest::Served;
                }
                After::Linger => {
                    self.linger(worker).await;
                    break;
                }
                After::Abort => {
                    self.client.stream.reset_on_close();
                    worker.buffers.put_back(&mut self.client.held);
                    return;
                }
            }
        }
        self.client.stream.notify_close();
        worker.buffers.put_back(&mut self.client.held);
    }

    /// Closes a connection after a failed handshake. A client that speaks plain HTTP gets a 400.
    async fn refuse(&mut self, worker: &Worker, speaks_http: bool) {
        if speaks_http {
            let mut out = Vec::new();
            write_answer(&mut out, &Answer::new(400, "https_expected"));
            if self.client.send(&out, LINGER).await.is_err() {
                return;
            }
        }
        self.linger(worker).await;
        worker.buffers.put_back(&mut self.client.held);
    }

    /// Waits for the first bytes of a request. Returns false on timeout, EOF or an error, and for
    /// an idle connection during a shutdown.
    async fn wait_for_request(&mut self, worker: &Worker) -> bool {
        if self.drop_empty_lines(worker) {
            return true;
        }
        let (class, wait) = {
            let timeouts = &worker.view().snapshot.config.timeouts;
            match self.first {
                FirstRequest::Served => (Class::Idle, timeouts.keep_alive),
                _ => (Class::Silent, timeouts.request_head),
            }
        };
        self.client.deadline.set_as(class, wait);
        let arrived = std::future::poll_fn(|cx| {
            loop {
                match worker.buffers.poll_fill(
                    &mut self.client.held,
                    Size::Small,
                    &mut self.client.stream,
                    cx,
                ) {
                    Poll::Ready(Ok(n)) if n > 0 && !self.drop_empty_lines(worker) => {}
                    Poll::Ready(Ok(n)) => return Poll::Ready(n > 0),
                    Poll::Ready(Err(_)) => return Poll::Ready(false),
                    Poll::Pending => break,
                }
            }
            if worker.draining() {
                match self.first {
                    FirstRequest::Awaited => {
                        self.first = FirstRequest::AwaitedBriefly;
                        self.client.deadline.set(wait.min(DRAINING_FIRST_REQUEST));
                    }
                    FirstRequest::AwaitedBriefly => {}
                    FirstRequest::Served => return Poll::Ready(false),
                }
            }
            if self.client.deadline.expired(cx) { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        self.client.deadline.clear();
        arrived
    }

    /// Drops empty lines, which old clients send after a body (RFC 9112 §2.2). Returns true if
    /// bytes of a request are buffered.
    fn drop_empty_lines(&mut self, worker: &Worker) -> bool {
        match self.client.held.as_ref().map(Buffer::filled) {
            None | Some([]) => false,
            Some(b"\r\n" | b"\r\n\r\n") => {
                worker.buffers.put_back(&mut self.client.held);
                false
            }
            Some(_) => true,
        }
    }

    /// Shuts down the sending side and keeps reading for a while. Closing a socket with unread
    /// bytes would reset the connection and could destroy the last response (RFC 9112 §9.6).
    async fn linger(&mut self, worker: &Worker) {
        self.client.deadline.set(LINGER);
        let mut left = LINGER_BYTES;
        let mut ended = false;
        std::future::poll_fn(|cx| {
            if !ended {
                match self.client.stream.poll_shutdown(cx) {
                    Poll::Ready(Ok(())) => ended = true,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            // Beyond that, the client is left to wait: it has time to read the response.
            while left > 0 {
                worker.buffers.put_back(&mut self.client.held);
                match worker.buffers.poll_fill(
                    &mut self.client.held,
                    Size::Small,
                    &mut self.client.stream,
                    cx,
                ) {
                    Poll::Ready(Ok(n)) if n > 0 => left = left.saturating_sub(n),
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if self.client.deadline.expired(cx) { Poll::Ready(()) } else { Poll::Pending }
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
    fn tasks_of_idle_connections_stay_small() {
        let size = future_size(serve);
        assert!(size <= 384, "the task of an idle connection takes {size} bytes");
        let size = future_size(serve_secure);
        assert!(size <= 528, "the task of an idle TLS connection takes {size} bytes");
    }
}
