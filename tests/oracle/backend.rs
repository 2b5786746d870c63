//! The backends of the oracle: one records requests, the other sends given responses.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

use super::reader::{self, Read};

/// How long an operation may take before it counts as a hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// What the oracle sends to a recorder to get everything recorded so far.
const PROBE: &[u8] = b"PROBE";

/// A backend that records all bytes of each connection, and responds to the first request on each.
///
/// It serves one connection at a time until it closes. So after a probe, all earlier connections are
/// closed and recorded.
pub(super) struct Recorder {
    pub(super) address: SocketAddr,
    connections: Receiver<Vec<u8>>,
}

impl Recorder {
    pub(super) fn start() -> Self {
        let (listener, address) = listen();
        let (sender, connections) = channel();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if record(stream, &sender).is_none() {
                    break;
                }
            }
        });
        Self { address, connections }
    }

    /// Returns the bytes of each connection since the last call.
    pub(super) fn take(&self) -> Vec<Vec<u8>> {
        let mut probe = TcpStream::connect(self.address).expect("connect to the recorder");
        probe.write_all(PROBE).expect("probe");
        probe.shutdown(Shutdown::Write).expect("probe");
        let mut connections = Vec::new();
        loop {
            let bytes =
                self.connections.recv_timeout(PATIENCE).expect("the proxy closes its backend connection");
            if bytes == PROBE {
                return connections;
            }
            connections.push(bytes);
        }
    }
}

/// Serves a connection until it closes; `None` if the oracle has been dropped.
fn record(mut stream: TcpStream, sender: &Sender<Vec<u8>>) -> Option<()> {
    let mut bytes = Vec::new();
    let mut answered = false;
    while fill(&mut stream, &mut bytes) {
        if !answered && let Ok(Read::Whole(request)) = reader::request(&bytes) {
            answered = true;
            let body = if request.start[0] == "HEAD" { "" } else { "ok" };
            let reply = format!("HTTP/1.1 200 OK\r\nX-Backend: recorder\r\nContent-Length: 2\r\n\r\n{body}");
            // The proxy may have closed the connection.
            let _ = stream.write_all(reply.as_bytes());
        }
    }
    sender.send(bytes).ok()
}

/// A response of a [`Parrot`].
#[derive(Debug, Clone, Default)]
pub(super) struct Saying {
    pub(super) bytes: Vec<u8>,
    /// Whether the parrot then closes the connection.
    pub(super) close: bool,
}

/// A backend that responds to `/told` with a given response, and to everything else with the path.
/// Keeps connections alive.
pub(super) struct Parrot {
    pub(super) address: SocketAddr,
    saying: Arc<Mutex<Saying>>,
}

impl Parrot {
    pub(super) fn start() -> Self {
        let (listener, address) = listen();
        let saying = Arc::<Mutex<Saying>>::default();
        let shared = Arc::clone(&saying);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let saying = Arc::clone(&shared);
                thread::spawn(move || speak(stream, &saying));
            }
        });
        Self { address, saying }
    }

    pub(super) fn tell(&self, saying: Saying) {
        *self.saying.lock() = saying;
    }
}

fn speak(mut stream: TcpStream, saying: &Mutex<Saying>) {
    let mut bytes = Vec::new();
    while fill(&mut stream, &mut bytes) {
        let Ok(Read::Whole(request)) = reader::request(&bytes) else { continue };
        bytes.drain(..request.len);
        let path = request.start[1].as_str();
        let (reply, close) = if path == "/told" {
            let saying = saying.lock().clone();
            (saying.bytes, saying.close)
        } else {
            let length = path.len();
            let reply =
                format!("HTTP/1.1 200 OK\r\nX-Backend: parrot\r\nContent-Length: {length}\r\n\r\n{path}");
            (reply.into_bytes(), false)
        };
        if stream.write_all(&reply).is_err() || close {
            return;
        }
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// Reads more; returns false at the end.
fn fill(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> bool {
    let mut room = [0; 16 * 1024];
    loop {
        match stream.read(&mut room) {
            Ok(n) if n > 0 => {
                bytes.extend_from_slice(&room[..n]);
                return true;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
}
