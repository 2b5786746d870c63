//! The data plane: accepts connections and forwards requests.
//!
//! ```text
//! event_loop ─ client ─ request ─ backend
//!                 │        │         │
//!                 │     worker, view │   (the worker's state; the snapshot with its pools)
//!                 └────── bridge ────┘   (HTTP/2 streams as HTTP/1.1)
//!                          wire          (bytes)
//! ```
//!
//! Start with `request/pipeline.rs`: it follows a request from top to bottom. A request writes
//! nothing that another worker reads, except the backends' live counters and the session table.

mod backend;
mod bridge;
pub mod client;
pub mod connection_counts;
mod descriptors;
pub mod event_loop;
mod handshake_slots;
mod in_use;
pub mod listener_settings;
mod notices;
mod request;
mod retry_budget;
mod view;
mod wire;
pub mod worker;
