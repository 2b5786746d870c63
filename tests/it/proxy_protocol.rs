//! The PROXY protocol, from proxies in front and to backends.

mod incoming;
mod outgoing;
