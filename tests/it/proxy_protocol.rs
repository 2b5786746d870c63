//! The PROXY protocol: headers from clients and to backends.

mod incoming;
mod outgoing;
