//! Certificates for the TLS tests.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, CertifiedKey, KeyPair};

use super::files;
use super::identities::Identities;
use super::identity::Loader;

/// Creates a self-signed certificate for `names`, with an ECDSA key.
pub(super) fn certificate(names: &[&str]) -> CertifiedKey<KeyPair> {
    signed(names, KeyPair::generate().unwrap())
}

fn signed(names: &[&str], signing_key: KeyPair) -> CertifiedKey<KeyPair> {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let cert = CertificateParams::new(names).unwrap().self_signed(&signing_key).unwrap();
    CertifiedKey { cert, signing_key }
}

/// A temporary directory of PEM files.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Writes a certificate and its key to one file.
    pub(super) fn pair(&self, name: &str, names: &[&str]) -> PathBuf {
        self.write_pair(name, &certificate(names))
    }

    pub(super) fn rsa_pair(&self, name: &str, names: &[&str]) -> PathBuf {
        self.write_pair(name, &signed(names, KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap()))
    }

    pub(super) fn write_pair(&self, name: &str, pair: &CertifiedKey<KeyPair>) -> PathBuf {
        self.write(name, pair.cert.pem() + &pair.signing_key.serialize_pem())
    }

    pub(super) fn identities(&self, pattern: &str) -> Identities {
        let mut loader = Loader::new(&files::read);
        let list = loader.identities(&[self.path(pattern)], &[]);
        assert_eq!(loader.errors, []);
        Identities::new(list).unwrap()
    }
}

/// Returns the file name without its directory.
pub(super) fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}
