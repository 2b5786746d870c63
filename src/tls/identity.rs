//! Loads certificates and their private keys from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, RootCertStore};

use super::files::{self, Fingerprint, ReadFile};
use super::x509::CertificateFacts;
use super::{Part, Problem, provider};

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

/// Reads TLS files and collects errors and warnings.
pub(super) struct Loader<'a> {
    read: ReadFile<'a>,
    fingerprint: Fingerprint,
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// A private key with its file.
struct Key {
    file: PathBuf,
    signing: Arc<dyn SigningKey>,
    /// Whether its file is listed in `keys`.
    named: bool,
    used: bool,
}

/// A certificate chain with its file.
struct Chain {
    file: PathBuf,
    /// Whether the file matched a pattern.
    by_pattern: bool,
    certificates: Vec<CertificateDer<'static>>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(read: ReadFile<'a>) -> Self {
        Self { read, fingerprint: Fingerprint::new(), errors: Vec::new(), warnings: Vec::new() }
    }

    /// Returns a digest of all files read.
    pub(super) fn fingerprint(self) -> [u8; 32] {
        self.fingerprint.finish()
    }

    /// Reads a file, or adds an error and returns `None`.
    pub(super) fn content(&mut self, part: Part, path: &Path) -> Option<Vec<u8>> {
        match (self.read)(path) {
            Ok(content) => {
                self.fingerprint.add(path.as_os_str().as_encoded_bytes());
                self.fingerprint.add(&content);
                Some(content)
            }
            Err(error) => {
                let problem = Problem::new(part, format!("cannot read {}: {error}", path.display()));
                self.errors.push(match error.kind() {
                    std::io::ErrorKind::NotFound => {
                        problem.help("paths are relative to the directory of the configuration file")
                    }
                    std::io::ErrorKind::PermissionDenied => {
                        problem.help("make it readable for the user that Homing runs as")
                    }
                    _ => problem,
                });
                None
            }
        }
    }

    /// Loads certificates, each with its private key from the same file, from the file
    /// next to it (`x.key` for `x.pem`), or from one of `keys`.
    pub(super) fn identities(&mut self, certs: &[PathBuf], keys: &[PathBuf]) -> Vec<Identity> {
        let (mut chains, mut found) = (Vec::new(), Vec::new());
        for path in keys {
            self.keys_of(Part::Keys, path, true, &mut found);
        }
        for pattern in certs {
            for file in self.expand(pattern) {
                self.read_certificates(file, pattern, &mut chains, &mut found);
            }
        }
        let authorities: Vec<_> = chains.iter().map(|chain| chain.file.display().to_string()).collect();
        let identities = self.match_up(chains, &mut found);
        for key in found.iter().filter(|key| key.named && !key.used) {
            let message = format!("private key in {} does not match any certificate", key.file.display());
            self.warnings.push(Problem::new(Part::Keys, message));
        }
        if identities.is_empty() && self.errors.is_empty() {
            let problem = if authorities.is_empty() {
                Problem::new(Part::Certs, "no certificates found in these files")
                    .help("PEM files contain the line -----BEGIN CERTIFICATE-----")
            } else {
                // CA certificates without a key were skipped.
                let files = authorities.join(", ");
                Problem::new(Part::Certs, format!("only CA certificates without keys found in {files}"))
                    .help("add a server certificate and its private key")
            };
            self.errors.push(problem);
        }
        identities
    }

    fn expand(&mut self, pattern: &Path) -> Vec<PathBuf> {
        match files::expand(pattern) {
            Ok(files) if files.is_empty() => {
                let message = format!("no files match {}", pattern.display());
                self.errors.push(
                    Problem::new(Part::Certs, message)
                        .help("paths are relative to the directory of the configuration file"),
                );
                files
            }
            Ok(files) => files,
            Err(error) => {
                let message = format!("cannot list {}: {error}", pattern.display());
                self.errors.push(Problem::new(Part::Certs, message));
                Vec::new()
            }
        }
    }

    fn read_certificates(
        &mut self,
        file: PathBuf,
        pattern: &Path,
        chains: &mut Vec<Chain>,
        keys: &mut Vec<Key>,
    ) {
        let Some(content) = self.content(Part::Certs, &file) else { return };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        let Ok(certificates) = certificates else {
            let message = format!("invalid PEM in {}", file.display());
            self.errors.push(
                Problem::new(Part::Certs, message).help("the file may be truncated, or not in PEM format"),
            );
            return;
        };
        self.take_keys(Part::Certs, &file, &content, false, keys);
        let key_file = key_file_of(&file);
        if key_file != file
            && !keys.iter().any(|key| key.file == file || key.file == key_file)
            && key_file.exists()
        {
            self.keys_of(Part::Certs, &key_file, false, keys);
        }
        let by_pattern = pattern != file;
        if !certificates.is_empty() {
            chains.push(Chain { file, by_pattern, certificates });
        } else if !by_pattern {
            let message = format!("no certificate found in {}", file.display());
            self.errors.push(
                Problem::new(Part::Certs, message)
                    .help("PEM files contain the line -----BEGIN CERTIFICATE-----"),
            );
        }
    }

    /// Reads the private keys in a file, which must contain at least one.
    fn keys_of(&mut self, part: Part, path: &Path, named: bool, keys: &mut Vec<Key>) {
        let Some(content) = self.content(part, path) else { return };
        let before = (keys.len(), self.errors.len());
        self.take_keys(part, path, &content, named, keys);
        if before == (keys.len(), self.errors.len()) {
            let message = format!("no private key found in {}", path.display());
            self.errors.push(
                Problem::new(part, message).help("PEM files contain the line -----BEGIN PRIVATE KEY-----"),
            );
        }
    }

    fn take_keys(&mut self, part: Part, path: &Path, content: &[u8], named: bool, keys: &mut Vec<Key>) {
        if is_encrypted(content) {
            let message = format!("private key in {} is encrypted", path.display());
            let file = path.file_name().unwrap_or_default().display();
            self.errors.push(
                Problem::new(part, message)
                    .help(format!("decrypt it: openssl pkey -in {file} -out plain.key"))
                    .help_also("and make the result readable only for the user that Homing runs as"),
            );
            return;
        }
        for key in PrivateKeyDer::pem_slice_iter(content) {
            let signing = match key {
                Ok(der) => provider().key_provider.load_private_key(der).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match signing {
                Ok(signing) => keys.push(Key { file: path.to_owned(), signing, named, used: false }),
                Err(error) => {
                    let message = format!("invalid private key in {}: {error}", path.display());
                    self.errors.push(
                        Problem::new(part, message)
                            .help("use an RSA (2048 to 8192 bits), ECDSA or Ed25519 key"),
                    );
                }
            }
        }
    }

    fn match_up(&mut self, chains: Vec<Chain>, keys: &mut [Key]) -> Vec<Identity> {
        let mut identities: Vec<Identity> = Vec::new();
        for chain in chains {
            let Some(facts) = CertificateFacts::read(&chain.certificates[0]) else {
                let message = format!("invalid certificate in {}", chain.file.display());
                self.errors.push(Problem::new(Part::Certs, message));
                continue;
            };
            let mut certified = None;
            for key in keys.iter_mut() {
                let pair = CertifiedKey::new(chain.certificates.clone(), Arc::clone(&key.signing));
                match pair.keys_match() {
                    Ok(()) => {
                        key.used = true;
                        certified = Some(pair);
                        break;
                    }
                    Err(Error::InconsistentKeys(_)) => {}
                    Err(error) => {
                        let file = chain.file.display();
                        let message = format!("invalid certificate in {file}: {error}");
                        self.errors.push(Problem::new(Part::Certs, message));
                        break;
                    }
                }
            }
            match certified {
                Some(key) => {
                    let identity = Identity { file: chain.file, facts, key: Arc::new(key) };
                    self.take(&mut identities, identity);
                }
                // Skip CA certificates that happen to match a pattern.
                None if chain.by_pattern && facts.is_ca => {}
                // The key may be in a file that already has an error.
                None if keys.is_empty() && !self.errors.is_empty() => {}
                None => self.errors.push(without_key(&chain, keys)),
            }
        }
        identities
    }

    /// Adds a certificate. If it is a duplicate, keeps the one with the longer chain.
    fn take(&mut self, identities: &mut Vec<Identity>, new: Identity) {
        let same = identities.iter_mut().find(|known| known.key.cert[0] == new.key.cert[0]);
        if let Some(known) = same {
            if new.key.cert.len() > known.key.cert.len() {
                *known = new;
            }
            return;
        }
        self.warn_of_validity(Part::Certs, &new.file, &new.facts);
        if new.facts.names.is_empty() {
            let message = format!("certificate in {} has no host names", new.file.display());
            self.warnings.push(Problem::new(Part::Certs, message));
        }
        let algorithm = new.key.key.algorithm();
        let twin = identities.iter().find_map(|known| {
            let name = known.facts.names.iter().find(|name| new.facts.names.contains(name))?;
            (known.key.key.algorithm() == algorithm).then_some((known, name))
        });
        if let Some((known, name)) = twin {
            let (first, second) = (known.file.display(), new.file.display());
            self.warnings.push(
                Problem::new(Part::Certs, format!("{first} and {second} both have a certificate for {name}"))
                    .help(format!("{first} is used; remove the other")),
            );
        }
        identities.push(new);
    }

    pub(super) fn warn_of_validity(&mut self, part: Part, file: &Path, facts: &CertificateFacts) {
        let now = SystemTime::now();
        let (file, date) = (file.display(), |time| httpdate::fmt_http_date(time));
        if facts.not_after < now {
            let message = format!("certificate in {file} expired on {}", date(facts.not_after));
            self.warnings.push(Problem::new(part, message).help("clients will reject it; renew it"));
        } else if facts.not_before > now {
            let message = format!("certificate in {file} is not valid before {}", date(facts.not_before));
            self.warnings.push(Problem::new(part, message).help("clients will reject it until then"));
        }
    }

    /// Reads the CA certificates in a file.
    pub(super) fn roots(&mut self, path: &Path) -> Option<RootCertStore> {
        let content = self.content(Part::Ca, path)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&content) {
            let added = match certificate {
                Ok(certificate) => roots.add(certificate).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = added {
                let message = format!("invalid CA certificate in {}: {error}", path.display());
                self.errors.push(Problem::new(Part::Ca, message));
                return None;
            }
        }
        if roots.is_empty() {
            let message = format!("no certificate found in {}", path.display());
            self.errors.push(
                Problem::new(Part::Ca, message)
                    .help("PEM files contain the line -----BEGIN CERTIFICATE-----"),
            );
            return None;
        }
        Some(roots)
    }
}

impl Problem {
    fn help_also(mut self, more: &str) -> Self {
        if let Some(help) = &mut self.help {
            help.push_str(", ");
            help.push_str(more);
        }
        self
    }
}

/// Returns the path of the key file next to a certificate: `x.key` for `x.pem`.
pub(super) fn key_file_of(certificate: &Path) -> PathBuf {
    certificate.with_extension("key")
}

fn is_encrypted(content: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(content, needle).is_some();
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

fn without_key(chain: &Chain, keys: &[Key]) -> Problem {
    let file = &chain.file;
    let own = key_file_of(file);
    let near = keys.iter().find(|key| key.file == *file || key.file == own);
    let near = near.or_else(|| keys.iter().find(|key| key.named));
    let certificate = file.display();
    if let Some(key) = near {
        let message =
            format!("private key in {} does not match the certificate in {certificate}", key.file.display());
        return Problem::new(if key.named { Part::Keys } else { Part::Certs }, message)
            .help("use the private key that the certificate was issued for");
    }
    let own = own.file_name().unwrap_or_default().display().to_string();
    Problem::new(Part::Certs, format!("no private key found for the certificate in {certificate}"))
        .help(format!("add it to the same file, save it next to it as {own}, or list its file in `keys`"))
}

#[cfg(test)]
mod tests;
