//! Byte-level I/O: sockets, streams, buffers, deadlines, and forwarding message bodies.

mod budget;
pub(crate) mod buffer;
pub(crate) mod deadline;
pub(crate) mod descriptor_reserve;
pub(crate) mod pace;
pub(crate) mod stream;
pub(crate) mod transfer;
pub(crate) mod websocket;
