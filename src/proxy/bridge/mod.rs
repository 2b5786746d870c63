//! HTTP/2 streams as HTTP/1.1 text.

pub(crate) mod head;
pub(crate) mod inlet;
pub(crate) mod outlet;
pub(crate) mod request_text;
