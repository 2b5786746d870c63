//! One request, from its head to the last byte of its response. Start with `pipeline.rs`.

pub(crate) mod binding;
pub(crate) mod error;
pub(crate) mod exchange;
pub(crate) mod facts;
mod failed;
mod finish;
pub(crate) mod head;
mod hold;
pub(crate) mod pipeline;
mod removal;
mod reply;
mod tunnel;
