//! Homing's own log, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// Environment variable with the log filter, e.g. `HOMING_LOG=info,homing::control=debug`. The
/// command line overrides it.
pub const FILTER_VARIABLE: &str = "HOMING_LOG";

/// An error while starting the log.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The log filter is invalid.
    #[error("invalid log filter {directives:?}")]
    Filter {
        /// The filter as given.
        directives: String,
        /// The parse error.
        source: ParseError,
    },
    /// A global logger is already installed in this process.
    #[error("a logger is already installed in this process")]
    AlreadyInstalled,
}

/// Starts the log. `directives` is a level (`debug`) or a filter (`warn,homing::control=debug`). It
/// defaults to [`FILTER_VARIABLE`], then to `info`.
pub fn init_logging(directives: Option<&str>, json: bool) -> Result<(), LoggingError> {
    let directives = match directives {
        Some(directives) => directives.to_owned(),
        None => std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| "info".to_owned()),
    };
    let filter = parse(directives)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(!json && coloured(&io::stderr()))
        // It would print them to the same stream, and panic if that is closed.
        .log_internal_errors(false);
    let started = if json { builder.json().try_init() } else { builder.try_init() };
    started.map_err(|_| LoggingError::AlreadyInstalled)
}

/// Returns whether to colour what goes to a stream: only on a terminal, and not if `NO_COLOR` is set
/// (<https://no-color.org>).
pub fn coloured(stream: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb") && stream.is_terminal()
}

fn parse(directives: String) -> Result<EnvFilter, LoggingError> {
    EnvFilter::builder().parse(&directives).map_err(|source| LoggingError::Filter { directives, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_filter_is_named_in_the_error() {
        let error = parse("homing=loud".to_owned()).expect_err("no such level");
        assert!(error.to_string().contains("homing=loud"), "{error}");
    }

    #[test]
    fn levels_and_directives_parse() {
        assert!(parse("debug".to_owned()).is_ok());
        assert!(parse("warn,homing::control=debug".to_owned()).is_ok());
    }
}
