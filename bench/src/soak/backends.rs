//! Backends: servers whose response length depends on the path, and a WebSocket echo
//! server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::http_server::{Respond, field};

/// Body length of a response to `/large`, in bytes.
pub const LARGE: usize = 1 << 20;
/// Body length of any other response, in bytes.
pub const SMALL: usize = 200;

/// GUID that is hashed with a WebSocket key (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Answers with a body whose length depends on the path.
pub struct ByPath;

impl Respond for ByPath {
    fn respond(&mut self, _: usize, head: &[u8], out: &mut Vec<u8>) {
        let large = head.split(|byte| *byte == b' ').nth(1).is_some_and(|path| path.starts_with(b"/large"));
        let length = if large { LARGE } else { SMALL };
        out.extend_from_slice(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").as_bytes());
        out.resize(out.len() + length, b'x');
    }
}

/// Starts a server that upgrades every connection and echoes all bytes until the program
/// exits.
pub fn echo(address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    std::thread::Builder::new().name("echo".into()).spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // If a connection fails, the client notices.
            let _ = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || upgrade(stream));
        }
    })?;
    Ok(())
}

fn upgrade(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = [0; 16 * 1024];
    let mut held = vec![];
    while !held.windows(4).any(|w| w == b"\r\n\r\n") {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        held.extend_from_slice(&buffer[..n]);
    }
    let key = String::from_utf8_lossy(field(&held, "sec-websocket-key").unwrap_or_default());
    let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    let accept = format!("Sec-WebSocket-Accept: {}", BASE64_STANDARD.encode(proof));
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{accept}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..n])?;
    }
}
