//! The HTTP/2 of a check.

use std::pin::pin;

use h2::client::Builder;
use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};

use super::MAX_HEAD;

/// Sends the request and reads the response's head; its status, if it is valid.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Option<Request<()>>,
) -> Option<u16> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    let (mut sender, connection) = builder.handshake::<_, &[u8]>(stream).await.ok()?;
    let (response, _) = sender.send_request(request?, true).ok()?;
    let (mut connection, mut response) = (pin!(connection), pin!(response));
    let mut open = true;
    // As for HTTP/1: dropping the check drops everything.
    let response = loop {
        tokio::select! {
            biased;
            response = &mut response => break response,
            _ = &mut connection, if open => open = false,
        }
    };
    Some(response.ok()?.status().as_u16())
}
