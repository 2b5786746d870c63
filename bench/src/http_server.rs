//! The smallest HTTP/1.1 server that can stand behind a proxy under load: one
//! thread, one epoll, keep-alive and pipelining, bodies counted and dropped.
//!
//! It trusts its peers: it is for benchmarks on the loopback interface.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use memchr::memmem;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// The longest request head taken.
const LONGEST_HEAD: usize = 64 * 1024;

const WAKE: Token = Token(usize::MAX);

/// What a server answers.
pub trait Respond: Send + 'static {
    /// Appends a whole response to the request with this head (its last empty
    /// line included). `listener` counts the addresses of [`Server::start`].
    fn respond(&mut self, listener: usize, head: &[u8], out: &mut Vec<u8>);
}

/// A running server; stops when dropped, closing all its connections at once,
/// as a process does that is killed.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    stopped: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves at these addresses in a thread of its own.
    pub fn start(addresses: &[SocketAddr], responder: impl Respond) -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        let mut listeners = vec![];
        for (index, address) in addresses.iter().enumerate() {
            let mut listener = TcpListener::bind(*address).with_context(|| format!("listen at {address}"))?;
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

    /// Where it listens, ports filled in.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until the process ends.
    pub fn serve(mut self) {
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Without the waker the thread would be waited for in vain.
        if self.waker.wake().is_ok() {
            let _ = self.thread.take().map(JoinHandle::join);
        }
    }
}

/// Values in numbered slots, freed ones used again.
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
    /// The slot that the next [`Self::insert`] fills.
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

    /// What is in a slot, if anything.
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
                    let to_the_end = event.is_read_closed();
                    if connection.serve(&mut self.responder, &mut self.scratch, to_the_end).is_err() {
                        self.connections.remove(slot);
                    }
                }
            }
        }
    }

    fn accept(&mut self, listener: usize) {
        // Any error but these two (the table of open files is full) would
        // repeat at once; the next connection is tried at the next event.
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
    /// The beginning of a head whose end has not come.
    partial: Vec<u8>,
    /// Bytes of a request body still to come.
    body: usize,
    out: Vec<u8>,
    sent: usize,
}

impl Connection {
    fn new(stream: TcpStream, listener: usize) -> Self {
        Self { stream, listener, partial: vec![], body: 0, out: vec![], sent: 0 }
    }

    /// Reads and answers until there is nothing more to do; an error ends the
    /// connection.
    fn serve(
        &mut self,
        responder: &mut impl Respond,
        scratch: &mut [u8],
        to_the_end: bool,
    ) -> io::Result<()> {
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
            // A short read has emptied the socket (epoll(7)); what comes later
            // is a new event, unless the end has been announced already.
            if read < scratch.len() && !to_the_end {
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

    /// Answers every request whose head is complete; how much it used.
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

    /// Writes what there is to write: true when nothing is left.
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

/// The length of the body after this head; chunked bodies are not taken.
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

/// The first value of a field, its name in lower case.
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
        assert!(matches!(client.read(&mut answer), Ok(0) | Err(_)), "closed with the server");
    }

    #[test]
    fn pipelined_requests_are_answered_in_order() {
        echo(&["GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n"], "1/a;1/b;");
    }

    #[test]
    fn a_head_may_come_in_pieces() {
        echo(&["GET /a HTTP/1.1\r", "\n\r", "\nGET /b HTTP", "/1.1\r\n\r\n"], "1/a;1/b;");
    }

    #[test]
    fn a_body_is_no_request() {
        let post = "POST /a HTTP/1.1\r\nContent-Length: 18\r\n\r\nGET /b HTTP/1.1\r\n";
        echo(&[post, "GET /c HTTP/1.1\r\n\r\n"], "1/a;1/c;");
        let (head, body) = post.split_at(post.len() - 5);
        echo(&[head, body, "GET /c HTTP/1.1\r\n\r\n"], "1/a;1/c;");
    }

    #[test]
    fn a_field_is_found_whatever_its_case() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\ncOOkie:  SID=1 \r\n\r\n";
        assert_eq!(field(head, "cookie"), Some(&b"SID=1"[..]));
        assert_eq!(field(head, "cook"), None);
    }
}
