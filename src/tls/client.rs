//! TLS to backends.

use std::fmt;
use std::path::PathBuf;
use std::slice::from_ref;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::files::{self, ReadFile, Stamp};
use super::identity::Loader;
use super::{Part, Problem, Refreshed, provider};

/// Returns the protocol to offer by ALPN.
fn alpn(http2: bool) -> &'static [u8] {
    if http2 { b"h2" } else { b"http/1.1" }
}

/// The TLS settings of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// The CA certificates to verify backends against.
    pub ca: Roots,
    /// The name in the backends' certificates. `None` uses the host of each address.
    pub server_name: Option<String>,
    /// Whether to send that name (SNI).
    pub sni: bool,
    /// The files of the client certificate and its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether to verify the backends' certificates.
    pub verify: bool,
    /// Whether to speak HTTP/2.
    pub http2: bool,
}

/// A source of CA certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// The system's trust store.
    Native,
    /// A PEM file.
    File(PathBuf),
}

/// TLS to an upstream's backends: the settings and the loaded files.
pub struct Client {
    settings: ClientSettings,
    live: RwLock<Option<Live>>,
    stamps: Mutex<Vec<Stamp>>,
}

#[derive(Clone)]
struct Live {
    config: Arc<ClientConfig>,
    fingerprint: [u8; 32],
}

impl Client {
    /// Creates a client. It cannot connect before [`Client::load`].
    pub fn new(settings: ClientSettings) -> Self {
        Self { settings, live: RwLock::default(), stamps: Mutex::default() }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &ClientSettings {
        &self.settings
    }

    /// Returns the rustls configuration, or `None` before [`Client::load`]. It does not
    /// store sessions; see [`with_sessions`].
    pub fn config(&self) -> Option<Arc<ClientConfig>> {
        self.live.read().as_ref().map(|live| Arc::clone(&live.config))
    }

    /// Returns the name expected in the certificate of a backend on `host`, or `None`
    /// if it is not a valid name.
    pub fn server_name(&self, host: &str) -> Option<ServerName<'static>> {
        let name = self.settings.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).ok()
    }

    /// Loads the files. Returns warnings.
    ///
    /// # Errors
    /// All errors in the files. The old content stays in use.
    pub fn load(&self, read: ReadFile<'_>) -> Result<Vec<Problem>, Vec<Problem>> {
        let mut stamps = self.stamps.lock();
        *stamps = self.look();
        self.replace(read).map(|(_, warnings)| warnings)
    }

    /// Reloads the files if they have changed.
    pub fn refresh(&self) -> Refreshed {
        let mut stamps = self.stamps.lock();
        let now = self.look();
        if *stamps == now {
            return Refreshed::Unchanged;
        }
        *stamps = now;
        match self.replace(&files::read) {
            Ok((false, _)) => Refreshed::Unchanged,
            Ok((true, warnings)) => Refreshed::Replaced(warnings),
            Err(errors) => Refreshed::Failed(errors),
        }
    }

    fn look(&self) -> Vec<Stamp> {
        let ca = match &self.settings.ca {
            Roots::Native => None,
            Roots::File(path) => Some(path.clone()),
        };
        let (certificate, key) = self.settings.identity.clone().unzip();
        Stamp::of(ca.into_iter().chain(certificate).chain(key))
    }

    fn replace(&self, read: ReadFile<'_>) -> Result<(bool, Vec<Problem>), Vec<Problem>> {
        let mut loader = Loader::new(read);
        let verifier = self.verifier(&mut loader);
        let identity = self.settings.identity.as_ref().and_then(|(certificate, key)| {
            let identities = loader.identities(from_ref(certificate), from_ref(key));
            for problem in loader.errors.iter_mut().chain(&mut loader.warnings) {
                problem.part = match problem.part {
                    Part::Certs => Part::ClientCert,
                    Part::Keys => Part::ClientKey,
                    other => other,
                };
            }
            identities.into_iter().next()
        });
        let (errors, warnings) = (std::mem::take(&mut loader.errors), std::mem::take(&mut loader.warnings));
        let Some(verifier) = verifier.filter(|_| errors.is_empty()) else { return Err(errors) };
        let fingerprint = loader.fingerprint();
        if self.live.read().as_ref().is_some_and(|live| live.fingerprint == fingerprint) {
            return Ok((false, warnings));
        }
        let builder = ClientConfig::builder_with_provider(Arc::clone(provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| vec![Problem::new(Part::Ca, error.to_string())])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(
                rustls::sign::SingleCertAndKey::from((*identity.key).clone()),
            )),
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.settings.sni;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![alpn(self.settings.http2).to_vec()];
        *self.live.write() = Some(Live { config: Arc::new(config), fingerprint });
        Ok((true, warnings))
    }

    fn verifier(&self, loader: &mut Loader<'_>) -> Option<Arc<dyn ServerCertVerifier>> {
        if !self.settings.verify {
            return Some(Arc::new(Unverified));
        }
        let roots = match &self.settings.ca {
            Roots::Native => native_roots(loader)?,
            Roots::File(path) => loader.roots(path)?,
        };
        match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider())).build() {
            Ok(verifier) => Some(verifier),
            Err(error) => {
                loader.errors.push(Problem::new(Part::Ca, error.to_string()));
                None
            }
        }
    }
}

/// Returns a copy of the configuration with its own session store. Each backend gets
/// one, because backends cannot resume each other's sessions.
pub fn with_sessions(config: &ClientConfig, sessions: usize) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.resumption = Resumption::in_memory_sessions(sessions);
    Arc::new(config)
}

fn native_roots(loader: &mut Loader<'_>) -> Option<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
        loader.errors.push(
            Problem::new(Part::Ca, format!("no CA certificates in the system's trust store{why}"))
                .help("install the ca-certificates package, or set a file: ca = \"ca.pem\""),
        );
        return None;
    }
    Some(roots)
}

/// The verifier for `verify = false`: accepts any certificate. Signatures are still
/// verified, so the backend must own the certificate's private key.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl PartialEq for Client {
    /// Compares settings and file contents.
    fn eq(&self, other: &Self) -> bool {
        let fingerprint = |client: &Self| client.live.read().as_ref().map(|live| live.fingerprint);
        self.settings == other.settings && fingerprint(self) == fingerprint(other)
    }
}

impl Eq for Client {}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

#[cfg(test)]
mod tests;
