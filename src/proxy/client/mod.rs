//! The client side: listening sockets, TLS handshakes, PROXY headers, and client connections.
//! Requests are handed to `request`.

pub(crate) mod acceptor;
pub(crate) mod admission;
mod connection;
mod handshake;
mod http2;
pub mod listener;
mod proxy_header;
mod refusal;
mod socket_file;
