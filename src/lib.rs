//! Homing: a session-affinity reverse proxy.
//!
//! Where a request goes: [`proxy`] accepts a connection, reads a request with
//! [`h1`], asks [`affinity`] which backend its session is bound to, and
//! forwards it. What the answer depends on is a [`model::snapshot::Snapshot`],
//! written by [`control`] from the configuration ([`config`]) and the health of the
//! backends. `docs/architecture.md` has the picture.

pub mod admin;
pub mod affinity;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
#[cfg(test)]
mod fixture;
pub mod h1;
pub mod model;
pub mod proxy;
pub mod proxy_protocol;
pub mod telemetry;
pub mod tls;

/// An error and what caused it, on one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
