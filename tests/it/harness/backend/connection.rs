//! A connection to a backend: runs the script.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::{KEPT, Seen, Shared, replies};
use crate::harness::message::{End, Fields, chunk_size, split_head, split_line};
use crate::harness::script::Step;
use crate::harness::wire::Wire;

/// Accepts connections for a backend.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Wire> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                let _ = stream.set_nodelay(true);
                Ok(Wire::Plain(stream))
            }
            Self::Unix(listener) => Ok(Wire::Unix(listener.accept().await?.0)),
        }
    }

    /// Accepts and serves connections until dropped.
    pub(super) async fn serve(self, shared: Arc<Shared>) {
        // Dropped with this task, which closes all connections.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.accept() => {
                    let Ok(stream) = accepted else { continue };
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(Connection::serve(stream, Arc::clone(&shared)));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

struct Connection {
    stream: Wire,
    shared: Arc<Shared>,
    /// The PROXY header of the connection; empty if there was none.
    proxy_header: Vec<u8>,
    /// The read buffer.
    room: Vec<u8>,
    held: Vec<u8>,
    /// The request being read.
    seen: Option<Seen>,
    /// The latest complete request.
    latest: Option<Seen>,
}

/// Decrements the count of open connections when dropped.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The connection has ended.
struct Over;

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

/// Performs the TLS handshake if the backend speaks TLS; `None` if it fails.
async fn secured(stream: Wire, shared: &Shared) -> Option<Wire> {
    let Some(config) = shared.tls.lock().clone() else { return Some(stream) };
    let Wire::Plain(stream) = stream else { panic!("TLS backends listen on TCP only") };
    let stream = TlsAcceptor::from(config).accept(stream).await.ok()?;
    let session = stream.get_ref().1;
    shared.handshakes.fetch_add(1, Ordering::Relaxed);
    if session.handshake_kind() == Some(HandshakeKind::Resumed) {
        shared.resumed.fetch_add(1, Ordering::Relaxed);
    }
    shared.server_names.lock().push(session.server_name().map(str::to_owned));
    Some(Wire::Tls(Box::new(TlsStream::Server(stream))))
}

/// Reads a PROXY header, version 1 or 2.
async fn proxy_header(stream: &mut Wire) -> std::io::Result<Vec<u8>> {
    let mut header = Vec::new();
    let mut left = 16;
    while left > 0 {
        header.push(stream.read_u8().await?);
        left -= 1;
        match header[0] {
            b'P' => left = usize::from(!header.ends_with(b"\r\n")),
            _ if header.len() == 16 => left = usize::from(u16::from_be_bytes([header[14], header[15]])),
            _ => {}
        }
    }
    Ok(header)
}

impl Connection {
    async fn serve(mut stream: Wire, shared: Arc<Shared>) {
        shared.open.fetch_add(1, Ordering::Relaxed);
        let _open = Open(Arc::clone(&shared));
        let mut header = Vec::new();
        if shared.announced {
            let Ok(read) = proxy_header(&mut stream).await else { return };
            header.clone_from(&read);
            shared.proxy_headers.lock().push(read);
        }
        let Some(stream) = secured(stream, &shared).await else { return };
        let room = vec![0; 64 * 1024];
        let mut connection =
            Self { stream, shared, proxy_header: header, room, held: Vec::new(), seen: None, latest: None };
        let mut count = 0;
        while connection.request(count).await.is_ok() {
            count += 1;
        }
    }

    /// Runs the script for one request.
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
                // The request is complete: record it before the client can see the response.
                self.record();
            }
            match step {
                Step::ReadHead => {
                    self.read_head().await?;
                    // The script may have changed while the connection was idle.
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
                    let reply = replies::default(&self.shared, self.latest.as_ref());
                    self.stream.write_all(reply.as_bytes()).await?;
                }
                Step::ReplyToMidHead => {
                    let reply = replies::default(&self.shared, self.latest.as_ref());
                    let head = reply.find("\r\n\r\n").unwrap_or_default();
                    self.stream.write_all(&reply.as_bytes()[..head / 2]).await?;
                }
                Step::ReplyToMidBody => {
                    let reply = replies::default(&self.shared, self.latest.as_ref());
                    let body = reply.find("\r\n\r\n").unwrap_or_default() + 4;
                    self.stream.write_all(&reply.as_bytes()[..body.midpoint(reply.len())]).await?;
                }
                Step::Send(bytes) => self.stream.write_all(&bytes).await?,
                Step::Accept => {
                    let reply = replies::accept_websocket(self.latest.as_ref());
                    self.stream.write_all(reply.as_bytes()).await?;
                }
                Step::DripReply => {
                    let reply = replies::default(&self.shared, self.latest.as_ref());
                    self.drip(reply.as_bytes()).await?;
                }
                Step::Drip(bytes) => self.drip(&bytes).await?,
                Step::Zeros(count) => self.zeros(count).await?,
                Step::Rekey => self.stream.rekey(),
                Step::Wait(gate) => {
                    tokio::select! {
                        () = gate.opened() => {}
                        over = Self::gone(&mut self.stream, &self.shared) => return Err(over),
                    }
                }
                Step::Pause(gate) => gate.opened().await,
                Step::Hang => return Err(Self::gone(&mut self.stream, &self.shared).await),
                Step::HalfClose => {
                    self.stream.shutdown().await?;
                    return Err(Self::gone(&mut self.stream, &self.shared).await);
                }
                Step::Close => return Err(Over),
                Step::Reset => {
                    self.stream.reset_on_close()?;
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
                        self.stream.flush().await?;
                    }
                }
            }
            self.stream.flush().await?;
        }
        self.record();
        Ok(())
    }

    async fn drip(&mut self, bytes: &[u8]) -> Result<(), Over> {
        for byte in bytes {
            self.stream.write_all(&[*byte]).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Waits until the peer closes the connection.
    async fn gone(stream: &mut Wire, shared: &Shared) -> Over {
        let mut buffer = vec![0; 4096];
        while stream.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        shared.abandoned.fetch_add(1, Ordering::Relaxed);
        Over
    }

    async fn read_head(&mut self) -> Result<(), Over> {
        loop {
            if let Some(head) = split_head(&mut self.held) {
                let head: String = head.iter().map(|b| char::from(*b)).collect();
                let (line, text) = head.split_once("\r\n").unwrap_or_default();
                self.seen = Some(Seen {
                    proxy_header: self.proxy_header.clone(),
                    line: line.to_owned(),
                    fields: Fields::parse(text),
                    text: text.to_owned(),
                    body: Vec::new(),
                    body_len: 0,
                    trailers: Fields::default(),
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
            return Err(Self::gone(&mut self.stream, &self.shared).await);
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
                let size = chunk_size(&self.line().await?);
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
                assert_eq!(self.line().await?, "", "chunk not followed by CRLF at the backend");
            },
        }
        Ok(())
    }

    /// Reads this many bytes of the body.
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
            if let Some(line) = split_line(&mut self.held) {
                return Ok(line);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), Over> {
        match self.stream.read(&mut self.room).await? {
            0 => Err(Over),
            n => {
                self.held.extend_from_slice(&self.room[..n]);
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
}
