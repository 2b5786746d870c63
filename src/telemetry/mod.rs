//! Metrics, the access log and Homing's own log.
//!
//! Each worker counts in cells that only its own thread writes ([`WorkerMetrics`],
//! [`UpstreamMetrics`]). A scrape sums them ([`Metrics::render`]). The worker formats access log
//! lines and a separate thread writes them ([`AccessLog`]).

mod access_log;
mod backend;
mod calendar;
mod class;
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
mod upstream_page;
mod worker;

#[cfg(test)]
pub(crate) mod fixture;

pub use access_log::AccessLog;
pub(crate) use access_log::timestamp;
pub use backend::BackendMetrics;
pub(crate) use calendar::rfc3339;
pub use logging::{FILTER_VARIABLE, LoggingError, coloured, init_logging};
pub use metrics::Metrics;
pub use record::Record;
pub use refusal::Refusal;
pub(crate) use upstream_page::active_part;
pub use worker::{UpstreamMetrics, WorkerMetrics};
