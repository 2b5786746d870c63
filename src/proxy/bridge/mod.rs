//! Bridging between HTTP/2 streams and HTTP/1.1 text: heads, and bodies in each direction.

pub(crate) mod head;
pub(crate) mod inlet;
pub(crate) mod outlet;
pub(crate) mod request_text;
