//! Translates between HTTP/2 streams and HTTP/1.1 text: heads, and bodies in both directions.

pub(crate) mod head;
mod header_block;
pub(crate) mod inlet;
pub(crate) mod observer;
pub(crate) mod outlet;
pub(crate) mod request_text;
pub(crate) mod unsent;
