//! The client side.

pub(crate) mod acceptor;
pub(crate) mod connection;
pub(crate) mod handshake;
pub(crate) mod http2;
pub mod listener;
pub(crate) mod proxy_header;
pub(crate) mod room;
mod socket_file;
