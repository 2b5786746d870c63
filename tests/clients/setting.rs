//! The setup of these tests: a proxy with a plain listener and a TLS listener.

use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Backend, Proxy, ProxyBuilder, TlsSetup};

/// The host name in the certificate.
pub(crate) const HOST: &str = "shop.test";

/// A certificate and its files.
pub(crate) struct Setting {
    tls: TlsSetup,
    authority: String,
}

impl Setting {
    pub(crate) fn new() -> Self {
        let tls = TlsSetup::new(&[HOST]);
        let authority = tls.files.write("authority.crt", &tls.authority.pem);
        Self { tls, authority }
    }

    /// Returns a proxy whose first listener is plain and whose second speaks TLS.
    pub(crate) fn proxy(&self) -> ProxyBuilder {
        Proxy::builder().listener("127.0.0.1:0").tls(&self.tls.keys())
    }

    /// Returns the path of the CA certificate.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        self.tls.files.write(name, content)
    }

    /// Returns the base64 SHA-256 hash of the certificate's public key (SPKI), as Chromium expects it.
    pub(crate) fn spki(&self) -> String {
        let der = self.tls.pair.der();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        STANDARD.encode(digest(&SHA256, certificate.public_key().raw))
    }
}

/// Returns the address of the TLS listener.
pub(crate) fn tls(proxy: &Proxy) -> SocketAddr {
    proxy.addresses()[1]
}

/// Starts a backend that responds with trailers and records the trailers of requests.
pub(crate) async fn trailing() -> Backend {
    Backend::named("t").chunked(&["with ", "trailers\n"], &["X-Checksum: 0815"]).start().await
}
