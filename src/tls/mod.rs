//! TLS: certificates, session tickets and rustls configurations.
//!
//! ```text
//! server ─ identities (certificate, key, names) ─ x509
//!        └ tickets                              └ files
//! client ─ identities
//! ```
//!
//! A [`Server`] or [`Client`] holds a rustls configuration, which is replaced as a
//! whole when its files change. Connections keep the configuration that they started
//! with. Nothing here does network I/O.

mod certified;
mod client;
mod files;
mod identities;
mod identity;
mod server;
mod tickets;
mod x509;

#[cfg(test)]
mod fixture;

use std::fmt;
use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub use self::certified::Identity;
pub use self::client::{Client, ClientSettings, Roots, with_sessions};
pub use self::files::ReadFile;
pub use self::identities::Identities;
pub use self::server::{ClientAuth, Live, MinVersion, Server, ServerSettings, client_identity, read};
pub use self::x509::{CertificateFacts, Name};

/// Returns the crypto provider: aws-lc-rs, which prefers X25519MLKEM768.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}

/// The setting that a problem belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `certs`.
    Certs,
    /// `keys`.
    Keys,
    /// `tickets_file`.
    Tickets,
    /// `ca`, of clients or of backends.
    Ca,
    /// `client_cert`.
    ClientCert,
    /// `client_key`.
    ClientKey,
}

/// An error or warning about TLS files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting that names the file.
    pub part: Part,
    /// The message, in one line.
    pub message: String,
    /// How to fix it.
    pub help: Option<String>,
}

impl Problem {
    fn new(part: Part, message: impl Into<String>) -> Self {
        Self { part, message: message.into(), help: None }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds to the help.
    fn help_also(mut self, more: &str) -> Self {
        if let Some(help) = &mut self.help {
            help.push_str(", ");
            help.push_str(more);
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The result of checking the files for changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// No changes.
    Unchanged,
    /// The new content is in use. Holds its warnings.
    Replaced(Vec<Problem>),
    /// The new content is in use, but some certificate files are broken. The certificates that they had
    /// stay in use. Holds the errors, then the warnings.
    Partly(Vec<Problem>, Vec<Problem>),
    /// The new content is invalid, and the old stays in use. Holds the errors.
    Failed(Vec<Problem>),
}
