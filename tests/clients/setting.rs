//! The proxy as these tests need it: a listener without TLS, one with.

use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::{Authority, Backend, Pair, PemFiles, Proxy, ProxyBuilder};

/// The name that the certificate is for.
pub(crate) const HOST: &str = "shop.test";

/// A certificate and the files it is in.
pub(crate) struct Setting {
    files: PemFiles,
    pair: Pair,
    certs: String,
    authority: String,
}

impl Setting {
    pub(crate) fn new() -> Self {
        let (authority, files) = (Authority::new(), PemFiles::new());
        let pair = authority.server(&[HOST]);
        let certs = files.write("shop.pem", pair.pem());
        let authority = files.write("authority.crt", &authority.pem);
        Self { files, pair, certs, authority }
    }

    /// The first listener is plain, the second speaks TLS.
    pub(crate) fn proxy(&self) -> ProxyBuilder {
        Proxy::builder().listener("127.0.0.1:0").tls(&format!("certs = [\"{}\"]", self.certs))
    }

    /// The file with the authority's certificate.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// A file of its own.
    pub(crate) fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        self.files.write(name, content)
    }

    /// The hash of the certificate's public key, as browsers write it.
    pub(crate) fn spki(&self) -> String {
        let der = self.pair.der();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).expect("a certificate");
        STANDARD.encode(digest(&SHA256, certificate.public_key().raw))
    }
}

/// The address of the listener with TLS.
pub(crate) fn tls(proxy: &Proxy) -> SocketAddr {
    proxy.addresses()[1]
}

/// A backend that answers with trailers, and keeps those that it gets.
pub(crate) async fn trailing() -> Backend {
    Backend::named("t").chunked(&["with ", "trailers\n"], &["X-Checksum: 0815"]).start().await
}
