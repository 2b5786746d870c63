//! A minimal browser: a cookie jar and keep-alive connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::interrupt;
use crate::stateful_backend::{BACKEND_FIELD, SESSION_FIELD, Verdict};

/// Maximum time for a response.
const PATIENCE: Duration = Duration::from_secs(10);

/// Pause after a refused connection, before the next attempt.
const AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// One user and their session.
#[derive(Debug)]
pub struct Session {
    /// Number of the session. It also determines the user's address.
    pub number: u32,
    jar: Vec<(String, String)>,
    requests: usize,
}

impl Session {
    /// Creates a user without cookies.
    pub fn new(number: u32) -> Self {
        Self { number, jar: vec![], requests: 0 }
    }

    fn request(&self) -> String {
        let [_, a, b, c] = self.number.to_be_bytes();
        let cookies: Vec<String> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookie =
            if cookies.is_empty() { String::new() } else { format!("Cookie: {}\r\n", cookies.join("; ")) };
        format!("GET / HTTP/1.1\r\nHost: bench\r\nX-Forwarded-For: 10.{a}.{b}.{c}\r\n{cookie}\r\n")
    }

    /// Stores a cookie (RFC 6265 §5.3, for a single host and path).
    fn set_cookie(&mut self, line: &str) {
        let mut parts = line.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else { return };
        self.jar.retain(|(known, _)| known != name);
        let expired = parts.any(|attribute| attribute.eq_ignore_ascii_case("max-age=0"));
        if !expired && !value.is_empty() {
            self.jar.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// A 200 response from a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Number of the backend that answered.
    pub backend: u8,
    /// The backend's verdict on the session.
    pub verdict: Verdict,
}

/// Keep-alive connections, one per proxy.
#[derive(Debug)]
pub struct Client {
    proxies: Vec<(SocketAddr, Option<Connection>)>,
}

impl Client {
    /// Creates a client without open connections.
    pub fn new(proxies: &[SocketAddr]) -> Self {
        Self { proxies: proxies.iter().map(|address| (*address, None)).collect() }
    }

    /// Sends one request of a session, alternating between the proxies. The error is what a
    /// user would see, in a few words.
    pub fn ask(&mut self, session: &mut Session) -> Result<Answer, String> {
        let turn = session.requests % self.proxies.len();
        session.requests += 1;
        let (address, kept) = &mut self.proxies[turn];
        let request = session.request();
        if let Some(mut connection) = kept.take() {
            match connection.exchange(&request, session) {
                // Closed while idle. A browser resends a GET, and so does this client.
                Err(Failure::Unanswered) => {}
                result => return keep(kept, connection, result),
            }
        }
        let mut connection = Connection::open(*address).map_err(|kind| {
            interrupt::nap(AFTER_REFUSAL);
            format!("{kind}")
        })?;
        let result = connection.exchange(&request, session);
        keep(kept, connection, result)
    }
}

fn keep(
    kept: &mut Option<Connection>,
    connection: Connection,
    result: Result<(Answer, bool), Failure>,
) -> Result<Answer, String> {
    match result {
        Ok((answer, keep_alive)) => {
            *kept = keep_alive.then_some(connection);
            Ok(answer)
        }
        Err(Failure::Unanswered) => Err("connection closed without a response".into()),
        Err(Failure::Status(status, keep_alive)) => {
            *kept = keep_alive.then_some(connection);
            Err(status.to_string())
        }
        Err(Failure::Other(error)) => Err(format!("{error:#}")),
    }
}

/// The reason why there is no [`Answer`].
#[derive(Debug)]
enum Failure {
    /// The connection closed before the first byte of a response.
    Unanswered,
    /// A response with another status than 200, and whether the connection can be reused.
    Status(u16, bool),
    /// Anything else.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self, ErrorKind> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| error.kind())?;
        let prepared = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(PATIENCE)));
        prepared.map_err(|error| error.kind())?;
        Ok(Self { stream, buffer: vec![] })
    }

    fn exchange(&mut self, request: &str, session: &mut Session) -> Result<(Answer, bool), Failure> {
        self.buffer.clear();
        if self.stream.write_all(request.as_bytes()).is_err() {
            return Err(Failure::Unanswered);
        }
        loop {
            let mut chunk = [0; 4096];
            let read = match self.stream.read(&mut chunk) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(Failure::Other(anyhow::anyhow!("timed out")));
                }
                Err(_) => 0,
            };
            if read == 0 && self.buffer.is_empty() {
                return Err(Failure::Unanswered);
            }
            self.buffer.extend_from_slice(&chunk[..read]);
            if let Some(response) = Response::parse(&self.buffer, session)? {
                return response.finish();
            }
            if read == 0 {
                return Err(Failure::Other(anyhow::anyhow!("response truncated")));
            }
        }
    }
}

/// The relevant parts of a complete response.
struct Response {
    status: u16,
    keep_alive: bool,
    backend: Option<u8>,
    verdict: Option<Verdict>,
}

impl Response {
    /// Parses a response and stores its cookies in the session. Returns `None` if the
    /// response is incomplete.
    fn parse(bytes: &[u8], session: &mut Session) -> Result<Option<Self>> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(bytes).context("invalid response")? else {
            return Ok(None);
        };
        let value = |name: &str| {
            head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
        };
        let number =
            |name| value(name).and_then(|value| std::str::from_utf8(value).ok()?.parse::<u64>().ok());
        let content_length = number("content-length");
        if let Some(body) = content_length
            && usize::try_from(body)? > bytes.len() - length
        {
            return Ok(None);
        }
        let status = head.code.context("missing status")?;
        if status == 200 {
            ensure!(content_length.is_some(), "200 without Content-Length");
        }
        let close = value("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let response = Self {
            status,
            keep_alive: content_length.is_some() && !close && head.version == Some(1),
            backend: number(BACKEND_FIELD).and_then(|number| u8::try_from(number).ok()),
            verdict: value(SESSION_FIELD).and_then(Verdict::parse),
        };
        for field in head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("set-cookie")) {
            session.set_cookie(std::str::from_utf8(field.value).context("cookie is not UTF-8")?);
        }
        Ok(Some(response))
    }

    fn finish(self) -> Result<(Answer, bool), Failure> {
        if self.status != 200 {
            return Err(Failure::Status(self.status, self.keep_alive));
        }
        match (self.backend, self.verdict) {
            (Some(backend), Some(verdict)) => Ok((Answer { backend, verdict }, self.keep_alive)),
            _ => Err(Failure::Other(anyhow::anyhow!("200 that did not come from a backend"))),
        }
    }
}

/// Checks the numbers of sessions and clients.
pub fn check_numbers(sessions: u32, clients: usize) -> Result<()> {
    if sessions == 0 || sessions >= 1 << 23 || clients == 0 || clients > 1024 {
        bail!("expected 1 to {} sessions and 1 to 1024 clients", (1 << 23) - 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(text: &str, session: &mut Session) -> Option<Response> {
        Response::parse(text.as_bytes(), session).unwrap()
    }

    #[test]
    fn jar_replaces_keeps_and_expires_cookies() {
        let mut session = Session::new(0x0001_0203);
        assert!(session.request().contains("X-Forwarded-For: 10.1.2.3\r\n\r\n"));
        session.set_cookie("SID=1; Path=/; HttpOnly");
        session.set_cookie("other=x");
        session.set_cookie("SID=2; Path=/");
        assert!(session.request().contains("Cookie: other=x; SID=2\r\n"));
        session.set_cookie("other=x; Max-Age=0");
        assert!(session.request().contains("Cookie: SID=2\r\n"));
    }

    #[test]
    fn response_is_complete_with_its_body() {
        let mut session = Session::new(1);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-Backend: 4\r\nx-session: broken\r\nSet-Cookie: SID=7\r\n\r\n";
        assert!(response(&head[..40], &mut session).is_none());
        assert!(response(&format!("{head}ok"), &mut session).is_none());
        let (answer, keep_alive) = response(&format!("{head}ok\n"), &mut session).unwrap().finish().unwrap();
        assert_eq!(answer, Answer { backend: 4, verdict: Verdict::Broken });
        assert!(keep_alive);
        assert_eq!(session.jar, [("SID".to_owned(), "7".to_owned())]);
    }

    #[test]
    fn error_page_is_a_failure_with_any_framing() {
        let mut session = Session::new(1);
        let bare =
            response("HTTP/1.0 503 Service Unavailable\r\nConnection: close\r\n\r\n<html>", &mut session);
        assert!(matches!(bare.unwrap().finish(), Err(Failure::Status(503, false))));
        let framed = response("HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", &mut session);
        assert!(matches!(framed.unwrap().finish(), Err(Failure::Status(502, true))));
        let stranger = response("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &mut session);
        assert!(matches!(stranger.unwrap().finish(), Err(Failure::Other(_))));
    }
}
