//! The responses that a backend generates.

use std::sync::atomic::Ordering;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{Seen, Shared};

/// Returns the default response: 200, the backend's name, the request's `X-Number`, the session
/// fields and the extra fields.
pub(super) fn default(shared: &Shared, request: Option<&Seen>) -> String {
    let is_head = request.is_some_and(|seen| seen.line.starts_with("HEAD "));
    let number = request.and_then(|seen| seen.field("x-number"));
    let mut body = format!("hello from {}\n", shared.name);
    if let Some(number) = number {
        body.push_str(number);
    }
    let mut head =
        format!("HTTP/1.1 200 OK\r\nX-Backend: {}\r\nContent-Length: {}\r\n", shared.name, body.len());
    if let Some(number) = number {
        head.push_str("X-Number: ");
        head.push_str(number);
        head.push_str("\r\n");
    }
    if let (Some(cookie), Some(request)) = (&shared.sessions, request) {
        head.push_str(&session_fields(shared, cookie, request));
    }
    for line in shared.fields.lock().iter() {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    if is_head { head } else { head + &body }
}

/// Returns a 101 with the `Sec-WebSocket-Accept` for the request's key (RFC 6455 §4.2.2).
pub(super) fn accept_websocket(request: Option<&Seen>) -> String {
    let key = request.and_then(|seen| seen.field("sec-websocket-key")).unwrap_or_default();
    let proof = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let proof = BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, proof.as_bytes()));
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {proof}\r\n\r\n"
    )
}

/// Returns the field lines about the request's session.
fn session_fields(shared: &Shared, cookie: &str, request: &Seen) -> String {
    let pairs = request.fields.all("cookie");
    let pair = |pair: &str| pair.trim().strip_prefix(cookie)?.strip_prefix('=').map(str::to_owned);
    let id = pairs.iter().flat_map(|line| line.split(';')).find_map(pair);
    match id {
        Some(id) if shared.known.lock().contains(&id) => {
            format!("X-Session: {id}\r\nX-Session-State: known\r\n")
        }
        id => {
            let state = if id.is_some() { "lost" } else { "new" };
            let number = shared.minted.fetch_add(1, Ordering::Relaxed);
            let id = format!("{}-{number}-{}", shared.name, fastrand::u32(..));
            shared.known.lock().insert(id.clone());
            format!(
                "X-Session: {id}\r\nX-Session-State: {state}\r\nSet-Cookie: {cookie}={id}; Path=/; HttpOnly\r\n"
            )
        }
    }
}
