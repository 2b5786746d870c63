//! Facts from a request head that are needed after its bytes are gone.

use std::net::IpAddr;

use super::client::Client;
use super::head;
use crate::h1::{Framing, MAX_METHOD, RequestHead, Version};
use crate::model::Config;

/// Facts from a request head.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are independent")]
pub(crate) struct RequestFacts {
    /// Bytes of the head that are still in the client's buffer.
    pub head_len: usize,
    /// The framing of the body.
    pub framing: Framing,
    /// The HTTP version.
    pub version: Version,
    /// The kind of method.
    pub method: Method,
    /// Whether the client may send another request on the connection.
    pub persistent: bool,
    /// Whether the client waits for a 100 before it sends the body (`Expect: 100-continue`).
    pub expects_continue: bool,
    /// Whether the request asks for a WebSocket.
    pub upgrade: bool,
    /// Whether the request authenticates its connection (NTLM, Negotiate).
    pub connection_auth: bool,
    /// The client's address, as seen through trusted proxies.
    pub client_ip: IpAddr,
    /// Whether the request came over TLS, here or at a trusted proxy.
    pub secure: bool,
    /// The text for the access log and for a tunnel's route. `None` if neither needs it.
    pub text: Option<Box<LogText>>,
}

/// The parts of a request that the access log shows and that select its route.
#[derive(Debug)]
pub(crate) struct LogText {
    pub method: String,
    pub host: String,
    /// The path without the query, which may contain secrets.
    pub path: String,
}

/// The methods that a proxy must tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    /// OPTIONS, TRACE, PUT, DELETE: safe to send twice (RFC 9110 §9.2.2).
    Idempotent,
    /// POST, PATCH and unknown methods.
    Other,
}

impl RequestFacts {
    /// Collects the facts of a head of `len` bytes. `keep_text`: the access log is enabled.
    pub(crate) fn new(
        head: &RequestHead<'_>,
        len: usize,
        client: &Client,
        config: &Config,
        keep_text: bool,
    ) -> Self {
        let trusted = config.client_ip.trusts(client.origin.peer);
        let upgrade = head::asks_for_websocket(head);
        Self {
            head_len: len,
            framing: head.framing,
            version: head.version,
            method: Method::of(head.method),
            persistent: head.persistent(),
            expects_continue: head.expects_continue,
            upgrade,
            connection_auth: head.connection_auth,
            client_ip: config.client_ip.client_ip(client.origin.peer, head),
            secure: client.origin.secure.is_some() || (trusted && head::forwarded_as_https(head)),
            text: (keep_text || upgrade).then(|| Box::new(LogText::of(head))),
        }
    }

    /// Returns whether the request may be sent again although a backend may have processed it. It
    /// must be idempotent and have no body, which would be gone by then.
    pub(crate) fn replayable(&self) -> bool {
        self.method != Method::Other && self.framing == Framing::None && !self.upgrade
    }
}

impl LogText {
    fn of(head: &RequestHead<'_>) -> Self {
        let path = head.target.path_and_query();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        Self { method: head.method.into(), host: head.host.into(), path: path.into() }
    }
}

impl LogText {
    /// Reads the request line that these bytes start with, whether or not the rest is valid.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let start = bytes.iter().position(|byte| !b"\r\n".contains(byte))?;
        let line = bytes[start..].split(|byte| b"\r\n".contains(byte)).next()?;
        let mut words = line.split(|byte| *byte == b' ');
        let (method, target) = (words.next()?, words.next()?);
        let path = target.split(|byte| *byte == b'?').next()?;
        let readable = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_graphic);
        if !(readable(method) && readable(path)) || method.len() > MAX_METHOD {
            return None;
        }
        let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        Some(Self { method: text(method), host: "-".to_owned(), path: text(path) })
    }
}

impl Method {
    fn of(method: &str) -> Self {
        match method {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "OPTIONS" | "TRACE" | "PUT" | "DELETE" => Self::Idempotent,
            _ => Self::Other,
        }
    }

    /// Returns a method whose responses follow the same rules.
    pub(crate) fn like(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Idempotent => "PUT",
            Self::Other => "POST",
        }
    }
}
