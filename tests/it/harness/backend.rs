//! A backend: a TCP server that does as its script says, and counts.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use parking_lot::Mutex;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::message::{End, Fields};
use super::script::{Script, Step};
use super::wait::{Gate, eventually};

/// More of a body than this is counted, not kept.
const KEPT: usize = 1 << 20;

/// A request, as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `GET /path HTTP/1.1`.
    pub(crate) line: String,
    pub(crate) fields: Fields,
    /// Field lines as they were written.
    pub(crate) text: String,
    pub(crate) body: Vec<u8>,
    pub(crate) body_len: usize,
    pub(crate) trailers: Fields,
    /// Number of the connection it came on, from 1.
    pub(crate) connection: u64,
}

impl Seen {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }
}

/// What a backend is before it is started.
pub(crate) struct Builder {
    name: String,
    script: Script,
    fields: Vec<String>,
    sessions: Option<String>,
    listening: bool,
}

/// A running backend. Dropped, it is gone.
pub(crate) struct Backend {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    running: Mutex<Option<JoinHandle<()>>>,
    /// Bound and not listening: the port stays ours, and refuses.
    reserved: Mutex<Option<Socket>>,
}

struct Shared {
    name: String,
    script: Mutex<Script>,
    fields: Mutex<Vec<String>>,
    sessions: Option<String>,
    known: Mutex<HashSet<String>>,
    minted: AtomicU64,
    /// Status of `/healthz`, which is answered aside from the script.
    health: AtomicU16,
    checks: AtomicU64,
    connections: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    /// Connections that the other side ended while a script waited.
    abandoned: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    seen: Mutex<Vec<Seen>>,
}

impl Builder {
    /// Does as the script says.
    pub(crate) fn script(mut self, script: Script) -> Self {
        self.script = script;
        self
    }

    /// The port is there and refuses connections.
    pub(crate) fn refuse(mut self) -> Self {
        self.listening = false;
        self
    }

    /// With this field line on every usual response.
    pub(crate) fn field(self, line: &str) -> Self {
        let mut this = self;
        this.fields.push(line.to_owned());
        this
    }

    /// Keeps sessions: mints ids in this cookie and says whether it knows one.
    pub(crate) fn sessions(mut self, cookie: &str) -> Self {
        self.sessions = Some(cookie.to_owned());
        self
    }

    pub(crate) fn stall_before_head(self) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Hang]))
    }

    pub(crate) fn reset_after_accept(self) -> Self {
        self.script(Script::new([Step::Reset]))
    }

    pub(crate) fn reply_raw(self, bytes: impl AsRef<[u8]>) -> Self {
        self.script(Script::raw(bytes))
    }

    pub(crate) fn reply_after(self, gate: &Gate) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Wait(gate.clone()), Step::Reply]))
    }

    /// Reads the whole request and closes without a word.
    pub(crate) fn die_after_request(self) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Close]))
    }

    /// Breaks off after `sent` of twice as many bytes.
    pub(crate) fn die_mid_body(self, sent: usize) -> Self {
        let head =
            format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\nContent-Length: {}\r\n\r\n", self.name, 2 * sent);
        let steps = [Step::ReadHead, Step::ReadBody, Step::Send(head.into()), Step::Zeros(sent), Step::Close];
        self.script(Script::new(steps))
    }

    pub(crate) fn close_after_reply(self) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Reply, Step::Close]))
    }

    /// A body that ends with the connection.
    pub(crate) fn until_close(self, body: &str) -> Self {
        let bytes = format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\n\r\n{body}", self.name);
        self.script(Script::raw_then(bytes, Step::Close))
    }

    /// A body in these chunks, and trailers.
    pub(crate) fn chunked(self, parts: &[&str], trailers: &[&str]) -> Self {
        let mut bytes =
            format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\nTransfer-Encoding: chunked\r\n\r\n", self.name);
        for part in parts {
            bytes.push_str(&format!("{:x}\r\n{part}\r\n", part.len()));
        }
        bytes.push_str("0\r\n");
        for trailer in trailers {
            bytes.push_str(&format!("{trailer}\r\n"));
        }
        bytes.push_str("\r\n");
        self.script(Script::raw(bytes))
    }

    /// Sends an interim response as soon as the head is there.
    pub(crate) fn interim(self, head: &str) -> Self {
        let interim = Step::Send(head.into());
        self.script(Script::new([Step::ReadHead, interim, Step::ReadBody, Step::Reply]))
    }

    /// 101 and then an echo; `behind` comes right behind the 101.
    pub(crate) fn upgrade_echo(self, behind: &str) -> Self {
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                    Sec-WebSocket-Accept: x\r\n\r\n";
        let bytes = format!("{head}{behind}").into_bytes();
        self.script(Script::new([Step::ReadHead, Step::Send(bytes), Step::Echo]))
    }

    pub(crate) async fn start(self) -> Backend {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_reuse_address(true).expect("reuse");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        let address = socket.local_addr().expect("address").as_socket().expect("an IP address");
        let shared = Arc::new(Shared {
            name: self.name.clone(),
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
        let (running, reserved) = (Mutex::new(None), Mutex::new(Some(socket)));
        let backend = Backend { name: self.name, address, shared, running, reserved };
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
        }
    }

    /// A usual backend.
    pub(crate) async fn start(name: &str) -> Self {
        Self::named(name).start().await
    }

    /// Listens on its port, for the first time or again.
    pub(crate) fn restart(&self) {
        let socket = self.reserved.lock().take().expect("not running");
        socket.listen(128).expect("listen");
        socket.set_nonblocking(true).expect("nonblocking");
        let listener = TcpListener::from_std(socket.into()).expect("listener");
        let shared = Arc::clone(&self.shared);
        *self.running.lock() = Some(tokio::spawn(accept(listener, shared)));
    }

    /// Ends all its connections and refuses new ones; what it knew of sessions is lost.
    pub(crate) async fn stop(&self) {
        let running = self.running.lock().take().expect("running");
        running.abort();
        let _ = running.await;
        self.shared.known.lock().clear();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        socket.set_reuse_address(true).expect("reuse");
        // The last of its connections may be on their way out.
        eventually("the port is free again", async || socket.bind(&self.address.into()).is_ok()).await;
        *self.reserved.lock() = Some(socket);
    }

    /// Does something else from the next request on.
    pub(crate) fn set(&self, script: Script) {
        *self.shared.script.lock() = script;
    }

    /// Another list of fields on every usual response.
    pub(crate) fn set_fields(&self, lines: &[&str]) {
        *self.shared.fields.lock() = lines.iter().map(|&l| l.to_owned()).collect();
    }

    /// What `/healthz` says from now on; 0: nothing.
    pub(crate) fn set_health(&self, status: u16) {
        self.shared.health.store(status, Ordering::Relaxed);
    }

    pub(crate) fn checks(&self) -> u64 {
        self.shared.checks.load(Ordering::Relaxed)
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> u64 {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// Requests whose head has arrived.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn abandoned(&self) -> u64 {
        self.shared.abandoned.load(Ordering::Relaxed)
    }

    /// Bytes of response bodies sent by [`Step::Zeros`].
    pub(crate) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Bytes of request bodies received.
    pub(crate) fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// All requests that have arrived whole, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().clone()
    }

    /// The latest request.
    #[track_caller]
    pub(crate) fn last(&self) -> Seen {
        self.shared.seen.lock().last().cloned().expect("a request")
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(running) = self.running.get_mut().take() {
            running.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
                connections.spawn(Connection::serve(stream, Arc::clone(&shared), number));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    number: u64,
    held: Vec<u8>,
    /// The request that is being read.
    seen: Option<Seen>,
    /// The request that was read last.
    latest: Option<Seen>,
}

/// A connection in the count of open ones.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connection is over.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

impl Connection {
    async fn serve(stream: TcpStream, shared: Arc<Shared>, number: u64) {
        shared.open.fetch_add(1, Ordering::Relaxed);
        let _open = Open(Arc::clone(&shared));
        let _ = stream.set_nodelay(true);
        let mut connection = Self { stream, shared, number, held: Vec::new(), seen: None, latest: None };
        let mut count = 0;
        while connection.request(count).await.is_ok() {
            count += 1;
        }
    }

    /// Carries out the script for one request.
    async fn request(&mut self, index: usize) -> Result<(), Over> {
        let steps = |this: &Self| {
            let script = this.shared.script.lock();
            script.requests[index.min(script.requests.len() - 1)].clone()
        };
        let mut script = steps(self);
        let mut at = 0;
        while let Some(step) = script.get(at).cloned() {
            at += 1;
            if !script[at - 1..].iter().any(|step| matches!(step, Step::ReadHead | Step::ReadBody)) {
                // Read whole: in the list before anybody can have the answer.
                self.record();
            }
            match step {
                Step::ReadHead => {
                    self.read_head().await?;
                    // The script may have been changed while nothing was asked.
                    let now = steps(self);
                    if at == 1 && matches!(now.first(), Some(Step::ReadHead)) {
                        script = now;
                    }
                    if self.is_check() {
                        return self.answer_check().await;
                    }
                    self.shared.requests.fetch_add(1, Ordering::Relaxed);
                }
                Step::ReadBody => self.read_body().await?,
                Step::Reply => {
                    let reply = self.usual_reply();
                    self.stream.write_all(reply.as_bytes()).await?;
                }
                Step::Send(bytes) => self.stream.write_all(&bytes).await?,
                Step::Drip(bytes) => {
                    for byte in bytes {
                        self.stream.write_all(&[byte]).await?;
                        tokio::task::yield_now().await;
                    }
                }
                Step::Zeros(count) => self.zeros(count).await?,
                Step::Wait(gate) => {
                    tokio::select! {
                        () = gate.opened() => {}
                        over = Self::gone(&self.stream, &self.shared) => return Err(over),
                    }
                }
                Step::Pause(gate) => gate.opened().await,
                Step::Hang => return Err(Self::gone(&self.stream, &self.shared).await),
                Step::HalfClose => {
                    self.stream.shutdown().await?;
                    return Err(Self::gone(&self.stream, &self.shared).await);
                }
                Step::Close => return Err(Over),
                Step::Reset => {
                    SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO))?;
                    return Err(Over);
                }
                Step::Echo => {
                    self.stream.write_all(&std::mem::take(&mut self.held)).await?;
                    let mut buffer = vec![0; 16 * 1024];
                    loop {
                        let n = self.stream.read(&mut buffer).await?;
                        self.shared.received.fetch_add(n as u64, Ordering::Relaxed);
                        if n == 0 {
                            return Err(Over);
                        }
                        self.stream.write_all(&buffer[..n]).await?;
                    }
                }
            }
        }
        self.record();
        Ok(())
    }

    /// Waits until the other side has ended the connection.
    async fn gone(stream: &TcpStream, shared: &Shared) -> Over {
        let mut buffer = vec![0; 4096];
        loop {
            let _ = stream.readable().await;
            match stream.try_read(&mut buffer) {
                Ok(n) if n > 0 => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                _ => break,
            }
        }
        shared.abandoned.fetch_add(1, Ordering::Relaxed);
        Over
    }

    async fn read_head(&mut self) -> Result<(), Over> {
        loop {
            if let Some(at) = self.held.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = self.held.split_off(at + 4);
                let head = std::mem::replace(&mut self.held, rest);
                let head: String = head.iter().map(|b| char::from(*b)).collect();
                let (line, text) = head.split_once("\r\n").unwrap_or_default();
                self.seen = Some(Seen {
                    line: line.to_owned(),
                    fields: Fields::parse(text),
                    text: text.to_owned(),
                    body: Vec::new(),
                    body_len: 0,
                    trailers: Fields::default(),
                    connection: self.number,
                });
                return Ok(());
            }
            self.fill().await?;
        }
    }

    fn is_check(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.line.contains(" /healthz "))
    }

    async fn answer_check(&mut self) -> Result<(), Over> {
        self.seen = None;
        self.shared.checks.fetch_add(1, Ordering::Relaxed);
        let status = self.shared.health.load(Ordering::Relaxed);
        if status == 0 {
            return Err(Self::gone(&self.stream, &self.shared).await);
        }
        let reply = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
        self.stream.write_all(reply.as_bytes()).await?;
        Ok(())
    }

    async fn read_body(&mut self) -> Result<(), Over> {
        let end = self.seen.as_ref().map_or(End::Length(0), |seen| End::of_request(&seen.fields));
        match end {
            End::Length(length) => self.take(length).await?,
            End::Close => {}
            End::Chunked => loop {
                let line = self.line().await?;
                let size = usize::from_str_radix(&line, 16);
                let size = size.unwrap_or_else(|_| panic!("no chunk size at the backend: {line:?}"));
                if size == 0 {
                    let mut trailers = String::new();
                    loop {
                        let line = self.line().await?;
                        if line.is_empty() {
                            break;
                        }
                        trailers.push_str(&line);
                        trailers.push_str("\r\n");
                    }
                    if let Some(seen) = &mut self.seen {
                        seen.trailers = Fields::parse(&trailers);
                    }
                    break;
                }
                self.take(size).await?;
                assert_eq!(self.line().await?, "", "a chunk's end at the backend");
            },
        }
        Ok(())
    }

    /// Takes so many bytes of the body.
    async fn take(&mut self, mut count: usize) -> Result<(), Over> {
        while count > 0 {
            if self.held.is_empty() {
                self.fill().await?;
            }
            let n = count.min(self.held.len());
            if let Some(seen) = &mut self.seen {
                seen.body_len += n;
                let room = KEPT - seen.body.len().min(KEPT);
                seen.body.extend_from_slice(&self.held[..n.min(room)]);
            }
            self.shared.received.fetch_add(n as u64, Ordering::Relaxed);
            self.held.drain(..n);
            count -= n;
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Over> {
        loop {
            if let Some(at) = self.held.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.held[..at]).into_owned();
                self.held.drain(..at + 2);
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Over> {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer).await? {
            0 => Err(Over),
            n => {
                self.held.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }

    async fn zeros(&mut self, mut count: usize) -> Result<(), Over> {
        let zeros = vec![0; 64 * 1024];
        while count > 0 {
            let n = self.stream.write(&zeros[..count.min(zeros.len())]).await?;
            self.shared.sent.fetch_add(n as u64, Ordering::Relaxed);
            count -= n;
        }
        Ok(())
    }

    fn record(&mut self) {
        if let Some(seen) = self.seen.take() {
            self.latest = Some(seen.clone());
            self.shared.seen.lock().push(seen);
        }
    }

    fn usual_reply(&self) -> String {
        let shared = &self.shared;
        let request = self.latest.as_ref();
        let is_head = request.is_some_and(|seen| seen.line.starts_with("HEAD "));
        let body = format!("hello from {}\n", shared.name);
        let mut head =
            format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\nContent-Length: {}\r\n", shared.name, body.len());
        if let (Some(cookie), Some(request)) = (&shared.sessions, request) {
            head.push_str(&shared.session(cookie, request));
        }
        for line in shared.fields.lock().iter() {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        if is_head { head } else { head + &body }
    }
}

impl Shared {
    /// The field lines about the request's session.
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
