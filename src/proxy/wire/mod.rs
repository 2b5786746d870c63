//! Bytes: sockets, streams, buffers, deadlines, and copying a body from one side to the other.

pub(crate) mod buffer;
pub(crate) mod deadline;
pub(crate) mod descriptor_reserve;
pub(crate) mod pace;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod transfer;
pub(crate) mod websocket;
