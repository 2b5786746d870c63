//! Parses and validates the configuration file.
//!
//! `reader` opens the parsed TOML with the keys of `schema`. `lower` turns it into
//! a valid [`Config`]. Neither stops at the first error: `diagnostics` renders all of
//! them, each with its source line and help.

mod diagnostics;
mod environment;
mod files;
mod found;
mod lower;
mod reader;
mod reference;
mod schema;
mod suggest;
mod units;

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::DeTable;

use self::diagnostics::{Complaint, Sink, Source};
pub use self::diagnostics::{Diagnostic, Diagnostics, Severity, render_all};
use self::files::Files;
use self::reader::Section;
pub use self::reference::{keys, reference};
pub use self::units::show_duration;
use crate::model::Config;

/// Maximum size of a configuration file.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// A valid configuration.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings about settings that are valid but probably unintended.
    pub warnings: Vec<Diagnostic>,
    /// The other files that were read, such as keys and certificates.
    pub files: Vec<PathBuf>,
}

/// Why a file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The I/O error.
        #[source]
        error: io::Error,
    },
    /// The file is not a valid configuration.
    #[error("{0}")]
    Invalid(Diagnostics),
}

/// Reads and parses a configuration file. Paths in it are relative to its directory.
///
/// # Errors
/// The file cannot be read or is invalid.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let bytes = files::read_regular(path, MAX_FILE_BYTES)
        .map_err(|error| LoadError::Read { path: path.to_owned(), error })?;
    let text = String::from_utf8(bytes).map_err(|error| LoadError::Read {
        path: path.to_owned(),
        error: io::Error::new(io::ErrorKind::InvalidData, error),
    })?;
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    parse_with(&text, &path.display().to_string(), &Files::new(base, &files::read_small))
        .map_err(LoadError::Invalid)
}

/// Parses a configuration; `origin` is its name in diagnostics. Paths in it are
/// relative to the current directory. Files it names (`seed_file`, `keys_file`)
/// are read.
///
/// # Errors
/// The configuration is invalid. The diagnostics hold all errors.
pub fn parse(text: &str, origin: &str) -> Result<Loaded, Diagnostics> {
    parse_with(text, origin, &Files::new(Path::new(""), &files::read_small))
}

/// Like [`parse`], but touches no files: every file the configuration names reads
/// as `content`, and certificates are not loaded. For tests and fuzzing.
///
/// # Errors
/// Same as [`parse`].
pub fn parse_sealed_off(text: &str, origin: &str, content: &[u8]) -> Result<Loaded, Diagnostics> {
    let read = |_: &Path| Ok(content.to_vec());
    parse_with(text, origin, &Files::new(Path::new(""), &read).without_tls())
}

fn parse_with(text: &str, origin: &str, files: &Files<'_>) -> Result<Loaded, Diagnostics> {
    let source = Arc::new(Source { origin: origin.to_owned(), text: text.to_owned() });
    let sink = RefCell::new(Sink::default());
    let (document, errors) = DeTable::parse_recoverable(text);
    let config = if errors.is_empty() {
        let root = Section::open(document.get_ref(), 0..0, &schema::FILE, &sink);
        let config = lower::lower(&root, files);
        environment::refuse_variables(document.get_ref(), &mut sink.borrow_mut());
        config
    } else {
        // Skip the recovered part: its errors would only be follow-ups of the syntax error.
        for error in errors {
            sink.borrow_mut().push(syntax_error(&error, text));
        }
        None
    };
    let sink = sink.into_inner();
    let failed = sink.failed();
    let diagnostics = sink.into_diagnostics(&source);
    match config {
        Some(config) if !failed => Ok(Loaded { config, warnings: diagnostics, files: files.named() }),
        _ => Err(Diagnostics::from(diagnostics)),
    }
}

fn syntax_error(error: &toml::de::Error, text: &str) -> Complaint {
    let message = error.message().lines().collect::<Vec<_>>().join(", ");
    let span = error.span().unwrap_or(text.len()..text.len());
    Complaint::error(format!("invalid TOML: {message}")).at(span, "")
}
