//! The data plane: accepts connections, forwards requests.
//!
//! ```text
//! worker ─ listener ─ connection ─ request ─ exchange ─ reply, transfer
//!            │           │            │          └ tunnel ─ removal
//!            │           └ http2      ├ failed, retry
//!            └ proxy_header           └ view (snapshot, pools), facts, binding, head, error
//! ```
//!
//! `request.rs` is the pipeline, top to bottom; start there. Nothing here
//! writes what another worker reads on a request's way, but the backends'
//! live counters and the table.

mod acceptor;
mod announced;
mod binding;
mod buffer;
pub mod clients;
mod connection;
mod deadline;
mod descriptors;
mod error;
mod exchange;
mod facts;
mod failed;
mod finish;
mod handshake;
mod head;
mod hold;
mod http2;
mod io;
pub mod listener;
mod pace;
mod pool;
mod proxy_header;
mod removal;
mod reply;
mod request;
mod retry;
mod route;
mod socket;
mod socket_file;
mod transfer;
mod tunnel;
mod view;
mod websocket;
pub mod worker;
