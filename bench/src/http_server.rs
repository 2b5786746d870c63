//! A minimal HTTP/1.1 server for load tests: one thread, one epoll instance, keep-alive
//! and pipelining. Request bodies are counted and discarded.
//!
//! It trusts its peers; use it only for benchmarks on the loopback interface.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

/// Maximum bytes per read.
const CHUNK: usize = 64 * 1024;

/// Maximum length of a request head.
const LONGEST_HEAD: usize = 64 * 1024;

const WAKE: Token = Token(usize::MAX);

/// Produces the responses of a server.
pub trait Respond: Send + 'static {
    /// Appends a complete response to `out` for the request with this head (including the
    /// empty line). `listener` is the index of the address given to [`Server::start`].
    fn respond(&mut self, listener: usize, head: &[u8], out: &mut Vec<u8>);
}

/// A running server. Dropping it stops it and closes all connections at once, like a
/// process that is killed.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    stopped: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves these addresses from a new thread.
    pub fn start(addresses: &[SocketAddr], responder: impl Respond) -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let mut listeners = vec![];
        for (index, address) in addresses.iter().enumerate() {
            let mut listener = TcpListener::bind(*address).with_context(|| format!("listen on {address}"))?;
            poll.registry().register(&mut listener, Token(index), Interest::READABLE)?;
            listeners.push(listener);
        }
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let mut serving = Loop {
            poll,
            listeners,
            connections: Slots::default(),
            responder,
            scratch: vec![0; CHUNK],
            stopped: Arc::clone(&stopped),
        };
        let thread = std::thread::Builder::new().name("backend".into()).spawn(move || serving.run())?;
        Ok(Self { addresses, stopped, waker, thread: Some(thread) })
    }

    /// Returns the addresses, with the ports that the kernel assigned.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until the process exits.
    pub fn serve(mut self) {
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // If the wake-up fails, joining the thread would block forever.
        if self.waker.wake().is_ok() {
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}

/// Values in numbered slots. Freed slots are reused.
#[derive(Debug)]
pub struct Slots<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { slots: vec![], free: vec![] }
    }
}

impl<T> Slots<T> {
    /// Returns the slot that the next [`Self::insert`] fills.
    pub fn next(&self) -> usize {
        self.free.last().copied().unwrap_or(self.slots.len())
    }

    /// Fills the next slot.
    pub fn insert(&mut self, value: T) {
        match self.free.pop() {
            Some(slot) => self.slots[slot] = Some(value),
            None => self.slots.push(Some(value)),
        }
    }

    /// Returns the value in a slot, if any.
    pub fn get_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Empties a slot.
    pub fn remove(&mut self, slot: usize) {
        if self.slots[slot].take().is_some() {
            self.free.push(slot);
        }
    }
}

struct Loop<R> {
    poll: Poll,
    listeners: Vec<TcpListener>,
    connections: Slots<Connection>,
    responder: R,
    scratch: Vec<u8>,
    stopped: Arc<AtomicBool>,
}

impl<R: Respond> Loop<R> {
    fn run(&mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return,
                Ok(()) => {}
            }
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            for event in &events {
                let Token(token) = event.token();
                if token < self.listeners.len() {
                    self.accept(token);
                } else if event.token() != WAKE {
                    let slot = token - self.listeners.len();
                    let Some(connection) = self.connections.get_mut(slot) else { continue };
                    let until_eof = event.is_read_closed();
                    if connection.serve(&mut self.responder, &mut self.scratch, until_eof).is_err() {
                        self.connections.remove(slot);
                    }
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        // Stop at the first error, even if it is not `WouldBlock`: running out of file
        // descriptors would repeat immediately. Try again on the next event.
        while let Ok((mut stream, _)) = self.listeners[listener].accept() {
            let token = Token(self.listeners.len() + self.connections.next());
            let interest = Interest::READABLE | Interest::WRITABLE;
            if stream.set_nodelay(true).is_ok()
                && self.poll.registry().register(&mut stream, token, interest).is_ok()
            {
                self.connections.insert(Connection::new(stream, listener));
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    listener: usize,
    /// The start of an incomplete request head.
    partial: Vec<u8>,
    /// Remaining bytes of the request body.
    body: usize,
    out: Vec<u8>,
    sent: usize,
}

impl Connection {
    fn new(stream: TcpStream, listener: usize) -> Self {
        Self { stream, listener, partial: vec![], body: 0, out: vec![], sent: 0 }
    }

    /// Reads and answers until the socket would block. An error closes the connection.
    fn serve(&mut self, responder: &mut impl Respond, scratch: &mut [u8], until_eof: bool) -> io::Result<()> {
        loop {
            if !self.flush()? {
                return Ok(());
            }
            let read = match self.stream.read(scratch) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.take(&scratch[..read], responder)?;
            // A short read means that the socket is empty (epoll(7)). Later bytes are a new
            // event, unless the end of the stream was already reported.
            if read < scratch.len() && !until_eof {
                self.flush()?;
                return Ok(());
            }
        }
    }

    fn take(&mut self, bytes: &[u8], responder: &mut impl Respond) -> io::Result<()> {
        if self.partial.is_empty() {
            let used = self.answer(bytes, responder)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut partial = std::mem::take(&mut self.partial);
            partial.extend_from_slice(bytes);
            let used = self.answer(&partial, responder)?;
            partial.drain(..used);
            self.partial = partial;
        }
        if self.partial.len() > LONGEST_HEAD { Err(ErrorKind::InvalidData.into()) } else { Ok(()) }
    }

    /// Answers every request with a complete head. Returns the number of bytes consumed.
    fn answer(&mut self, bytes: &[u8], responder: &mut impl Respond) -> io::Result<usize> {
        let mut used = 0;
        loop {
            let skip = self.body.min(bytes.len() - used);
            self.body -= skip;
            used += skip;
            let Some(end) = memmem::find(&bytes[used..], b"\r\n\r\n") else { return Ok(used) };
            let head = &bytes[used..used + end + 4];
            self.body = body_length(head)?;
            responder.respond(self.listener, head, &mut self.out);
            used += head.len();
        }
    }

    /// Writes pending output. Returns true when everything is written.
    fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }
}

/// Returns the body length of a request. Chunked bodies are an error.
fn body_length(head: &[u8]) -> io::Result<usize> {
    if head.starts_with(b"GET ") {
        return Ok(0);
    }
    if field(head, "transfer-encoding").is_some() {
        return Err(ErrorKind::Unsupported.into());
    }
    let Some(value) = field(head, "content-length") else { return Ok(0) };
    std::str::from_utf8(value)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| ErrorKind::InvalidData.into())
}

/// Returns the first value of a header. Names are case-insensitive.
pub fn field<'h>(head: &'h [u8], name: &str) -> Option<&'h [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (field, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        field.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use super::*;

    struct Echo;

    impl Respond for Echo {
        fn respond(&mut self, listener: usize, head: &[u8], out: &mut Vec<u8>) {
            let path = head.split(|byte| *byte == b' ').nth(1).unwrap();
            out.extend_from_slice(format!("{listener}{};", String::from_utf8_lossy(path)).as_bytes());
        }
    }

    fn echo(pieces: &[&str], expected: &str) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start(&[any, any], Echo).unwrap();
        let mut client = Client::connect(server.addresses()[1]).unwrap();
        client.set_nodelay(true).unwrap();
        for piece in pieces {
            client.write_all(piece.as_bytes()).unwrap();
        }
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected);
        drop(server);
        assert!(
            matches!(client.read(&mut answer), Ok(0) | Err(_)),
            "the connection should close with the server"
        );
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        echo(&["GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n"], "1/a;1/b;");
    }

    #[test]
    fn request_head_may_arrive_in_pieces() {
        echo(&["GET /a HTTP/1.1\r", "\n\r", "\nGET /b HTTP", "/1.1\r\n\r\n"], "1/a;1/b;");
    }

    #[test]
    fn body_is_not_parsed_as_a_request() {
        let post = "POST /a HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET /b HTTP/1.1\r\n";
        echo(&[post, "GET /c HTTP/1.1\r\n\r\n"], "1/a;1/c;");
        let (head, body) = post.split_at(post.len() - 5);
        echo(&[head, body, "GET /c HTTP/1.1\r\n\r\n"], "1/a;1/c;");
    }

    #[test]
    fn header_names_are_case_insensitive() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\ncOOkie:  SID=1 \r\n\r\n";
        assert_eq!(field(head, "cookie"), Some(&b"SID=1"[..]));
        assert_eq!(field(head, "cook"), None);
    }
}
