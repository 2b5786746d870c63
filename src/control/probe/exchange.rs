//! HTTP exchanges of checks.

use std::pin::pin;

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// Maximum size of a response head in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Sends the request and reads the response head. Returns the status if the response is valid.
pub(super) async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Option<Request<Empty<Bytes>>>,
) -> Option<u16> {
    let request = request?;
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await.ok()?;
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
    Some(response.ok()?.status().as_u16())
}

/// Sends the request and reads the response head. Returns the status if the response is valid.
pub(super) async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Option<Request<()>>,
) -> Option<u16> {
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    let (mut sender, connection) = builder.handshake::<_, &[u8]>(stream).await.ok()?;
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
