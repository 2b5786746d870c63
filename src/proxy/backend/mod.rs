//! The backend side.

pub(crate) mod announced;
pub(crate) mod http2;
pub(crate) mod pool;
