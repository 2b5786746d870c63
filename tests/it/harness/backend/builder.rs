//! Builds backends with a given behavior.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64};

use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};

use super::{Backend, Shared};
use crate::harness::script::{Script, Step};
use crate::harness::wait::Gate;

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

impl Builder {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            script: Script::reply(),
            fields: Vec::new(),
            sessions: None,
            listening: true,
            tls: None,
            announced: false,
        }
    }

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
    pub(crate) fn field(mut self, line: &str) -> Self {
        self.fields.push(line.to_owned());
        self
    }

    /// Keeps sessions: issues ids in this cookie, and reports whether it knows the id of a request.
    pub(crate) fn sessions(mut self, cookie: &str) -> Self {
        self.sessions = Some(cookie.to_owned());
        self
    }

    /// Reads requests and never responds.
    pub(crate) fn stall_before_head(self) -> Self {
        self.script(Script::new([Step::ReadHead, Step::ReadBody, Step::Hang]))
    }

    /// Responds with these bytes.
    pub(crate) fn reply_raw(self, bytes: impl AsRef<[u8]>) -> Self {
        self.script(Script::raw(bytes))
    }

    /// Sends the default response once the gate is open.
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

    /// Closes the connection after each default response.
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
            proxy_headers: Mutex::default(),
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
