//! Serves one request, from its head to the last byte of its response. Start with `pipeline.rs`.

mod answer;
mod binding;
pub(crate) mod client;
mod connection_auth;
mod error;
mod exchange;
mod facts;
mod failed;
mod finish;
mod head;
mod hold;
mod hops;
pub(crate) mod origin;
mod own_answer;
pub(crate) mod pipeline;
mod queue;
mod removal;
mod reply;
mod state;
mod tunnel;

pub(crate) use answer::{Answer, write_answer};
