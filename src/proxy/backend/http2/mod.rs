//! HTTP/2 to backends (RFC 9113), bridged: see `proxy::bridge`.

mod fault;
pub(crate) mod link;
pub(crate) mod links;
mod stream;

pub(crate) use fault::{Fault, is_not_http2};
pub(crate) use link::not_chosen;
pub(crate) use links::{Links, unshared};
