//! TLS of a listener.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoClientAuth, ProducesTickets, ServerConfig, ServerSessionMemoryCache, StoresServerSessions,
    WebPkiClientVerifier,
};
use rustls::version::{TLS12, TLS13};

use super::files::{self, Fingerprint, ReadFile, Stamp, key_file_of};
use super::identities::Identities;
use super::identity::Loader;
use super::tickets::SharedTickets;
use super::{Part, Problem, Refreshed, provider, x509};
use crate::secret::parse_keys;

/// Protocols offered by ALPN, in order of preference.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// Maximum sessions stored for TLS 1.2 clients that do not support tickets.
const KEPT_SESSIONS: usize = 1024;

/// The TLS settings of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// PEM files with certificates. The file name may contain `*`.
    pub certs: Vec<PathBuf>,
    /// PEM files with private keys that are neither in nor next to their certificates' files.
    pub keys: Vec<PathBuf>,
    /// The minimum TLS version.
    pub min_version: MinVersion,
    /// Whether to offer HTTP/2.
    pub http2: bool,
    /// The file with session ticket keys, shared by a fleet. `None` uses random keys.
    pub tickets_file: Option<PathBuf>,
    /// Client certificates. `None` does not request them.
    pub client_auth: Option<ClientAuth>,
}

/// A minimum TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// Only TLS 1.3.
    Tls13,
}

/// The settings of `client_auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// The file with the CA certificates to verify clients against.
    pub ca: PathBuf,
    /// Whether clients must present a certificate.
    pub required: bool,
}

/// A listener's TLS: the settings and the loaded files.
pub struct Server {
    settings: ServerSettings,
    live: RwLock<Option<Arc<Live>>>,
    watch: Mutex<Watch>,
}

/// The TLS state used for new connections.
pub struct Live {
    /// The rustls configuration.
    pub config: Arc<ServerConfig>,
    /// The certificates.
    pub identities: Arc<Identities>,
    fingerprint: [u8; 32],
    sessions: Sessions,
}

/// The state for session resumption.
#[derive(Clone)]
struct Sessions {
    /// A digest of what the listener requires of clients. Sessions only resume with the
    /// same one.
    context: [u8; 32],
    /// Whether the ticket keys come from a file.
    shared: bool,
    ticketer: Arc<dyn ProducesTickets>,
    storage: Arc<dyn StoresServerSessions>,
}

/// The result of reading the files.
struct Replaced {
    /// Whether their content has changed.
    changed: bool,
    /// Errors of certificate files whose old content stays in use.
    errors: Vec<Problem>,
    warnings: Vec<Problem>,
}

#[derive(Default)]
struct Watch {
    stamps: Vec<Stamp>,
}

impl Server {
    /// Creates a server. It cannot accept connections before [`Server::load`].
    pub fn new(settings: ServerSettings) -> Self {
        Self { settings, live: RwLock::default(), watch: Mutex::default() }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// Returns the current state, or `None` before [`Server::load`].
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.read().clone()
    }

    /// Loads the files. Returns warnings.
    ///
    /// # Errors
    /// All errors in the files. The old content stays in use.
    pub fn load(&self, read: ReadFile<'_>) -> Result<Vec<Problem>, Vec<Problem>> {
        let mut watch = self.watch.lock();
        watch.stamps = self.stamps();
        self.replace(read, false).map(|replaced| replaced.warnings)
    }

    /// Reloads the files if they have changed. A broken certificate file does not affect the others.
    pub fn refresh(&self) -> Refreshed {
        let mut watch = self.watch.lock();
        let stamps = self.stamps();
        if watch.stamps == stamps {
            return Refreshed::Unchanged;
        }
        watch.stamps = stamps;
        match self.replace(&files::read, true) {
            Ok(Replaced { errors, warnings, .. }) if !errors.is_empty() => {
                Refreshed::Partly(errors, warnings)
            }
            Ok(Replaced { changed: false, .. }) => Refreshed::Unchanged,
            Ok(Replaced { warnings, .. }) => Refreshed::Replaced(warnings),
            Err(errors) => Refreshed::Failed(errors),
        }
    }

    /// Takes over the sessions of `other`, so that its clients can resume them. Does
    /// nothing unless both require the same of clients.
    pub fn continue_from(&self, other: &Self) {
        let Some(old) = other.live() else { return };
        let mut live = self.live.write();
        if let Some(new) = live.as_ref()
            && !new.sessions.shared
            && new.sessions.is_like(&old.sessions)
        {
            let mut config = (*new.config).clone();
            config.ticketer = Arc::clone(&old.sessions.ticketer);
            config.session_storage = Arc::clone(&old.sessions.storage);
            *live = Some(Arc::new(Live {
                config: Arc::new(config),
                identities: Arc::clone(&new.identities),
                fingerprint: new.fingerprint,
                sessions: old.sessions.clone(),
            }));
        }
    }

    /// Takes the stamps of all files.
    fn stamps(&self) -> Vec<Stamp> {
        let settings = &self.settings;
        let expand = |pattern: &PathBuf| files::expand(pattern).unwrap_or_default();
        let certs: Vec<_> = settings.certs.iter().flat_map(expand).collect();
        let keys = certs.iter().map(|path| key_file_of(path)).collect::<Vec<_>>();
        let ca = settings.client_auth.as_ref().map(|auth| auth.ca.clone());
        let all = certs.into_iter().chain(keys).chain(settings.keys.iter().cloned());
        Stamp::of(all.chain(settings.tickets_file.clone()).chain(ca))
    }

    /// Reads all files. With `keep`, a certificate whose file is broken stays in use.
    fn replace(&self, read: ReadFile<'_>, keep: bool) -> Result<Replaced, Vec<Problem>> {
        let old = self.live();
        let mut loader = Loader::new(read);
        if let Some(old) = old.as_ref().filter(|_| keep) {
            loader = loader.refreshing(old.identities.list());
        }
        let identities = loader.identities(&self.settings.certs, &self.settings.keys);
        let verifier = self.verifier(&mut loader);
        let keys = self.ticket_keys(&mut loader);
        let (mut errors, warnings) =
            (std::mem::take(&mut loader.errors), std::mem::take(&mut loader.warnings));
        let kept = std::mem::take(&mut loader.kept);
        let (Some(identities), Some((verifier, context))) = (Identities::new(identities), verifier) else {
            errors.extend(kept);
            return Err(errors);
        };
        if !errors.is_empty() {
            errors.extend(kept);
            return Err(errors);
        }
        let fingerprint = loader.fingerprint();
        if old.as_ref().is_some_and(|old| old.fingerprint == fingerprint) {
            return Ok(Replaced { changed: false, errors: kept, warnings });
        }
        let sessions = Sessions::new(&keys, context, old.as_ref().map(|old| old.sessions.clone()));
        let sessions = sessions.map_err(|error| vec![Problem::new(Part::Tickets, error)])?;
        let identities = Arc::new(identities);
        let config = self.config(Arc::clone(&identities), verifier, &sessions);
        let config = config.map_err(|error| vec![Problem::new(Part::Certs, error.to_string())])?;
        let live = Live { config: Arc::new(config), identities, fingerprint, sessions };
        *self.live.write() = Some(Arc::new(live));
        Ok(Replaced { changed: true, errors: kept, warnings })
    }

    fn config(
        &self,
        identities: Arc<Identities>,
        verifier: Arc<dyn ClientCertVerifier>,
        sessions: &Sessions,
    ) -> Result<ServerConfig, rustls::Error> {
        let versions: &[_] = match self.settings.min_version {
            MinVersion::Tls12 => &[&TLS13, &TLS12],
            MinVersion::Tls13 => &[&TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(identities);
        let offered = &ALPN[usize::from(!self.settings.http2)..];
        config.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        config.ticketer = Arc::clone(&sessions.ticketer);
        config.session_storage = Arc::clone(&sessions.storage);
        Ok(config)
    }

    /// Returns the verifier of client certificates, and a digest of its requirements.
    fn verifier(&self, loader: &mut Loader<'_>) -> Option<(Arc<dyn ClientCertVerifier>, [u8; 32])> {
        let mut context = Fingerprint::new();
        let Some(auth) = &self.settings.client_auth else {
            return Some((Arc::new(NoClientAuth), context.finish()));
        };
        let roots = loader.roots(&auth.ca)?;
        context.add(&[u8::from(auth.required)]);
        for root in &roots.roots {
            context.add(root.subject.as_ref());
            context.add(root.subject_public_key_info.as_ref());
        }
        let provider = Arc::clone(provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
        match builder.build() {
            Ok(verifier) => Some((verifier, context.finish())),
            Err(error) => {
                loader.errors.push(Problem::new(Part::Ca, error.to_string()));
                None
            }
        }
    }

    /// Reads the session ticket keys. Returns none without a `tickets_file`.
    fn ticket_keys(&self, loader: &mut Loader<'_>) -> Vec<[u8; 32]> {
        let Some(path) = &self.settings.tickets_file else { return Vec::new() };
        let Some(content) = loader.content(Part::Tickets, path) else { return Vec::new() };
        match parse_keys(&String::from_utf8_lossy(&content)) {
            Ok(keys) => keys.into_iter().map(|key| key.0).collect(),
            Err(error) => {
                let message = format!("invalid ticket keys in {}: {error}", path.display());
                loader.errors.push(
                    Problem::new(Part::Tickets, message).help(
                        "write one key per line, newest first; create keys with `openssl rand -hex 32`",
                    ),
                );
                Vec::new()
            }
        }
    }
}

impl Sessions {
    /// Uses `keys` if there are any, else the keys of `old` if they are still valid, else
    /// new random ones.
    fn new(keys: &[[u8; 32]], context: [u8; 32], old: Option<Self>) -> Result<Self, String> {
        let old = old.filter(|old| old.context == context);
        let storage = match &old {
            Some(old) => Arc::clone(&old.storage),
            None => ServerSessionMemoryCache::new(KEPT_SESSIONS),
        };
        if let Some(shared) = SharedTickets::new(keys, context) {
            return Ok(Self { context, shared: true, ticketer: Arc::new(shared), storage });
        }
        let ticketer = match old.filter(|old| !old.shared) {
            Some(old) => old.ticketer,
            None => Ticketer::new().map_err(|error| error.to_string())?,
        };
        Ok(Self { context, shared: false, ticketer, storage })
    }

    fn is_like(&self, other: &Self) -> bool {
        self.context == other.context && self.shared == other.shared
    }
}

impl PartialEq for Server {
    /// Compares settings and file contents.
    fn eq(&self, other: &Self) -> bool {
        let fingerprint = |server: &Self| server.live().map(|live| live.fingerprint);
        self.settings == other.settings && fingerprint(self) == fingerprint(other)
    }
}

impl Eq for Server {}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.identities.fmt(f)
    }
}

/// Returns a client certificate's subject (RFC 4514, printable ASCII, empty if it has
/// none) and its SHA-256 fingerprint in hex.
pub fn client_identity(certificate: &CertificateDer<'_>) -> (String, String) {
    let subject = x509::subject(certificate).unwrap_or_default();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut hex = String::with_capacity(64);
    for byte in digest.as_ref() {
        for digit in [byte >> 4, byte & 15] {
            hex.extend(char::from_digit(u32::from(digit), 16));
        }
    }
    (subject, hex)
}

/// Reads a file for [`Server::load`].
///
/// # Errors
/// Any I/O error, or the file is not a regular file or is too large.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    files::read(path)
}

#[cfg(test)]
mod tests;
