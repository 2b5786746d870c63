//! The lower bound: a proxy that copies bytes without looking at them. Each client connection
//! has its own backend connection; a request takes four system calls.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::http_server::Slots;

const CHUNK: usize = 64 * 1024;
const LISTENER: Token = Token(usize::MAX);

/// Copies between clients on `listen` and `backends` (round robin) until killed.
pub fn run(listen: SocketAddr, backends: &[SocketAddr]) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(listen).with_context(|| format!("listen on {listen}"))?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut pairs = Slots::<Pair>::default();
    let mut scratch = vec![0; CHUNK];
    let mut turn = backends.iter().cycle();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let backend = turn.next().context("no backend")?;
                    if let Ok(pair) = Pair::connect(client, *backend, &poll, pairs.next()) {
                        pairs.insert(pair);
                    }
                }
                continue;
            }
            let slot = event.token().0 / 2;
            let Some(pair) = pairs.get_mut(slot) else { continue };
            if pair.copy(event, &mut scratch).is_err() {
                pairs.remove(slot);
            }
        }
    }
}

struct Pair {
    client: TcpStream,
    backend: TcpStream,
    /// Bytes read but not yet accepted by the other side. Reading pauses until this is empty.
    to_backend: Vec<u8>,
    to_client: Vec<u8>,
}

impl Pair {
    fn connect(mut client: TcpStream, backend: SocketAddr, poll: &Poll, slot: usize) -> io::Result<Self> {
        let mut backend = TcpStream::connect(backend)?;
        client.set_nodelay(true)?;
        backend.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut client, Token(2 * slot), interest)?;
        poll.registry().register(&mut backend, Token(2 * slot + 1), interest)?;
        Ok(Self { client, backend, to_backend: vec![], to_client: vec![] })
    }

    /// Handles an event of one side. An error closes the pair.
    fn copy(&mut self, event: &Event, scratch: &mut [u8]) -> io::Result<()> {
        let client_side = event.token().0.is_multiple_of(2);
        let (this, other, to_other, to_this) = if client_side {
            (&mut self.client, &mut self.backend, &mut self.to_backend, &mut self.to_client)
        } else {
            (&mut self.backend, &mut self.client, &mut self.to_client, &mut self.to_backend)
        };
        if event.is_writable() && !to_this.is_empty() {
            let taken = write(this, to_this)?;
            to_this.drain(..taken);
            if to_this.is_empty() {
                // The event of the other side may have arrived while this side was full.
                pump(other, this, to_this, scratch, false)?;
            }
        }
        if !event.is_readable() {
            return Ok(());
        }
        pump(this, other, to_other, scratch, event.is_read_closed())
    }
}

/// Copies from one socket to the other until either would block.
fn pump(
    from: &mut TcpStream,
    to: &mut TcpStream,
    pending: &mut Vec<u8>,
    scratch: &mut [u8],
    until_eof: bool,
) -> io::Result<()> {
    while pending.is_empty() {
        let read = match from.read(scratch) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let taken = write(to, &scratch[..read])?;
        pending.extend_from_slice(&scratch[taken..read]);
        // A short read means that the socket is empty (epoll(7)).
        if read < scratch.len() && !until_eof {
            return Ok(());
        }
    }
    Ok(())
}

/// Writes as many bytes as the socket accepts now.
fn write(to: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match to.write(bytes) {
        // A socket that is still connecting is not writable yet either.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => Ok(0),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use super::*;
    use crate::{interrupt, process, static_backend};

    #[test]
    fn megabytes_are_copied_unchanged() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let backend = static_backend::start(&[any], 3_000_000).unwrap();
        let listen = process::free_address([127, 0, 0, 1]).unwrap();
        let backends = backend.addresses().to_vec();
        std::thread::spawn(move || run(listen, &backends));
        let mut client = None;
        let ready = interrupt::until(std::time::Duration::from_secs(5), || {
            client = Client::connect(listen).ok();
            Ok(client.is_some())
        });
        assert!(ready.unwrap());
        let mut client = client.unwrap();
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3000000\r\n\r\n";
            let mut answer = vec![0; head.len() + 3_000_000];
            client.read_exact(&mut answer).unwrap();
            assert!(answer.starts_with(head.as_bytes()));
            assert!(answer[head.len()..].iter().all(|byte| *byte == b'.'));
        }
    }
}
