//! The configuration file: from TOML to [`Config`], or to everything that is
//! wrong with it.
//!
//! `reader` opens the parsed document with the keys of `schema`; `lower` turns it
//! into a [`Config`] in which nothing can be wrong any more. Neither stops at the
//! first problem: `diagnostics` draws all of them, each under its line, with how
//! to mend it.

mod diagnostics;
mod files;
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

/// A larger file is no configuration.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// A configuration that may be run.
#[derive(Debug)]
pub struct Loaded {
    /// What the file means.
    pub config: Config,
    /// What it hardly can have been meant to mean.
    pub warnings: Vec<Diagnostic>,
    /// The files it names whose content went into the configuration.
    pub files: Vec<PathBuf>,
}

/// Why a file could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// It could not be used.
    #[error("{0}")]
    Invalid(Diagnostics),
}

/// Reads and parses a file. Paths in it are relative to its directory.
///
/// # Errors
/// The file cannot be read, or there is an error in it.
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

/// Parses a text; `origin` names it in messages. Paths in it are relative to
/// the current directory, and the files it names (`seed_file`, `keys_file`)
/// are read.
///
/// # Errors
/// There is an error in it: the diagnostics hold all of them.
pub fn parse(text: &str, origin: &str) -> Result<Loaded, Diagnostics> {
    parse_with(text, origin, &Files::new(Path::new(""), &files::read_small))
}

/// As [`parse`], but whatever file the text names is taken to be `content`, and
/// certificates are not looked at: for tests and fuzzing, where no file is to
/// be touched.
///
/// # Errors
/// As [`parse`].
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
        lower::lower(&root, files)
    } else {
        // What could be recovered is not looked at: it would only be blamed
        // for what the broken line left out.
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
    Complaint::error(format!("not TOML: {message}")).at(span, "")
}
