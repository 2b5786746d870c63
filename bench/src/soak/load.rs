//! The clients. Each kind repeats one action until it is told to stop.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use memchr::memmem;

use super::backends::{LARGE, SMALL};
use super::kind::{Kind, PAUSE, Tally};
use super::streams;
use super::target::{HOST, Protocol, Stream, Target};
use crate::http_server::field;
use crate::interrupt::nap;

/// Clients of one kind and protocol.
pub struct Group {
    /// Kind of client.
    pub kind: Kind,
    /// Name of the kind.
    pub name: &'static str,
    /// Protocol that they speak.
    pub protocol: Protocol,
    /// Number of clients.
    pub clients: usize,
    /// Round counters.
    pub tally: Arc<Tally>,
}

/// All running clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// The clients, by kind and protocol.
    pub groups: Vec<Group>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts all clients, divided among the protocols.
    pub fn start(target: &Target, protocols: &[Protocol]) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut load = Self { stop, groups: vec![], threads: vec![] };
        for (kind, name, count) in Kind::ALL {
            for &protocol in protocols {
                let tally = Arc::new(Tally::default());
                let clients = count.div_ceil(protocols.len());
                for number in 0..clients {
                    let (stop, tally, target) = (Arc::clone(&load.stop), Arc::clone(&tally), target.clone());
                    let client = move || {
                        let run = if protocol.http2() { streams::run } else { run };
                        run(kind, number, protocol, &target, &stop, &tally);
                    };
                    load.threads.push(std::thread::Builder::new().name(name.into()).spawn(client)?);
                }
                load.groups.push(Group { kind, name, protocol, clients, tally });
            }
        }
        Ok(load)
    }

    /// Stops all clients at the end of their current round.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic has already been printed.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(kind: Kind, number: usize, protocol: Protocol, target: &Target, stop: &AtomicBool, tally: &Tally) {
    let open = || target.open(protocol);
    let mut kept = None;
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let result = match kind {
            Kind::Kept => keep(open, &mut kept, &format!("kept{number}"), round),
            Kind::New => open().and_then(|mut stream| {
                let id = format!("{:x}", fastrand::u64(..));
                ask(&mut stream, &get("/", &id)).map(|_| ())
            }),
            Kind::Post => open().and_then(|mut stream| post(&mut stream, number)),
            Kind::Slow => open().and_then(|mut stream| read_slowly(&mut stream, number)),
            Kind::Abort if round % 5 == 3 => not_http(target, protocol),
            Kind::Abort => open().and_then(|stream| abort(stream, round)),
            Kind::Socket => open().and_then(|stream| web_socket(stream, round)),
        };
        tally.count(result.is_ok());
        nap(PAUSE);
    }
}

fn get(path: &str, id: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nCookie: SID={id}\r\n\r\n")
}

/// Sends one request, and opens a new connection every 2,000 rounds.
fn keep(
    open: impl Fn() -> io::Result<Stream>,
    kept: &mut Option<Stream>,
    id: &str,
    round: u32,
) -> io::Result<()> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => open()?,
    };
    let keep_alive = ask(&mut stream, &get("/", id))?;
    if keep_alive && !round.is_multiple_of(2000) {
        *kept = Some(stream);
    }
    Ok(())
}

/// Sends a request without a body and reads the small response. Returns true if the
/// connection stays open.
fn ask(stream: &mut Stream, request: &str) -> io::Result<bool> {
    stream.write_all(request.as_bytes())?;
    response(stream, SMALL)
}

fn response(stream: &mut Stream, length: usize) -> io::Result<bool> {
    let (head, body) = head(stream)?;
    if !head.starts_with(b"HTTP/1.1 200 ") || body > length {
        return Err(ErrorKind::InvalidData.into());
    }
    stream.read_exact(&mut vec![0; length - body])?;
    Ok(field(&head, "connection") != Some(b"close"))
}

/// Reads a response head. Returns the bytes read, and how many of them belong to the body.
fn head(stream: &mut Stream) -> io::Result<(Vec<u8>, usize)> {
    let mut held = vec![];
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        held.extend_from_slice(&buffer[..n]);
        if let Some(end) = memmem::find(&held, b"\r\n\r\n") {
            let body = held.len() - end - 4;
            return Ok((held, body));
        }
    }
}

/// Uploads ten bodies of up to 256 KiB. Stops earlier if the connection closes, as it does
/// after a response that arrived before the end of the body.
fn post(stream: &mut Stream, number: usize) -> io::Result<()> {
    for _ in 0..10 {
        let body = vec![b'y'; fastrand::usize(..256 * 1024)];
        let length = body.len();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nCookie: SID=post{number}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(&body)?;
        if !response(stream, SMALL)? {
            break;
        }
    }
    Ok(())
}

fn read_slowly(stream: &mut Stream, number: usize) -> io::Result<()> {
    stream.write_all(get("/large", &format!("slow{number}")).as_bytes())?;
    let (_, mut read) = head(stream)?;
    let mut piece = vec![0; 8 * 1024];
    while read < LARGE {
        let n = stream.read(&mut piece)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        read += n;
        nap(Duration::from_millis(5));
    }
    Ok(())
}

/// Disconnects in the head, in the body, before the response, or in the response.
fn abort(mut stream: Stream, round: u32) -> io::Result<()> {
    match round % 5 {
        0 => stream.write_all(b"GET / HTTP/1.1\r\nHos"),
        1 => stream.write_all(b"POST / HTTP/1.1\r\nHost: soak\r\nContent-Length: 1000000\r\n\r\nsome of it"),
        2 => stream.write_all(get("/large", "abort").as_bytes()),
        _ => {
            stream.write_all(get("/large", "abort").as_bytes())?;
            head(&mut stream).map(|_| ())
        }
    }
}

/// Sends bytes that are neither HTTP nor TLS.
fn not_http(target: &Target, protocol: Protocol) -> io::Result<()> {
    TcpStream::connect(target.address(protocol))?.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
}

/// Opens a WebSocket, sends some messages, and closes or drops it.
fn web_socket(mut stream: Stream, round: u32) -> io::Result<()> {
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13";
    let request = format!(
        "GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let (head, _) = head(&mut stream)?;
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(ErrorKind::InvalidData.into());
    }
    for length in [5, 125, 126, 4000, 70_000] {
        let mut message = vec![b'z'; length];
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        nap(Duration::from_millis(20));
    }
    if round.is_multiple_of(2) {
        stream.shut()?;
        while stream.read(&mut [0; 1024])? > 0 {}
    }
    Ok(())
}
