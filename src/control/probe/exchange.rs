//! HTTP exchanges of checks.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::bounded::Bounded;

/// Maximum size of a response head in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Maximum size in bytes of all that a backend sends for a check.
const MAX_BYTES: usize = 64 * 1024;
/// Maximum number of interim responses (1xx) before the final one.
const MAX_INTERIM: u32 = 16;

/// Sends the request and reads the response head. Returns the status if the response is valid.
pub(super) async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Option<Request<Empty<Bytes>>>,
) -> Option<u16> {
    let mut request = request?;
    let interim = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&interim);
    hyper::ext::on_informational(&mut request, move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let stream = TokioIo::new(Bounded::new(stream, MAX_BYTES));
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(stream).await.ok()?;
    let mut connection = pin!(connection);
    let mut response = pin!(sender.send_request(request));
    let mut open = true;
    // Drive the connection here instead of in its own task, so that dropping the check drops
    // everything.
    let response = loop {
        tokio::select! {
            biased;
            response = &mut response => break response,
            _ = &mut connection, if open => open = false,
        }
    };
    let status = response.ok()?.status().as_u16();
    (interim.load(Ordering::Relaxed) <= MAX_INTERIM).then_some(status)
}

/// Sends the request and reads the response head. Returns the status if the response is valid.
pub(super) async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Option<Request<()>>,
) -> Option<u16> {
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    let (mut sender, connection) =
        builder.handshake::<_, &[u8]>(Bounded::new(stream, MAX_BYTES)).await.ok()?;
    let (response, _) = sender.send_request(request?, true).ok()?;
    let (mut connection, mut response) = (pin!(connection), pin!(response));
    let mut open = true;
    // As for HTTP/1.1: dropping the check drops everything.
    let response = loop {
        tokio::select! {
            biased;
            response = &mut response => break response,
            _ = &mut connection, if open => open = false,
        }
    };
    Some(response.ok()?.status().as_u16())
}
