//! The backend side: connections to backends, pooled per worker.

pub(crate) mod announced;
pub(crate) mod asker;
mod http2;
pub(crate) mod lease;
pub(crate) mod owned;
pub(crate) mod pool;

pub(crate) use http2::Fault;
