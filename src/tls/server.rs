//! A listener's side of TLS.

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

use super::files::{self, Fingerprint, ReadFile, Stamp};
use super::identities::Identities;
use super::identity::{Loader, beside};
use super::tickets::SharedTickets;
use super::{Part, Problem, Refreshed, provider, x509};
use crate::secret::parse_keys;

/// Protocols offered by ALPN, the preferred first.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// Sessions kept for clients of TLS 1.2 that do not take tickets.
const KEPT_SESSIONS: usize = 1024;

/// What a listener's TLS is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSettings {
    /// PEM files with certificates; the last part may have a `*`.
    pub certs: Vec<PathBuf>,
    /// PEM files with keys, where these are not with or beside their certificates.
    pub keys: Vec<PathBuf>,
    /// The oldest version spoken.
    pub min_version: MinVersion,
    /// Is HTTP/2 offered?
    pub http2: bool,
    /// Keys for session tickets, shared by a fleet; `None`: keys of its own.
    pub tickets_file: Option<PathBuf>,
    /// Whose certificates clients show; `None`: they are not asked.
    pub client_auth: Option<ClientAuth>,
}

/// The oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// `client_auth`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// The authorities whose certificates are accepted.
    pub ca: PathBuf,
    /// Is a client without one turned away?
    pub required: bool,
}

/// A listener's TLS: settings, and what is made of their files.
pub struct Server {
    settings: ServerSettings,
    live: RwLock<Option<Arc<Live>>>,
    watch: Mutex<Watch>,
}

/// What is in use for new connections.
pub struct Live {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// The certificates.
    pub identities: Arc<Identities>,
    fingerprint: [u8; 32],
    sessions: Sessions,
}

/// What resumption lives on, and what its sessions had to show.
#[derive(Clone)]
struct Sessions {
    context: [u8; 32],
    /// Are the tickets' keys in a file?
    shared: bool,
    ticketer: Arc<dyn ProducesTickets>,
    storage: Arc<dyn StoresServerSessions>,
}

#[derive(Default)]
struct Watch {
    stamps: Vec<Stamp>,
}

impl Server {
    /// With nothing loaded: every connection is turned away until [`Server::load`].
    pub fn new(settings: ServerSettings) -> Self {
        Self { settings, live: RwLock::default(), watch: Mutex::default() }
    }

    /// What it is made of.
    pub fn settings(&self) -> &ServerSettings {
        &self.settings
    }

    /// What is in use; `None` before it was loaded.
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.read().clone()
    }

    /// Reads the files and takes them into use. Returns warnings.
    ///
    /// # Errors
    /// All that is wrong with them; what was in use before stays so.
    pub fn load(&self, read: ReadFile<'_>) -> Result<Vec<Problem>, Vec<Problem>> {
        let mut watch = self.watch.lock();
        watch.stamps = self.stamps();
        self.replace(read).map(|(_, warnings)| warnings)
    }

    /// Looks at the files, and reads them if they have changed.
    pub fn refresh(&self) -> Refreshed {
        let mut watch = self.watch.lock();
        let stamps = self.stamps();
        if watch.stamps == stamps {
            return Refreshed::Unchanged;
        }
        watch.stamps = stamps;
        match self.replace(&files::read) {
            Ok((false, _)) => Refreshed::Unchanged,
            Ok((true, warnings)) => Refreshed::Replaced(warnings),
            Err(errors) => Refreshed::Failed(errors),
        }
    }

    /// Goes on with the sessions of another, so that its clients can resume
    /// theirs, if both demand the same of clients.
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

    /// All files, as they look from outside.
    fn stamps(&self) -> Vec<Stamp> {
        let settings = &self.settings;
        let expand = |pattern: &PathBuf| files::expand(pattern).unwrap_or_default();
        let certs: Vec<_> = settings.certs.iter().flat_map(expand).collect();
        let keys = certs.iter().map(|path| beside(path)).collect::<Vec<_>>();
        let ca = settings.client_auth.as_ref().map(|auth| auth.ca.clone());
        let all = certs.into_iter().chain(keys).chain(settings.keys.iter().cloned());
        Stamp::of(all.chain(settings.tickets_file.clone()).chain(ca))
    }

    /// Reads all; true if it is not what was in use.
    fn replace(&self, read: ReadFile<'_>) -> Result<(bool, Vec<Problem>), Vec<Problem>> {
        let old = self.live();
        let mut loader = Loader::new(read);
        let identities = loader.identities(&self.settings.certs, &self.settings.keys);
        let verifier = self.verifier(&mut loader);
        let keys = self.ticket_keys(&mut loader);
        let (errors, warnings) = (std::mem::take(&mut loader.errors), std::mem::take(&mut loader.warnings));
        let (Some(identities), Some((verifier, context))) = (Identities::new(identities), verifier) else {
            return Err(errors);
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let fingerprint = loader.fingerprint();
        if old.as_ref().is_some_and(|old| old.fingerprint == fingerprint) {
            return Ok((false, warnings));
        }
        let sessions = Sessions::new(&keys, context, old.map(|old| old.sessions.clone()));
        let sessions = sessions.map_err(|error| vec![Problem::new(Part::Tickets, error)])?;
        let identities = Arc::new(identities);
        let config = self.config(Arc::clone(&identities), verifier, &sessions);
        let config = config.map_err(|error| vec![Problem::new(Part::Certs, error.to_string())])?;
        let live = Live { config: Arc::new(config), identities, fingerprint, sessions };
        *self.live.write() = Some(Arc::new(live));
        Ok((true, warnings))
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

    /// Who looks at clients' certificates, and what is demanded, in short.
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

    /// The keys of a file; empty without one.
    fn ticket_keys(&self, loader: &mut Loader<'_>) -> Vec<[u8; 32]> {
        let Some(path) = &self.settings.tickets_file else { return Vec::new() };
        let Some(content) = loader.content(Part::Tickets, path) else { return Vec::new() };
        match parse_keys(&String::from_utf8_lossy(&content)) {
            Ok(keys) => keys.into_iter().map(|key| key.0).collect(),
            Err(error) => {
                let message = format!("{} holds no keys: {error}", path.display());
                loader.errors.push(
                    Problem::new(Part::Tickets, message)
                        .help("one key a line, the newest first: openssl rand -hex 32"),
                );
                Vec::new()
            }
        }
    }
}

impl Sessions {
    /// With keys of a file, or else those of `old` if they may be used on.
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
    /// The same settings, with the same in their files.
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

/// What a client's certificate says: subject (RFC 4514, printable ASCII; empty
/// if it has none) and SHA-256 of the whole, in hexadecimal digits.
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

/// Reads a file as [`Server::load`] wants it.
///
/// # Errors
/// The system's; it is no regular file, or a very large one.
pub fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    files::read(path)
}

#[cfg(test)]
mod tests;
