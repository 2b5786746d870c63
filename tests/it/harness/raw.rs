//! A byte-level client: it sends exactly the given bytes and sees every byte it receives.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::message::{End, Fields, Response, chunk_size, split_head, split_line};
use super::wait::in_time;
use super::wire::Wire;

pub(crate) struct RawClient {
    stream: Wire,
    /// Bytes read but not yet consumed.
    pub(super) held: Vec<u8>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Closed,
    Reset,
}

impl RawClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = in_time("a connection", TcpStream::connect(address)).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        Self::over(Wire::Plain(stream))
    }

    /// Connects to a Unix domain socket.
    pub(crate) async fn connect_unix(path: &Path) -> Self {
        let stream = in_time("a connection", UnixStream::connect(path)).await.expect("connect");
        Self::over(Wire::Unix(stream))
    }

    /// Connects, or returns the error.
    pub(crate) async fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = in_time("a connection", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(Wire::Plain(stream)))
    }

    pub(super) fn over(stream: Wire) -> Self {
        Self { stream, held: Vec::new() }
    }

    /// Returns the underlying connection.
    ///
    /// # Panics
    /// If bytes were read ahead.
    pub(super) fn into_wire(self) -> Wire {
        assert!(self.held.is_empty(), "buffered bytes would be lost");
        self.stream
    }

    pub(super) fn wire(&self) -> &Wire {
        &self.stream
    }

    /// Connects from the loopback address `from`.
    pub(crate) async fn connect_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.bind(SocketAddr::new(from, 0)).expect("bind");
        let stream = in_time("a connection", socket.connect(address)).await.expect("connect");
        Self::over(Wire::Plain(stream))
    }

    /// Returns the local port.
    pub(crate) fn port(&self) -> u16 {
        self.stream.socket().local_addr().expect("an address").port()
    }

    /// Connects with a receive buffer of 4 KiB.
    pub(crate) async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.set_recv_buffer_size(4096).expect("receive buffer");
        let stream = in_time("a connection", socket.connect(address)).await.expect("connect");
        Self::over(Wire::Plain(stream))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        in_time("sending", self.stream.write_all(bytes.as_ref())).await.expect("send");
        in_time("sending", self.stream.flush()).await.expect("flush");
        self
    }

    /// Sends the bytes; returns false if the peer has closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        in_time("sending", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Sends `GET path` with these field lines, and returns the response.
    pub(crate) async fn get(&mut self, path: &str, fields: &[&str]) -> Response {
        self.request("GET", path, fields, b"").await
    }

    /// Sends a request with a body of known length, and returns the response.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        fields: &[&str],
        body: &[u8],
    ) -> Response {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        if !body.is_empty() || method == "POST" {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.send(bytes).await;
        self.response_to(method).await
    }

    /// Reads the next complete response, to a request other than HEAD.
    pub(crate) async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    /// Reads the next complete response, with the interim responses before it.
    pub(crate) async fn response_to(&mut self, method: &str) -> Response {
        let mut response = self.head().await;
        let end = End::of_response(method, response.status, &response.fields);
        (response.body, response.trailers) = self.body(end).await;
        response
    }

    /// Reads the head of the next final response, with the interim responses before it.
    pub(crate) async fn head(&mut self) -> Response {
        let mut interim = Vec::new();
        loop {
            let response = self.one_head().await;
            if !(100..200).contains(&response.status) || response.status == 101 {
                return Response { interim, ..response };
            }
            interim.push(response);
        }
    }

    /// Reads the next response head, interim or final.
    pub(crate) async fn one_head(&mut self) -> Response {
        let head = self.until_empty_line("a response head").await;
        Response::parse(&head)
    }

    async fn until_empty_line(&mut self, what: &str) -> Vec<u8> {
        loop {
            if let Some(head) = split_head(&mut self.held) {
                return head;
            }
            assert!(
                self.fill(what).await,
                "the connection ended before {what}: {}",
                self.held.escape_ascii()
            );
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(line) = split_line(&mut self.held) {
                return line;
            }
            assert!(
                self.fill("a line").await,
                "the connection ended within a line: {}",
                self.held.escape_ascii()
            );
        }
    }

    async fn body(&mut self, end: End) -> (Vec<u8>, Fields) {
        match end {
            End::Length(length) => (self.exactly(length).await, Fields::default()),
            End::Close => (self.read_to_end().await, Fields::default()),
            End::Chunked => {
                let mut body = Vec::new();
                loop {
                    let size = chunk_size(&self.line().await);
                    if size == 0 {
                        break;
                    }
                    body.extend(self.exactly(size).await);
                    assert_eq!(self.line().await, "", "chunk not followed by CRLF");
                }
                let mut trailers = String::new();
                loop {
                    let line = self.line().await;
                    if line.is_empty() {
                        return (body, Fields::parse(&trailers));
                    }
                    trailers.push_str(&line);
                    trailers.push_str("\r\n");
                }
            }
        }
    }

    /// Reads exactly this many bytes.
    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.held.len() < count {
            assert!(self.fill("bytes").await, "the connection ended {} bytes early", count - self.held.len());
        }
        let rest = self.held.split_off(count);
        std::mem::replace(&mut self.held, rest)
    }

    /// Reads exactly this many bytes, or returns as an error those that came before the connection
    /// closed or was reset.
    pub(crate) async fn at_most(&mut self, count: usize) -> Result<Vec<u8>, Vec<u8>> {
        while self.held.len() < count {
            if self.try_fill("bytes").await.is_err() {
                return Err(std::mem::take(&mut self.held));
            }
        }
        let rest = self.held.split_off(count);
        Ok(std::mem::replace(&mut self.held, rest))
    }

    /// Reads the head of a final response; `None` if the connection closed or was reset before it.
    pub(crate) async fn try_head(&mut self) -> Option<Response> {
        while !self.held.windows(4).any(|w| w == b"\r\n\r\n") {
            self.try_fill("a response head").await.ok()?;
        }
        Some(self.head().await)
    }

    /// Reads and drops this many bytes.
    pub(crate) async fn discard(&mut self, count: usize) {
        let mut left = count - count.min(self.held.len());
        self.held.drain(..count.min(self.held.len()));
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let room = left.min(buffer.len());
            let n = in_time("bytes", self.stream.read(&mut buffer[..room])).await.expect("read");
            assert!(n > 0, "the connection ended {left} bytes early");
            left -= n;
        }
    }

    /// Reads until the peer closes cleanly. Panics on a reset.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill("the end").await {}
        std::mem::take(&mut self.held)
    }

    /// Reads until the peer closes or resets.
    pub(crate) async fn read_to_any_end(&mut self) -> Vec<u8> {
        while self.try_fill("the end").await.is_ok() {}
        std::mem::take(&mut self.held)
    }

    /// Reads until the end of a response head or of the connection, clean or not.
    pub(crate) async fn read_to_any_end_or_response(&mut self) -> Vec<u8> {
        while !self.held.windows(4).any(|w| w == b"\r\n\r\n") && self.try_fill("a response").await.is_ok() {}
        std::mem::take(&mut self.held)
    }

    /// Asserts that the peer closes cleanly without sending anything more.
    pub(crate) async fn assert_closed(&mut self) {
        let rest = self.read_to_end().await;
        assert_eq!(rest.escape_ascii().to_string(), "", "bytes before the close");
    }

    /// Asserts that the peer resets the connection: a truncated body must not look complete.
    pub(crate) async fn assert_broken(&mut self) {
        loop {
            match self.try_fill("a reset").await {
                Ok(()) => {}
                Err(Ended::Reset) => return,
                Err(Ended::Closed) => panic!("closed cleanly instead of with a reset"),
            }
        }
    }

    /// Shuts down the sending side.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("shutdown");
    }

    /// Closes the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.reset_on_close().expect("linger");
    }

    /// Asserts that neither bytes nor the end of the connection have arrived so far. Does not wait.
    pub(crate) fn assert_quiet(&mut self) {
        assert_eq!(self.held.escape_ascii().to_string(), "");
        let mut byte = [0];
        match self.stream.socket().try_read(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => panic!("expected nothing to read: {other:?} {byte:?}"),
        }
    }

    /// Reads more; returns false if the peer has closed cleanly.
    async fn fill(&mut self, what: &str) -> bool {
        match self.try_fill(what).await {
            Ok(()) => true,
            Err(Ended::Closed) => false,
            Err(Ended::Reset) => panic!("reset before {what}: {}", self.held.escape_ascii()),
        }
    }

    async fn try_fill(&mut self, what: &str) -> Result<(), Ended> {
        let held = self.held.escape_ascii().to_string();
        let what = format!("{what}, after {} bytes: {held:.200}", self.held.len());
        match in_time(what, self.stream.read_buf(&mut self.held)).await {
            Ok(0) => Err(Ended::Closed),
            Ok(_) => Ok(()),
            Err(_) => Err(Ended::Reset),
        }
    }
}
