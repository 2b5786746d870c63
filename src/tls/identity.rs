//! Certificates and their keys, as they are found in PEM files.

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

/// A certificate with its chain and key.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The file that the certificate is in.
    pub file: PathBuf,
    /// What it says of itself.
    pub facts: CertificateFacts,
    pub(super) key: Arc<CertifiedKey>,
}

impl Identity {
    /// Its names, for people.
    pub fn names(&self) -> String {
        let names: Vec<_> = self.facts.names.iter().map(ToString::to_string).collect();
        if names.is_empty() { "no name".to_owned() } else { names.join(", ") }
    }

    /// The algorithm of its key, for people: `RSA`, `ECDSA` …
    pub fn algorithm(&self) -> String {
        format!("{:?}", self.key.key.algorithm())
    }
}

/// Reads files and gathers what is wrong with them.
pub(super) struct Loader<'a> {
    read: ReadFile<'a>,
    fingerprint: Fingerprint,
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// A private key, and where it was found.
struct Key {
    file: PathBuf,
    signing: Arc<dyn SigningKey>,
    /// Was its file named by `keys`?
    named: bool,
    used: bool,
}

/// A certificate with its chain, and where it was found.
struct Chain {
    file: PathBuf,
    /// Was the file found by a pattern?
    by_pattern: bool,
    certificates: Vec<CertificateDer<'static>>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(read: ReadFile<'a>) -> Self {
        Self { read, fingerprint: Fingerprint::new(), errors: Vec::new(), warnings: Vec::new() }
    }

    /// A digest of all that was read.
    pub(super) fn fingerprint(self) -> [u8; 32] {
        self.fingerprint.finish()
    }

    /// A file's content, or the problem noted and `None`.
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
                        problem.help("let the user that Homing runs as read it")
                    }
                    _ => problem,
                });
                None
            }
        }
    }

    /// The certificates in these files, each with its key: in the same file,
    /// beside it (`x.key` of `x.pem`), or in one of `keys`.
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
            let message = format!("the key in {} fits none of the certificates", key.file.display());
            self.warnings.push(Problem::new(Part::Keys, message));
        }
        if identities.is_empty() && self.errors.is_empty() {
            let problem = if authorities.is_empty() {
                Problem::new(Part::Certs, "there is no certificate in these files")
                    .help("a PEM file has lines that say -----BEGIN CERTIFICATE-----")
            } else {
                // What fits a pattern, is an authority's and has no key was passed over.
                let files = authorities.join(", ");
                Problem::new(
                    Part::Certs,
                    format!("there are only authorities' certificates, without keys, in {files}"),
                )
                .help("put a server's certificate and its key there")
            };
            self.errors.push(problem);
        }
        identities
    }

    fn expand(&mut self, pattern: &Path) -> Vec<PathBuf> {
        match files::expand(pattern) {
            Ok(files) if files.is_empty() => {
                let message = format!("no file fits {}", pattern.display());
                self.errors.push(
                    Problem::new(Part::Certs, message)
                        .help("paths are relative to the directory of the configuration file"),
                );
                files
            }
            Ok(files) => files,
            Err(error) => {
                let message = format!("cannot look for {}: {error}", pattern.display());
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
            let message = format!("{} is damaged", file.display());
            self.errors
                .push(Problem::new(Part::Certs, message).help("it has to be PEM, whole and unchanged"));
            return;
        };
        self.take_keys(Part::Certs, &file, &content, false, keys);
        let beside = beside(&file);
        if beside != file && !keys.iter().any(|key| key.file == file || key.file == beside) && beside.exists()
        {
            self.keys_of(Part::Certs, &beside, false, keys);
        }
        let by_pattern = pattern != file;
        if !certificates.is_empty() {
            chains.push(Chain { file, by_pattern, certificates });
        } else if !by_pattern {
            let message = format!("there is no certificate in {}", file.display());
            self.errors.push(
                Problem::new(Part::Certs, message)
                    .help("a PEM file has lines that say -----BEGIN CERTIFICATE-----"),
            );
        }
    }

    /// The private keys in a file, of which there has to be one.
    fn keys_of(&mut self, part: Part, path: &Path, named: bool, keys: &mut Vec<Key>) {
        let Some(content) = self.content(part, path) else { return };
        let before = (keys.len(), self.errors.len());
        self.take_keys(part, path, &content, named, keys);
        if before == (keys.len(), self.errors.len()) {
            let message = format!("there is no private key in {}", path.display());
            self.errors.push(
                Problem::new(part, message)
                    .help("a PEM file has a line that says -----BEGIN PRIVATE KEY-----"),
            );
        }
    }

    fn take_keys(&mut self, part: Part, path: &Path, content: &[u8], named: bool, keys: &mut Vec<Key>) {
        if is_encrypted(content) {
            let message = format!("the private key in {} is encrypted", path.display());
            let file = path.file_name().unwrap_or_default().display();
            self.errors.push(
                Problem::new(part, message)
                    .help(format!("decrypt it: openssl pkey -in {file} -out plain.key"))
                    .help_also("and let only the user that Homing runs as read that"),
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
                    let message = format!("the private key in {} cannot be used: {error}", path.display());
                    self.errors.push(
                        Problem::new(part, message)
                            .help("keys are RSA (2048 to 8192 bits), ECDSA or Ed25519"),
                    );
                }
            }
        }
    }

    fn match_up(&mut self, chains: Vec<Chain>, keys: &mut [Key]) -> Vec<Identity> {
        let mut identities: Vec<Identity> = Vec::new();
        for chain in chains {
            let Some(facts) = CertificateFacts::read(&chain.certificates[0]) else {
                let message = format!("the certificate in {} cannot be read", chain.file.display());
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
                        let message = format!("the certificate in {file} cannot be used: {error}");
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
                // An authority's certificate among the files that fit a pattern.
                None if chain.by_pattern && facts.is_ca => {}
                // Its key may be in a file that has a problem of its own.
                None if keys.is_empty() && !self.errors.is_empty() => {}
                None => self.errors.push(without_key(&chain, keys)),
            }
        }
        identities
    }

    /// Takes a certificate; of one that is there twice, the longer chain.
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
            let message = format!("the certificate in {} names no host", new.file.display());
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
                Problem::new(Part::Certs, format!("both {first} and {second} are for {name}"))
                    .help(format!("clients get the one in {first}; remove the other")),
            );
        }
        identities.push(new);
    }

    pub(super) fn warn_of_validity(&mut self, part: Part, file: &Path, facts: &CertificateFacts) {
        let now = SystemTime::now();
        let (file, date) = (file.display(), |time| httpdate::fmt_http_date(time));
        if facts.not_after < now {
            let message = format!("the certificate in {file} expired on {}", date(facts.not_after));
            self.warnings.push(Problem::new(part, message).help("clients refuse it: renew it"));
        } else if facts.not_before > now {
            let message = format!("the certificate in {file} is valid from {}", date(facts.not_before));
            self.warnings.push(Problem::new(part, message).help("until then clients refuse it"));
        }
    }

    /// The authorities in a file.
    pub(super) fn roots(&mut self, path: &Path) -> Option<RootCertStore> {
        let content = self.content(Part::Ca, path)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&content) {
            let added = match certificate {
                Ok(certificate) => roots.add(certificate).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = added {
                let message = format!("a certificate in {} cannot be used: {error}", path.display());
                self.errors.push(Problem::new(Part::Ca, message));
                return None;
            }
        }
        if roots.is_empty() {
            let message = format!("there is no certificate in {}", path.display());
            self.errors.push(
                Problem::new(Part::Ca, message)
                    .help("a PEM file has lines that say -----BEGIN CERTIFICATE-----"),
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

/// Where the key of `x.pem` may be beside it: `x.key`.
pub(super) fn beside(certificate: &Path) -> PathBuf {
    certificate.with_extension("key")
}

fn is_encrypted(content: &[u8]) -> bool {
    let has = |needle: &[u8]| memchr::memmem::find(content, needle).is_some();
    has(b"-----BEGIN ENCRYPTED PRIVATE KEY-----") || has(b"Proc-Type: 4,ENCRYPTED")
}

fn without_key(chain: &Chain, keys: &[Key]) -> Problem {
    let file = &chain.file;
    let own = beside(file);
    let near = keys.iter().find(|key| key.file == *file || key.file == own);
    let near = near.or_else(|| keys.iter().find(|key| key.named));
    let certificate = file.display();
    if let Some(key) = near {
        let message =
            format!("the key in {} is not that of the certificate in {certificate}", key.file.display());
        return Problem::new(if key.named { Part::Keys } else { Part::Certs }, message)
            .help("certificate and key are made together: take those of the same date");
    }
    let own = own.file_name().unwrap_or_default().display().to_string();
    Problem::new(Part::Certs, format!("there is no private key for the certificate in {certificate}"))
        .help(format!("put it into the same file, beside it as {own}, or name its file in `keys`"))
}

#[cfg(test)]
mod tests;
