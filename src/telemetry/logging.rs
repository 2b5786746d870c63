//! Homing's own log: what it does and what goes wrong, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Directives for the filter where the command line gives none, e.g.
/// `HOMING_LOG=info,homing::control=debug`.
pub const FILTER_VARIABLE: &str = "HOMING_LOG";

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter does not parse.
    #[error("the log filter {directives:?} is not valid")]
    Filter {
        /// As it was given.
        directives: String,
        /// What is wrong.
        source: ParseError,
    },
    /// A log is already running in this process.
    #[error("a log is already running in this process")]
    AlreadyRunning,
}

/// Starts the log. `directives` is a level (`debug`) or a filter
/// (`warn,homing::control=debug`); without it [`FILTER_VARIABLE`] counts, then
/// `info`.
pub fn init_logging(directives: Option<&str>, json: bool) -> Result<(), LoggingError> {
    let directives = match directives {
        Some(directives) => directives.to_owned(),
        None => std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| "info".to_owned()),
    };
    let filter = parse(directives)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(!json && io::stderr().is_terminal());
    let started = if json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|_| LoggingError::AlreadyRunning)
}

fn parse(directives: String) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder().parse(&directives).map_err(|source| LoggingError::Filter { directives, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_an_error_that_names_it() {
        let error = parse("homing=loud".to_owned()).expect_err("no such level");
        assert!(error.to_string().contains("homing=loud"), "{error}");
    }

    #[test]
    fn levels_and_directives_parse() {
        assert!(parse("debug".to_owned()).is_ok());
        assert!(parse("warn,homing::control=debug".to_owned()).is_ok());
    }
}
