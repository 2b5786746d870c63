//! A client that sends exactly what it is told and sees every byte.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::message::{End, Fields, Response};
use super::wait::in_time;
use super::wire::Wire;

pub(crate) struct RawClient {
    stream: Wire,
    /// Read and not yet used.
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

    /// Connects, if somebody listens.
    pub(crate) async fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = in_time("a connection", TcpStream::connect(address)).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(Wire::Plain(stream)))
    }

    pub(super) fn over(stream: Wire) -> Self {
        Self { stream, held: Vec::new() }
    }

    /// What others read and write it as; nothing was read ahead.
    pub(super) fn into_wire(self) -> Wire {
        assert!(self.held.is_empty(), "bytes would be lost");
        self.stream
    }

    pub(super) fn wire(&self) -> &Wire {
        &self.stream
    }

    /// Connects from another loopback address.
    pub(crate) async fn connect_from(from: IpAddr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.bind(SocketAddr::new(from, 0)).expect("bind");
        let stream = in_time("a connection", socket.connect(address)).await.expect("connect");
        Self::over(Wire::Plain(stream))
    }

    /// The port at this end.
    pub(crate) fn port(&self) -> u16 {
        self.stream.socket().local_addr().expect("an address").port()
    }

    /// Connects with room for few bytes on its side.
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

    /// Sends as long as the other side takes it; false once it does not.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        in_time("sending", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// `GET path`, with field lines behind.
    pub(crate) async fn get(&mut self, path: &str, fields: &[&str]) -> Response {
        self.request("GET", path, fields, b"").await
    }

    /// One request with a body of known length and its response.
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

    /// The next response, to a request that was not HEAD.
    pub(crate) async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    /// The next response, whole, with the interim ones before it.
    pub(crate) async fn response_to(&mut self, method: &str) -> Response {
        let mut response = self.head().await;
        let end = End::of_response(method, response.status, &response.fields);
        (response.body, response.trailers) = self.body(end).await;
        response
    }

    /// The head of the next response, with the interim ones before it.
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

    /// The next head, interim or not.
    pub(crate) async fn one_head(&mut self) -> Response {
        let head = self.until_empty_line("a response's head").await;
        Response::parse(&head)
    }

    async fn until_empty_line(&mut self, what: &str) -> Vec<u8> {
        loop {
            if let Some(at) = self.held.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = self.held.split_off(at + 4);
                return std::mem::replace(&mut self.held, rest);
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
            if let Some(at) = self.held.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.held[..at]).into_owned();
                self.held.drain(..at + 2);
                return line;
            }
            assert!(self.fill("a line").await, "ended in a line: {}", self.held.escape_ascii());
        }
    }

    async fn body(&mut self, end: End) -> (Vec<u8>, Fields) {
        match end {
            End::Length(length) => (self.exactly(length).await, Fields::default()),
            End::Close => (self.read_to_end().await, Fields::default()),
            End::Chunked => {
                let mut body = Vec::new();
                loop {
                    let line = self.line().await;
                    let size = usize::from_str_radix(&line, 16);
                    let size = size.unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
                    if size == 0 {
                        break;
                    }
                    body.extend(self.exactly(size).await);
                    assert_eq!(self.line().await, "", "a chunk's end");
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

    /// So many bytes.
    pub(crate) async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.held.len() < count {
            assert!(self.fill("bytes").await, "ended {} bytes early", count - self.held.len());
        }
        let rest = self.held.split_off(count);
        std::mem::replace(&mut self.held, rest)
    }

    /// So many bytes; or those that came before the connection ended or broke.
    pub(crate) async fn at_most(&mut self, count: usize) -> Result<Vec<u8>, Vec<u8>> {
        while self.held.len() < count {
            if self.try_fill("bytes").await.is_err() {
                return Err(std::mem::take(&mut self.held));
            }
        }
        let rest = self.held.split_off(count);
        Ok(std::mem::replace(&mut self.held, rest))
    }

    /// The head of a final response; `None` if the connection ended or broke before it.
    pub(crate) async fn try_head(&mut self) -> Option<Response> {
        while !self.held.windows(4).any(|w| w == b"\r\n\r\n") {
            self.try_fill("a response's head").await.ok()?;
        }
        Some(self.head().await)
    }

    /// Reads and drops so many bytes, without keeping them.
    pub(crate) async fn discard(&mut self, count: usize) {
        let mut left = count - count.min(self.held.len());
        self.held.drain(..count.min(self.held.len()));
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let room = left.min(buffer.len());
            let n = in_time("bytes", self.stream.read(&mut buffer[..room])).await.expect("read");
            assert!(n > 0, "ended {left} bytes early");
            left -= n;
        }
    }

    /// Everything up to the end, which must be a clean one.
    pub(crate) async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill("the end").await {}
        std::mem::take(&mut self.held)
    }

    /// Everything up to the end, clean or not.
    pub(crate) async fn read_to_any_end(&mut self) -> Vec<u8> {
        while self.try_fill("the end").await.is_ok() {}
        std::mem::take(&mut self.held)
    }

    /// Whatever comes first: the head of a response, or the end.
    pub(crate) async fn read_to_any_end_or_response(&mut self) -> Vec<u8> {
        while !self.held.windows(4).any(|w| w == b"\r\n\r\n") && self.try_fill("an answer").await.is_ok() {}
        std::mem::take(&mut self.held)
    }

    /// The other side has closed, cleanly, with nothing left to read.
    pub(crate) async fn assert_closed(&mut self) {
        let rest = self.read_to_end().await;
        assert_eq!(rest.escape_ascii().to_string(), "", "nothing before the end");
    }

    /// The other side has broken the connection off: a body that is not whole
    /// must not look whole.
    pub(crate) async fn assert_broken(&mut self) {
        loop {
            match self.try_fill("the connection to break").await {
                Ok(()) => {}
                Err(Ended::Reset) => return,
                Err(Ended::Closed) => panic!("ended as if all were well"),
            }
        }
    }

    /// No more will be sent, but read.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("shutdown");
    }

    /// Breaks the connection.
    pub(crate) fn reset(self) {
        SockRef::from(self.stream.socket()).set_linger(Some(std::time::Duration::ZERO)).expect("linger");
    }

    /// Nothing has come: neither bytes nor the end. Only what is there now is looked at.
    pub(crate) fn assert_quiet(&mut self) {
        assert_eq!(self.held.escape_ascii().to_string(), "");
        let mut byte = [0];
        match self.stream.socket().try_read(&mut byte) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => panic!("not quiet: {other:?} {byte:?}"),
        }
    }

    /// Reads more; false at a clean end.
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
