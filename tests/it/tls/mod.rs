//! TLS from clients and to backends.

mod backends;
mod certificates;
mod clients;
mod handshakes;
mod requests;

use crate::harness::{Backend, Proxy, ProxyBuilder, RawClient, Response};

/// Returns a proxy whose listener has these keys of `tls`.
fn secure(keys: &str, backend: &Backend) -> ProxyBuilder {
    Proxy::builder().tls(keys).upstream("web", &[backend])
}

/// Sends a request for `host` on an open connection.
async fn ask(client: &mut RawClient, host: &str) -> Response {
    client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    client.response().await
}
