//! Why a proxy could not be started or reloaded.

use std::io;

use crate::control::ControlError;
use crate::model::Bind;

/// Why a proxy could not be started or reloaded.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A listener or the admin address could not be bound.
    #[error("cannot listen on {address}")]
    Bind {
        /// The configured address.
        address: Bind,
        /// The operating system's error.
        source: io::Error,
    },
    /// Certificates or private keys are missing or invalid.
    #[error("{0}")]
    Tls(String),
    /// The access log could not be opened.
    #[error("cannot open the access log")]
    AccessLog(#[source] io::Error),
    /// A thread or runtime could not be created.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The control plane rejected a reload.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The configuration file is invalid. The message holds its diagnostics.
    #[error("{0}")]
    Config(String),
    /// The proxy has no configuration file to reload.
    #[error("no configuration file to reload")]
    NoFile,
}
