//! What Homing says of itself: metrics, the access log and its own log.
//!
//! The hot path writes, everybody else reads. A worker counts in cells that
//! only its own thread writes ([`WorkerMetrics`], [`UpstreamMetrics`]); a scrape
//! sums them ([`Metrics::render`]). An access log line is formatted by the
//! worker and written by a thread of its own ([`AccessLog`]).

mod access_log;
mod counter;
pub mod exposition;
pub mod families;
mod histogram;
mod logging;
mod metrics;
mod outcomes;
mod process;
pub mod record;
mod refusal;
mod worker;

#[cfg(test)]
pub(crate) mod fixture;

pub use access_log::AccessLog;
pub use logging::{FILTER_VARIABLE, LoggingError, init_logging};
pub use metrics::Metrics;
pub(crate) use metrics::active_part;
pub use record::Record;
pub use refusal::Refusal;
pub use worker::{UpstreamMetrics, WorkerMetrics};
