//! A certificate that a listener can serve.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::x509::CertificateFacts;

/// A certificate with its chain and private key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate's file.
    pub file: PathBuf,
    /// The parsed certificate.
    pub facts: CertificateFacts,
    pub(super) key: Arc<CertifiedKey>,
}

impl Identity {
    /// Returns the certificate's names, for display.
    pub fn names(&self) -> String {
        let names: Vec<_> = self.facts.names.iter().map(ToString::to_string).collect();
        if names.is_empty() { "no name".to_owned() } else { names.join(", ") }
    }

    /// Returns the key's algorithm, for display: `RSA`, `ECDSA` …
    pub fn algorithm(&self) -> String {
        format!("{:?}", self.key.key.algorithm())
    }
}
