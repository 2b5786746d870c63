//! Homing: a session-affinity reverse proxy.
//!
//! The path of a request: [`proxy`] accepts a connection, reads a request with
//! [`h1`], asks [`affinity`] which backend its session is bound to, and forwards it.
//! The decision depends on a [`model::snapshot::Snapshot`], which [`control`]
//! publishes from the configuration ([`config`]) and the health of the backends.
//! See `docs/architecture.md` for an overview.

pub mod admin;
pub mod affinity;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod dial;
#[cfg(test)]
mod fixture;
pub mod h1;
pub mod model;
pub mod proxy;
pub mod proxy_protocol;
pub mod secret;
pub mod telemetry;
pub mod tls;

/// Formats an error and its causes on one line.
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

/// Returns an error if this process may not create `path` in its directory.
pub(crate) fn may_create(path: &std::path::Path) -> std::io::Result<()> {
    use rustix::fs::{Access, access};
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => std::path::Path::new("."),
    };
    Ok(access(directory, Access::WRITE_OK | Access::EXEC_OK)?)
}
