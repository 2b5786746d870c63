//! One client connection: requests in sequence until either side closes it.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::acceptor::Arrival;
use super::handshake::{self, Accepted, FIRST};
use super::http2;
use crate::proxy::listener_settings::ListenerSettings;
use crate::proxy::request::client::{After, Client};
use crate::proxy::request::origin::Origin;
use crate::proxy::request::{Answer, pipeline, write_answer};
use crate::proxy::wire::buffer::{Buffer, Size};
use crate::proxy::wire::deadline::Class;
use crate::proxy::wire::stream::Stream;
use crate::proxy::worker::Worker;
use crate::tls;

/// How long, and for how many bytes, a connection that Homing closes is read
/// from, so that the last response is not destroyed by a reset.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;
/// A client connection, and whether it has served a request.
struct Connection {
    client: Client,
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

/// Serves a plain connection until it ends, as its listener says.
pub(crate) fn serve(
    worker: Rc<Worker>,
    arrival: Arrival,
    settings: &ListenerSettings,
) -> impl Future<Output = ()> + use<> {
    // Outside of the task, which holds no room for what only this needs.
    let mut origin = origin_of(&worker, &arrival);
    let ListenerSettings { redirect_https, http2, .. } = *settings;
    origin.redirect_https = redirect_https;
    let deadline = worker.deadlines.register();
    let client = Client::new(Stream::new(arrival.socket), Rc::new(origin), deadline);
    let mut connection = Connection::new(client);
    async move {
        match if http2 { connection.speaks_http2(&worker).await } else { Some(false) } {
            // Boxed, so that a connection of HTTP/1 holds no room for it.
            Some(true) => Box::pin(http2::connection::serve(worker, connection.client)).await,
            Some(false) => connection.serve(&worker).await,
            None => {}
        }
    }
}

/// Performs the TLS handshake, then serves the connection until it ends.
pub(crate) async fn serve_secure(worker: Rc<Worker>, arrival: Arrival, tls: Arc<tls::Server>) {
    // Boxed, so that a connection holds no room for its handshake later.
    if let Some(mut connection) = Box::pin(shake_hands(&worker, arrival, &tls)).await {
        if connection.client.origin.http2 {
            Box::pin(http2::connection::serve(worker, connection.client)).await;
        } else {
            connection.serve(&worker).await;
        }
    }
}

/// Performs the TLS handshake. `None` if it failed; the connection is closed then.
async fn shake_hands(worker: &Worker, arrival: Arrival, tls: &tls::Server) -> Option<Connection> {
    let mut origin = origin_of(worker, &arrival);
    let socket = arrival.socket;
    let deadline = worker.deadlines.register();
    let patience = worker.view().snapshot.config.timeouts.tls_handshake;
    let (socket, speaks_http) = match handshake::accept(worker, socket, tls, &deadline, patience).await {
        Accepted::Secure(stream, secure) => {
            origin.http2 = secure.http2;
            origin.secure = Some(secure);
            return Some(Connection::new(Client::new(stream, Rc::new(origin), deadline)));
        }
        Accepted::Plain(socket) => (socket, true),
        Accepted::Failed(socket) => (socket, false),
        Accepted::Gone => return None,
    };
    let client = Client::new(Stream::new(socket), Rc::new(origin), deadline);
    Connection::new(client).refuse(worker, speaks_http).await;
    None
}

/// What is known of a client before its first byte.
fn origin_of(worker: &Worker, arrival: &Arrival) -> Origin {
    let destination = match &arrival.destination {
        Some(destination) => Some(**destination),
        // Asking costs a system call.
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
        Self { client, first: First::Awaited }
    }

    /// Does it begin as a client of HTTP/2 does that knows this to be spoken
    /// (RFC 9113 §3.3)? What it begins with is kept. `None`: it does not begin.
    async fn speaks_http2(&mut self, worker: &Worker) -> Option<bool> {
        if !self.request_comes(worker).await {
            return None;
        }
        self.client.deadline.set(worker.view().snapshot.config.timeouts.request_head);
        let speaks = std::future::poll_fn(|cx| {
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
                    // What there is may be the beginning of a request.
                    Poll::Ready(_) => return Poll::Ready(false),
                    Poll::Pending if self.client.deadline.expired(cx) => return Poll::Ready(false),
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
            match Box::pin(pipeline::serve(worker, &mut self.client)).await {
                After::Next => {
                    self.client.scanned = 0;
                    self.first = First::Served;
                }
                After::Linger => {
                    self.linger(worker).await;
                    break;
                }
                After::Abort => {
                    self.client.stream.reset_on_close();
                    break;
                }
            }
        }
        worker.buffers.put_back(&mut self.client.held);
    }

    /// Takes leave of a client without TLS; one that speaks HTTP is told why.
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
        self.client.deadline.set_as(class, wait);
        let comes = std::future::poll_fn(|cx| {
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
                    First::Awaited => {
                        self.first = First::Hurried;
                        self.client.deadline.set(wait.min(FIRST));
                    }
                    First::Hurried => {}
                    First::Served => return Poll::Ready(false),
                }
            }
            if self.client.deadline.expired(cx) { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
        self.client.deadline.clear();
        comes
    }

    /// Are there bytes of a request? Empty lines alone, which old clients send
    /// behind a body, are none (RFC 9112 §2.2).
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

    /// Ends the sending side and reads on for a while: closing a socket with
    /// unread bytes would reset it and take the response with it (RFC 9112 §9.6).
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
            loop {
                worker.buffers.put_back(&mut self.client.held);
                match worker.buffers.poll_fill(
                    &mut self.client.held,
                    Size::Small,
                    &mut self.client.stream,
                    cx,
                ) {
                    Poll::Ready(Ok(n)) if n > 0 && n <= left => left -= n,
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
    fn a_connection_that_waits_holds_no_room_for_a_request() {
        let size = future_size(serve);
        assert!(size <= 384, "the task of an idle connection takes {size} bytes");
        let size = future_size(serve_secure);
        assert!(size <= 512, "the task of an idle TLS connection takes {size} bytes");
    }
}
