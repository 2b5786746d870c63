//! Connections to backends, for requests and for health checks: names, sockets, PROXY headers, TLS.

pub mod connect_error;
pub mod dialer;
pub mod names;
pub mod socket;
mod tls;
