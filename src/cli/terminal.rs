//! Where commands write. A closed pipe ends the output quietly, and `--log-json` turns what a
//! command says at the start into log lines.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;

use super::status;
use crate::config::{Diagnostic, LoadError};
use crate::telemetry::coloured;

/// The standard streams, as the command line asked for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terminal {
    /// Whether errors and warnings are log lines in JSON.
    pub(super) json: bool,
}

impl Terminal {
    /// Returns whether standard output takes colour.
    pub(super) fn colour() -> bool {
        coloured(&io::stdout())
    }

    /// Prints to standard output. A reader that has gone is not an error.
    ///
    /// # Errors
    /// Any other I/O error, such as a full disk.
    pub(super) fn print(text: &str) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }

    /// Prints to standard error. Nobody could be told of a failure.
    fn complain(text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// Reports the error of a command, with its causes.
    pub(super) fn failed(self, error: &(dyn Error + 'static)) {
        let text = crate::error_chain(error);
        if self.json {
            tracing::error!("{text}");
        } else {
            Self::complain(&format!("error: {text}\n"));
        }
    }

    /// Reports warnings about the configuration.
    pub(super) fn warnings(self, warnings: &[Diagnostic]) {
        for warning in warnings {
            if self.json {
                log(warning);
            } else {
                Self::complain(&format!("{}\n", warning.render(coloured(&io::stderr()))));
            }
        }
    }

    /// Reports why a configuration was refused. Returns the exit status.
    pub(super) fn refused(self, path: &Path, error: &LoadError) -> u8 {
        match error {
            LoadError::Invalid(diagnostics) if self.json => diagnostics.iter().for_each(log),
            LoadError::Read { .. } if self.json => tracing::error!("{}", crate::error_chain(error)),
            _ => Self::complain(&super::check::refusal(path, error, coloured(&io::stderr()))),
        }
        status::INVALID
    }
}

/// Logs a diagnostic on one line.
fn log(diagnostic: &Diagnostic) {
    let help: Vec<_> = diagnostic.help().collect();
    let (line, help) = (diagnostic.line(), (!help.is_empty()).then(|| help.join("; ")));
    let message = diagnostic.message();
    match diagnostic.severity() {
        crate::config::Severity::Error => tracing::error!(line, help, "{message}"),
        crate::config::Severity::Warning => tracing::warn!(line, help, "{message}"),
    }
}
