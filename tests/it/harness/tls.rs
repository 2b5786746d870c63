//! CAs, the certificates they issue, and TLS clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::raw::RawClient;
use super::wait::in_time;
use super::wire::Wire;

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

/// A certificate and its private key, as PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Pair {
    /// Returns both as one PEM file.
    pub(crate) fn pem(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }

    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Issues a certificate for a server with these names.
    pub(crate) fn server(&self, names: &[&str]) -> Pair {
        self.sign(names, &KeyPair::generate().expect("a key"), None)
    }

    /// Issues a server certificate with an RSA key.
    pub(crate) fn rsa_server(&self, names: &[&str]) -> Pair {
        self.sign(names, &KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("a key"), None)
    }

    /// Issues a certificate for a client with this common name.
    pub(crate) fn client(&self, name: &str) -> Pair {
        self.sign(&[], &KeyPair::generate().expect("a key"), Some(name))
    }

    fn sign(&self, names: &[&str], key: &KeyPair, client: Option<&str>) -> Pair {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(name) = client {
            params.distinguished_name.push(DnType::OrganizationName, "Example");
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }
        let certificate = params.signed_by(key, &self.issuer).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate"))
            .expect("a root");
        roots
    }
}

/// Returns the TLS configuration of a backend. With `clients`, it requires client certificates
/// issued by that CA.
pub(crate) fn server_config(pair: &Pair, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    Arc::new(builder.with_single_cert(vec![pair.der()], pair.key_der()).expect("key matches the certificate"))
}

/// Returns the TLS configuration of an HTTP/2 backend.
pub(crate) fn http2_server_config(pair: &Pair) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(&server_config(pair, None));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// A TLS client that trusts one CA and resumes sessions.
#[derive(Clone)]
pub(crate) struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    pub(crate) fn new(authority: &Authority) -> Self {
        Self::with(authority, aws_lc_rs::default_provider(), rustls::ALL_VERSIONS, None)
    }

    /// Returns a client that speaks only this version.
    pub(crate) fn only(authority: &Authority, version: &'static SupportedProtocolVersion) -> Self {
        Self::of(authority, version, None)
    }

    /// Returns a client that speaks only this version, with an optional client certificate.
    pub(crate) fn of(
        authority: &Authority,
        version: &'static SupportedProtocolVersion,
        pair: Option<&Pair>,
    ) -> Self {
        Self::with(authority, aws_lc_rs::default_provider(), &[version], pair)
    }

    /// Returns a TLS 1.2 client that only accepts RSA signatures.
    pub(crate) fn of_rsa(authority: &Authority) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains("ECDHE_RSA"));
        Self::with(authority, provider, &[&rustls::version::TLS12], None)
    }

    fn with(
        authority: &Authority,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        pair: Option<&Pair>,
    ) -> Self {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(authority.roots());
        Self(Arc::new(match pair {
            None => builder.with_no_client_auth(),
            Some(pair) => builder
                .with_client_auth_cert(vec![pair.der()], pair.key_der())
                .expect("key matches the certificate"),
        }))
    }

    /// Returns the same client offering these ALPN protocols.
    pub(crate) fn offering(&self, protocols: &[&str]) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Returns a `ClientHello` with this server name.
    pub(crate) fn hello(&self, name: &str) -> Vec<u8> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name).expect("a client");
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).expect("a hello");
        hello
    }

    /// Connects and completes a handshake with this server name.
    pub(crate) async fn connect(&self, address: SocketAddr, name: &str) -> RawClient {
        self.try_connect(address, name).await.expect("a handshake")
    }

    pub(crate) async fn try_connect(&self, address: SocketAddr, name: &str) -> std::io::Result<RawClient> {
        let socket = in_time("a connection", TcpStream::connect(address)).await.expect("connect");
        socket.set_nodelay(true).expect("nodelay");
        self.try_handshake(socket, name).await
    }

    /// Completes a handshake on an open connection.
    pub(crate) async fn try_handshake(&self, socket: TcpStream, name: &str) -> std::io::Result<RawClient> {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connecting = TlsConnector::from(Arc::clone(&self.0)).connect(name, socket);
        let stream = in_time("a handshake", connecting).await?;
        Ok(RawClient::over(Wire::Tls(Box::new(TlsStream::Client(stream)))))
    }
}

impl RawClient {
    fn session(&self) -> &ClientConnection {
        match self.wire() {
            Wire::Tls(tls) => match &**tls {
                TlsStream::Client(stream) => stream.get_ref().1,
                TlsStream::Server(_) => panic!("not a client connection"),
            },
            Wire::Plain(_) | Wire::Unix(_) => panic!("not a TLS connection"),
        }
    }

    /// Returns the certificate that the server sent.
    pub(crate) fn shown(&self) -> CertificateDer<'static> {
        self.session().peer_certificates().expect("a certificate")[0].clone().into_owned()
    }

    /// Whether a session was resumed.
    pub(crate) fn resumed(&self) -> bool {
        self.session().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Returns the negotiated version, key exchange group and ALPN protocol.
    pub(crate) fn agreed(&self) -> (String, String, Option<String>) {
        let session = self.session();
        let version = format!("{:?}", session.protocol_version().expect("a version"));
        let group = session.negotiated_key_exchange_group().expect("a group");
        let alpn = session.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned());
        (version, format!("{:?}", group.name()), alpn)
    }
}

/// A directory of PEM files.
pub(crate) struct PemFiles(tempfile::TempDir);

impl PemFiles {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    /// Returns the path of a file, which need not exist.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file atomically: under a temporary name, then renamed. Returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        let new = self.path(&format!(".{name}.new"));
        std::fs::write(&new, content).expect("write");
        std::fs::rename(&new, &path).expect("rename");
        path.display().to_string()
    }
}

/// A CA and a server certificate issued by it, written to a directory.
pub(crate) struct TlsSetup {
    pub(crate) authority: Authority,
    pub(crate) files: PemFiles,
    pub(crate) pair: Pair,
    /// Path of the file with the certificate and its key.
    pub(crate) certs: String,
}

impl TlsSetup {
    /// Issues a certificate with these names.
    pub(crate) fn new(names: &[&str]) -> Self {
        let (authority, files) = (Authority::new(), PemFiles::new());
        let pair = authority.server(names);
        let certs = files.write("shop.pem", pair.pem());
        Self { authority, files, pair, certs }
    }

    /// Returns the keys of `tls`.
    pub(crate) fn keys(&self) -> String {
        format!("certs = [\"{}\"]", self.certs)
    }

    /// Returns a client that trusts the CA.
    pub(crate) fn client(&self) -> TlsClient {
        TlsClient::new(&self.authority)
    }
}
