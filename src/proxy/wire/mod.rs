//! Bytes: sockets, streams, buffers, deadlines, transfers.

pub(crate) mod buffer;
pub(crate) mod deadline;
pub(crate) mod pace;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod transfer;
pub(crate) mod websocket;
