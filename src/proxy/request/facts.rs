//! What a request's head says that matters after the bytes it was read from
//! are gone.

use std::net::IpAddr;

use super::client::Client;
use super::head;
use crate::h1::{Framing, MAX_METHOD, RequestHead, Version};
use crate::model::Config;

/// What a request's head says.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that have nothing to do with each other")]
pub(crate) struct RequestFacts {
    /// Bytes of the head that are still in the client's buffer.
    pub head_len: usize,
    /// How its body is framed.
    pub framing: Framing,
    /// Its version.
    pub version: Version,
    /// Its method, as far as that matters.
    pub method: Method,
    /// Would the client send another request?
    pub persistent: bool,
    /// Does the client wait to be asked for the body?
    pub expects_continue: bool,
    /// Does it ask for an upgrade?
    pub upgrade: bool,
    /// The client, through trusted proxies.
    pub client_ip: IpAddr,
    /// Did it come over TLS, here or at a trusted proxy?
    pub secure: bool,
    /// What the access log wants, if there is one, and a tunnel, if it becomes one.
    pub text: Option<Box<LogText>>,
}

/// The words of a request that the access log shows, and that found its route.
#[derive(Debug)]
pub(crate) struct LogText {
    pub method: String,
    pub host: String,
    /// Without the query, which may hold secrets.
    pub path: String,
}

/// Methods, as far as they differ for a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
    /// OPTIONS, TRACE, PUT, DELETE: may be sent twice (RFC 9110 §9.2.2).
    Idempotent,
    /// POST, PATCH and all that is unknown.
    Other,
}

impl RequestFacts {
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
            client_ip: config.client_ip.client_ip(client.origin.peer, head),
            secure: client.origin.secure.is_some() || (trusted && head::forwarded_as_https(head)),
            text: (keep_text || upgrade).then(|| Box::new(LogText::of(head))),
        }
    }

    /// May it be sent again after it may have been processed? Only what means
    /// the same twice, and has no body that is gone by then.
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
    /// The words of a request line, if these bytes begin with one, whatever follows.
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

    /// A method that has the same consequences for the response.
    pub(crate) fn like(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Idempotent => "PUT",
            Self::Other => "POST",
        }
    }
}
