//! The backend side: connections to backends, pooled per worker.

pub(crate) mod announced;
pub(crate) mod asker;
pub(crate) mod connect_error;
mod http2;
pub(crate) mod lease;
pub(crate) mod pool;
mod tls;

pub(crate) use http2::Fault;
