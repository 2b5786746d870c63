//! TLS: certificates, tickets, and the rustls configurations made of them.
//!
//! ```text
//! server ─ identities (certificate, key, names) ─ x509
//!        └ tickets                              └ files
//! client ─ identities
//! ```
//!
//! A [`Server`] or [`Client`] is a place with a configuration in it, which is
//! replaced whole when its files change: connections go on with the one that
//! they began with. Nothing here does network I/O.

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

pub use self::client::{Client, ClientSettings, Roots, with_sessions};
pub use self::files::ReadFile;
pub use self::identities::Identities;
pub use self::identity::Identity;
pub use self::server::{ClientAuth, Live, MinVersion, Server, ServerSettings, client_identity, read};
pub use self::x509::{CertificateFacts, Name};

/// The cryptography: aws-lc-rs, X25519MLKEM768 before other key exchanges.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}

/// The setting that a problem is about.
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

/// What is wrong with the files, or with what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting that names the file.
    pub part: Part,
    /// What is wrong, in one line.
    pub message: String,
    /// How to mend it.
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
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What became of looking at the files again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// They are as they were.
    Unchanged,
    /// What they hold now is in use; these warnings come with it.
    Replaced(Vec<Problem>),
    /// They cannot be used; what was in use stays so.
    Failed(Vec<Problem>),
}
