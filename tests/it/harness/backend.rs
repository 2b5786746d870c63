//! A scripted HTTP/1.1 backend that counts what it serves.

mod builder;
mod connection;
mod replies;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::message::Fields;
use super::script::Script;
use super::wait::eventually;
use builder::Builder;
use connection::Listener;

/// Bytes of a request body that are kept. The rest is only counted.
const KEPT: usize = 1 << 20;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The PROXY header of its connection; empty if there was none.
    pub(crate) proxy_header: Vec<u8>,
    /// `GET /path HTTP/1.1`.
    pub(crate) line: String,
    pub(crate) fields: Fields,
    /// The field lines, verbatim.
    pub(crate) text: String,
    pub(crate) body: Vec<u8>,
    pub(crate) body_len: usize,
    pub(crate) trailers: Fields,
}

impl Seen {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }
}

/// A running backend. Stops when dropped.
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    running: Mutex<Option<JoinHandle<()>>>,
    /// Accepts connections on a Unix domain socket.
    on_unix: Mutex<Option<JoinHandle<()>>>,
    /// A socket that is bound but not listening: reserves the port and refuses connections.
    reserved: Mutex<Option<Socket>>,
}

struct Shared {
    name: String,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    /// Whether connections start with a PROXY header.
    announced: bool,
    /// The PROXY headers received, one per connection.
    proxy_headers: Mutex<Vec<Vec<u8>>>,
    /// Completed TLS handshakes, and those that resumed a session.
    handshakes: AtomicU64,
    resumed: AtomicU64,
    /// The server names (SNI) that clients sent.
    server_names: Mutex<Vec<Option<String>>>,
    script: Mutex<Script>,
    fields: Mutex<Vec<String>>,
    sessions: Option<String>,
    known: Mutex<HashSet<String>>,
    minted: AtomicU64,
    /// Status of `/healthz`, which does not go through the script. 0: no response.
    health: AtomicU16,
    checks: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    /// Connections that the peer closed while a script waited.
    abandoned: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

impl Backend {
    /// Returns a builder of a backend with this name.
    pub(crate) fn named(name: &str) -> Builder {
        Builder::new(name)
    }

    /// Starts a backend with the default script.
    pub(crate) async fn start(name: &str) -> Self {
        Self::named(name).start().await
    }

    /// Starts listening on its port.
    pub(crate) fn restart(&self) {
        let socket = self.reserved.lock().take().expect("not running");
        socket.listen(128).expect("listen");
        socket.set_nonblocking(true).expect("nonblocking");
        let listener = TcpListener::from_std(socket.into()).expect("listener");
        let shared = Arc::clone(&self.shared);
        *self.running.lock() = Some(tokio::spawn(Listener::Tcp(listener).serve(shared)));
    }

    /// Also listens on a Unix domain socket.
    pub(crate) fn also_on(&self, path: &Path) {
        let listener = UnixListener::bind(path).expect("bind");
        let task = tokio::spawn(Listener::Unix(listener).serve(Arc::clone(&self.shared)));
        *self.on_unix.lock() = Some(task);
    }

    /// Stops listening on the Unix domain socket, and leaves its file behind.
    pub(crate) async fn leave_unix(&self) {
        let task = self.on_unix.lock().take().expect("on a Unix domain socket");
        task.abort();
        let _ = task.await;
    }

    /// Closes all connections, refuses new ones, and forgets all sessions.
    pub(crate) async fn stop(&self) {
        let running = self.running.lock().take().expect("running");
        running.abort();
        let _ = running.await;
        self.shared.known.lock().clear();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_reuse_address(true).expect("reuse");
        // The last connections may still be closing.
        eventually("the port is free again", async || socket.bind(&self.address.into()).is_ok()).await;
        *self.reserved.lock() = Some(socket);
    }

    /// Sets the script from the next request on.
    pub(crate) fn set(&self, script: Script) {
        *self.shared.script.lock() = script;
    }

    /// Replaces the extra field lines of default responses.
    pub(crate) fn set_fields(&self, lines: &[&str]) {
        *self.shared.fields.lock() = lines.iter().map(|&l| l.to_owned()).collect();
    }

    /// Sets the status of `/healthz`; 0 for no response.
    pub(crate) fn set_health(&self, status: u16) {
        self.shared.health.store(status, Ordering::Relaxed);
    }

    pub(crate) fn checks(&self) -> u64 {
        self.shared.checks.load(Ordering::Relaxed)
    }

    /// Sets the TLS configuration from the next connection on.
    pub(crate) fn set_tls(&self, config: &Arc<ServerConfig>) {
        *self.shared.tls.lock() = Some(Arc::clone(config));
    }

    /// Returns the PROXY headers of all connections so far.
    pub(crate) fn proxy_headers(&self) -> Vec<Vec<u8>> {
        self.shared.proxy_headers.lock().clone()
    }

    /// Returns the number of completed TLS handshakes, and how many of them resumed a session.
    pub(crate) fn handshakes(&self) -> (u64, u64) {
        (self.shared.handshakes.load(Ordering::Relaxed), self.shared.resumed.load(Ordering::Relaxed))
    }

    /// Returns the server names (SNI) of all handshakes so far.
    pub(crate) fn server_names(&self) -> Vec<Option<String>> {
        self.shared.server_names.lock().clone()
    }

    /// Returns the number of connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Returns the number of open connections.
    pub(crate) fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Returns the number of request heads received, without health checks.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn abandoned(&self) -> u64 {
        self.shared.abandoned.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes sent by [`Step::Zeros`](super::script::Step::Zeros).
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Returns the number of body and tunnel bytes received.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// Returns all complete requests, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// Returns the latest complete request.
    #[track_caller]
    pub(crate) fn last(&self) -> Seen {
        self.shared.seen.lock().last().cloned().expect("a request")
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        for task in [self.running.get_mut().take(), self.on_unix.get_mut().take()].into_iter().flatten() {
            task.abort();
        }
    }
}
