//! Backends that answer every request with the same bytes. They cost as little as possible,
//! so that the benchmark measures the proxy.

use std::net::SocketAddr;

use anyhow::Result;

use crate::http_server::{Respond, Server};

/// A response with a body of fixed length.
#[derive(Debug)]
pub struct StaticResponse {
    response: Vec<u8>,
}

impl StaticResponse {
    /// Creates a 200 response with a body of `length` bytes.
    pub fn new(length: usize) -> Self {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
        let mut response = head.into_bytes();
        response.resize(response.len() + length, b'.');
        Self { response }
    }
}

impl Respond for StaticResponse {
    fn respond(&mut self, _listener: usize, _head: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.response);
    }
}

/// Serves all these addresses from one thread.
pub fn start(addresses: &[SocketAddr], body_length: usize) -> Result<Server> {
    Server::start(addresses, StaticResponse::new(body_length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_length_matches_content_length() {
        let mut out = vec![];
        StaticResponse::new(100).respond(0, b"", &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Length: 100"));
        assert_eq!(body.len(), 100);
    }
}
