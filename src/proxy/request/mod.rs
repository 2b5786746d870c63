//! Serves one request, from its head to the last byte of its response. Start with `pipeline.rs`.

mod answer;
mod binding;
pub(crate) mod client;
mod error;
mod exchange;
mod facts;
mod failed;
mod finish;
mod head;
mod hold;
pub(crate) mod origin;
pub(crate) mod pipeline;
mod queue;
mod removal;
mod reply;
mod state;
mod tunnel;

pub(crate) use answer::{Answer, write_answer};
