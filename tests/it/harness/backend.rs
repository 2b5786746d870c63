//! A scripted HTTP/1.1 backend that counts what it serves.

mod connection;

use std::collections::HashSet;
use std::fmt::Write as _;
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
use super::script::{Script, Step};
use super::wait::{Gate, eventually};

/// Bytes of a request body that are kept. The rest is only counted.
const KEPT: usize = 1 << 20;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The PROXY header of its connection; empty if there was none.
    pub(crate) header: Vec<u8>,
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

/// Builds a [`Backend`].
pub(crate) struct Builder {
    name: String,
    script: Script,
    fields: Vec<String>,
    sessions: Option<String>,
    listening: bool,
    tls: Option<Arc<ServerConfig>>,
    announced: bool,
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
    /// The PROXY headers received.
    headers: Mutex<Vec<Vec<u8>>>,
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

impl Builder {
    /// Sets the script.
    pub(crate) fn script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// Speaks TLS.
    pub(crate) fn tls(mut self, config: &Arc<ServerConfig>) -> Self {
        self.tls = Some(Arc::clone(config));
        self
    }

    /// Expects a PROXY header at the start of each connection.
    pub(crate) fn announced(mut self) -> Self {
        self.announced = true;
        self
    }

    /// Reserves a port and refuses connections.
    pub(crate) fn refuse(mut self) -> Self {
        self.listening = false;
        self
    }

    /// Adds this field line to every default response.
    pub(crate) fn field(self, line: &str) -> Self {
        let mut this = self;
        this.fields.push(line.to_owned());
        this
    }

    /// Keeps sessions: issues ids in this cookie, and reports whether it knows the id of a request.
    pub(crate) fn sessions(mut self, cookie: &str) -> Self {
        self.sessions = Some(cookie.to_owned());
        self
    }

    pub(crate) fn stall_before_head(self) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Hang]))
    }

    /// Responds with these bytes.
    pub(crate) fn reply_raw(self, bytes: impl AsRef<[u8]>) -> Self {
        self.script(Script::raw(bytes))
    }

    pub(crate) fn reply_after(self, gate: &Gate) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Wait(gate.clone()), Step::Reply]))
    }

    /// Reads the whole request and closes without responding.
    pub(crate) fn die_after_request(self) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Close]))
    }

    /// Closes after `sent` bytes of a body of twice that length.
    pub(crate) fn die_mid_body(self, sent: usize) -> Self {
        let head =
            format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\nContent-Length: {}\r\n\r\n", self.name, 2 * sent);
        let steps = [Step::ReadHead, Step::ReadBody, Step::Send(head.into()), Step::Zeros(sent), Step::Close];
        self.script(Script::new(steps))
    }

    pub(crate) fn close_after_reply(self) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Reply, Step::Close]))
    }

    /// Responds with a body delimited by the end of the connection.
    pub(crate) fn until_close(self, body: &str) -> Self {
        let bytes = format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\n\r\n{body}", self.name);
        self.script(Script::raw_then(bytes, Step::Close))
    }

    /// Responds with a body in these chunks, and with trailers.
    pub(crate) fn chunked(self, parts: &[&str], trailers: &[&str]) -> Self {
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\nTransfer-Encoding: chunked\r\n\r\n", self.name);
        // Writing to a string cannot fail.
        for part in parts {
            let _ = write!(bytes, "{:x}\r\n{part}\r\n", part.len());
        }
        bytes.push_str("0\r\n");
        for trailer in trailers {
            let _ = write!(bytes, "{trailer}\r\n");
        }
        bytes.push_str("\r\n");
        self.script(Script::raw(bytes))
    }

    /// Sends an interim response after the request head.
    pub(crate) fn interim(self, head: &str) -> Self {
        let interim = Step::Send(head.into());
        self.script(Script::new([Step::ReadHead, interim, Step::ReadBody, Step::Reply]))
    }

    /// Responds with a 101 immediately followed by `behind`, then echoes.
    pub(crate) fn upgrade_echo(self, behind: &str) -> Self {
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Accept: x\r\n\r\n";
        let bytes = format!("{head}{behind}").into_bytes();
        self.script(Script::new([Step::ReadHead, Step::Send(bytes), Step::Echo]))
    }

    #[expect(clippy::unused_async, reason = "needs the runtime")]
    pub(crate) async fn start(self) -> Backend {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_reuse_address(true).expect("reuse");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        let address = socket.local_addr().expect("address").as_socket().expect("an IP address");
        let shared = Arc::new(Shared {
            name: self.name.clone(),
            tls: Mutex::new(self.tls),
            announced: self.announced,
            headers: Mutex::default(),
            handshakes: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            server_names: Mutex::default(),
            script: Mutex::new(self.script),
            fields: Mutex::new(self.fields),
            sessions: self.sessions,
            known: Mutex::default(),
            minted: AtomicU64::new(0),
            health: AtomicU16::new(200),
            checks: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            seen: Mutex::default(),
        });
        let (running, on_unix, reserved) = (Mutex::new(None), Mutex::new(None), Mutex::new(Some(socket)));
        let backend = Backend { name: self.name, address, shared, running, on_unix, reserved };
        if self.listening {
            backend.restart();
        }
        backend
    }
}

impl Backend {
    pub(crate) fn named(name: &str) -> Builder {
        Builder {
            name: name.to_owned(),
            script: Script::reply(),
            fields: Vec::new(),
            sessions: None,
            listening: true,
            tls: None,
            announced: false,
        }
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
        *self.running.lock() = Some(tokio::spawn(connection::accept(listener, shared)));
    }

    /// Also listens on a Unix domain socket.
    pub(crate) fn also_on(&self, path: &Path) {
        let listener = UnixListener::bind(path).expect("bind");
        let task = tokio::spawn(connection::accept_unix(listener, Arc::clone(&self.shared)));
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
    pub(crate) fn headers(&self) -> Vec<Vec<u8>> {
        self.shared.headers.lock().clone()
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

    /// Returns the number of bytes sent by [`Step::Zeros`].
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

impl Shared {
    /// Returns the field lines about the request's session.
    fn session(&self, cookie: &str, request: &Seen) -> String {
        let pairs = request.fields.all("cookie");
        let pair = |pair: &str| pair.trim().strip_prefix(cookie)?.strip_prefix('=').map(str::to_owned);
        let id = pairs.iter().flat_map(|line| line.split(';')).find_map(pair);
        match id {
            Some(id) if self.known.lock().contains(&id) => {
                format!("X-Session: {id}\r\nX-Session-State: known\r\n")
            }
            id => {
                let state = if id.is_some() { "lost" } else { "new" };
                let number = self.minted.fetch_add(1, Ordering::Relaxed);
                let id = format!("{}-{number}-{}", self.name, fastrand::u32(..));
                self.known.lock().insert(id.clone());
                format!(
                    "X-Session: {id}\r\nX-Session-State: {state}\r\nSet-Cookie: {cookie}={id}; Path=/; HttpOnly\r\n"
                )
            }
        }
    }
}
