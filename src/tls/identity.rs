//! Loads certificates and their private keys from PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, RootCertStore};

use super::certified::Identity;
use super::files::{self, Fingerprint, ReadFile, has_encrypted_key, key_file_of};
use super::x509::CertificateFacts;
use super::{Part, Problem, provider};

/// Reads TLS files and collects errors and warnings.
pub(super) struct Loader<'a> {
    read: ReadFile<'a>,
    fingerprint: Fingerprint,
    /// The certificates in use and the files matched now, while files are refreshed.
    refresh: Option<Refresh<'a>>,
    /// Errors of single certificate files, which do not affect the others while files are refreshed.
    pub(super) kept: Vec<Problem>,
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// What a refresh compares with.
struct Refresh<'a> {
    used: &'a [Identity],
    /// The certificate files, in order.
    files: Vec<PathBuf>,
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
        Self {
            read,
            fingerprint: Fingerprint::new(),
            refresh: None,
            kept: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Keeps the certificates of `used` whose files are broken now.
    pub(super) fn refreshing(mut self, used: &'a [Identity]) -> Self {
        self.refresh = Some(Refresh { used, files: Vec::new() });
        self
    }

    /// Adds an error of a certificate file.
    fn file_error(&mut self, problem: Problem) {
        if self.refresh.is_some() { self.kept.push(problem) } else { self.errors.push(problem) }
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

    /// Reads a certificate file, or adds an error of this file and returns `None`.
    fn file_content(&mut self, path: &Path) -> Option<Vec<u8>> {
        let content = self.content(Part::Certs, path);
        if content.is_none()
            && let Some(problem) = self.errors.pop()
        {
            self.file_error(problem);
        }
        content
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
                if let Some(refresh) = &mut self.refresh {
                    refresh.files.push(file.clone());
                }
                self.read_certificates(file, pattern, &mut chains, &mut found);
            }
        }
        let authorities: Vec<_> = chains.iter().map(|chain| chain.file.display().to_string()).collect();
        let identities = self.match_up(chains, &mut found);
        let identities = self.keep_broken(identities);
        for key in found.iter().filter(|key| key.named && !key.used) {
            let message = format!("private key in {} does not match any certificate", key.file.display());
            self.warnings.push(Problem::new(Part::Keys, message));
        }
        if identities.is_empty() && self.errors.is_empty() && self.kept.is_empty() {
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
        let Some(content) = self.file_content(&file) else { return };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        let Ok(certificates) = certificates else {
            let message = format!("invalid PEM in {}", file.display());
            self.file_error(
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
            self.file_error(
                Problem::new(Part::Certs, message)
                    .help("PEM files contain the line -----BEGIN CERTIFICATE-----"),
            );
        } else if memchr::memmem::find(&content, b"-----BEGIN ").is_none() {
            // Other PEM files, such as keys and signing requests, may match a pattern. An empty
            // file is a certificate that was damaged.
            let what = if content.trim_ascii().is_empty() { "is empty" } else { "is not a PEM file" };
            let message = format!("{} {what}", file.display());
            self.file_error(Problem::new(Part::Certs, message).help(format!(
                "write the certificate again, or remove the file; it matches {}",
                pattern.display()
            )));
        }
    }

    /// Returns the certificates with those in use whose files exist, but have none now. Each has an
    /// error.
    fn keep_broken(&mut self, mut identities: Vec<Identity>) -> Vec<Identity> {
        let Some(Refresh { used, files }) = &self.refresh else { return identities };
        let position = |path: &Path| files.iter().position(|file| file == path);
        for old in *used {
            let Some(at) = position(&old.file) else { continue };
            let same = |new: &Identity| new.file == old.file || new.key.cert[0] == old.key.cert[0];
            if identities.iter().any(same) {
                continue;
            }
            let before = identities.iter().take_while(|new| position(&new.file).is_some_and(|p| p < at));
            let before = before.count();
            let message = format!(
                "{} has no certificate with its key now; the old one stays in use for {}",
                old.file.display(),
                old.names()
            );
            self.kept.push(Problem::new(Part::Certs, message));
            // Its removal later is a change, even if the file could not be read.
            self.fingerprint.add(&old.key.cert[0]);
            identities.insert(before, old.clone());
        }
        identities
    }

    /// Reads the private keys in a file, which must contain at least one.
    fn keys_of(&mut self, part: Part, path: &Path, named: bool, keys: &mut Vec<Key>) {
        let content = if named { self.content(part, path) } else { self.file_content(path) };
        let Some(content) = content else { return };
        let before = (keys.len(), self.errors.len(), self.kept.len());
        self.take_keys(part, path, &content, named, keys);
        if before == (keys.len(), self.errors.len(), self.kept.len()) {
            let message = format!("no private key found in {}", path.display());
            self.key_error(
                named,
                Problem::new(part, message).help("PEM files contain the line -----BEGIN PRIVATE KEY-----"),
            );
        }
    }

    /// Adds an error of a key file: one listed in `keys` may belong to any certificate.
    fn key_error(&mut self, named: bool, problem: Problem) {
        if named { self.errors.push(problem) } else { self.file_error(problem) }
    }

    fn take_keys(&mut self, part: Part, path: &Path, content: &[u8], named: bool, keys: &mut Vec<Key>) {
        if has_encrypted_key(content) {
            let message = format!("private key in {} is encrypted", path.display());
            let file = path.file_name().unwrap_or_default().display();
            self.key_error(
                named,
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
                    self.key_error(
                        named,
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
                self.file_error(Problem::new(Part::Certs, message));
                continue;
            };
            if !facts.is_v3 {
                self.file_error(outdated(&chain.file));
                continue;
            }
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
                        self.file_error(Problem::new(Part::Certs, message));
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
                None if keys.is_empty() && !(self.errors.is_empty() && self.kept.is_empty()) => {}
                None => self.file_error(without_key(&chain, keys)),
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

fn outdated(file: &Path) -> Problem {
    let message = format!(
        "certificate in {} is of an X.509 version before 3, which TLS clients reject",
        file.display()
    );
    Problem::new(Part::Certs, message).help(
        "issue it again with its names as subjectAltName: openssl req -x509 -addext \"subjectAltName=DNS:shop.example.com\" …",
    )
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
