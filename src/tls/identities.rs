//! Selects the certificate for a client.

use std::path::Path;
use std::sync::Arc;

use ahash::AHashMap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::certified::Identity;
use super::x509::{Name, below};

/// A listener's certificates, indexed by name.
#[derive(Debug)]
pub struct Identities {
    list: Vec<Identity>,
    /// Indices into the list, in order of preference.
    exact: AHashMap<Box<str>, Vec<usize>>,
    /// Keyed by the part after the `*`.
    wildcard: AHashMap<Box<str>, Vec<usize>>,
    /// For clients without SNI, or with an unknown name.
    default: Vec<usize>,
}

impl Identities {
    /// Indexes the certificates. Returns `None` if there are none.
    pub(super) fn new(list: Vec<Identity>) -> Option<Self> {
        let first = list.first()?;
        let (mut exact, mut wildcard) = (AHashMap::<_, Vec<_>>::new(), AHashMap::<_, Vec<_>>::new());
        for (index, identity) in list.iter().enumerate() {
            for name in &identity.facts.names {
                let (map, name) = match name {
                    Name::Host(name) => (&mut exact, name),
                    Name::Wildcard(suffix) => (&mut wildcard, suffix),
                    // Clients do not send IP addresses as SNI.
                    Name::Ip(_) => continue,
                };
                let found = map.entry(name.clone().into_boxed_str()).or_default();
                if !found.contains(&index) {
                    found.push(index);
                }
            }
        }
        // The first certificate, and those for the same name with another key type.
        let mut default = match first.facts.names.first() {
            Some(Name::Host(name)) => exact.get(name.as_str()).cloned(),
            Some(Name::Wildcard(suffix)) => wildcard.get(suffix.as_str()).cloned(),
            _ => None,
        }
        .unwrap_or_else(|| vec![0]);
        // Prefer other keys to RSA, which is the most expensive for the server.
        let rank = |index: &usize| list[*index].key.key.algorithm() == SignatureAlgorithm::RSA;
        for found in exact.values_mut().chain(wildcard.values_mut()).chain([&mut default]) {
            found.sort_by_key(rank);
        }
        Some(Self { list, exact, wildcard, default })
    }

    /// Iterates over the certificates, in configuration order.
    pub fn iter(&self) -> impl Iterator<Item = &Identity> {
        self.list.iter()
    }

    /// Returns the certificates, in configuration order.
    pub(super) fn list(&self) -> &[Identity] {
        &self.list
    }

    /// Returns the certificates for `server_name` (in lower case): exact matches, else
    /// wildcard matches, else the default.
    fn candidates(&self, server_name: Option<&str>) -> &[usize] {
        let named = server_name.and_then(|name| {
            self.exact.get(name).or_else(|| below(name).and_then(|suffix| self.wildcard.get(suffix)))
        });
        named.unwrap_or(&self.default)
    }

    /// Returns true if the certificate for `server_name` also covers `host`. Both are
    /// in lower case and without port.
    pub fn covers(&self, server_name: &str, host: &str) -> bool {
        self.candidates(Some(server_name)).iter().any(|&index| self.list[index].facts.covers(host))
    }

    fn choose(&self, server_name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Identity> {
        let fits = |index: &&usize| self.list[**index].key.key.choose_scheme(schemes).is_some();
        let candidates = self.candidates(server_name);
        candidates
            .iter()
            .find(fits)
            .or_else(|| self.default.iter().find(fits))
            .map(|&index| &self.list[index])
    }

    /// Returns the file of the certificate for this SNI and these signature schemes.
    pub fn file_for(&self, server_name: Option<&str>, schemes: &[SignatureScheme]) -> Option<&Path> {
        self.choose(server_name, schemes).map(|identity| identity.file.as_path())
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.choose(name.as_deref(), hello.signature_schemes()).map(|identity| Arc::clone(&identity.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::fixture;

    const ECDSA: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
    const RSA: SignatureScheme = SignatureScheme::RSA_PSS_SHA256;

    #[test]
    fn exact_match_wins_over_wildcard_and_default() {
        let files = fixture::Files::new();
        files.pair("a.pem", &["first.example.com"]);
        files.pair("b.pem", &["*.example.com", "10.0.0.1"]);
        files.pair("c.pem", &["shop.example.com"]);
        let identities = files.identities("*.pem");
        let file = |name| identities.file_for(name, &[ECDSA]).unwrap().file_name().unwrap().to_str().unwrap();
        assert_eq!(file(Some("shop.example.com")), "c.pem");
        assert_eq!(file(Some("blog.example.com")), "b.pem");
        for other in [None, Some("a.b.example.com"), Some("example.com"), Some("localhost"), Some("")] {
            assert_eq!(file(other), "a.pem", "{other:?}");
        }
        assert!(
            identities.covers("blog.example.com", "shop.example.com"),
            "the wildcard certificate covers it"
        );
        assert!(!identities.covers("shop.example.com", "blog.example.com"));
        assert!(!identities.covers("unknown.test", "shop.example.com"));
        assert!(identities.covers("unknown.test", "first.example.com"));
        assert!(identities.covers("blog.example.com", "10.0.0.1"));
    }

    #[test]
    fn signature_schemes_select_between_ecdsa_and_rsa() {
        let files = fixture::Files::new();
        files.rsa_pair("a.pem", &["shop.example.com"]);
        files.pair("b.pem", &["shop.example.com"]);
        let identities = files.identities("*.pem");
        for name in [None, Some("shop.example.com"), Some("unknown.test")] {
            let file = |schemes: &[_]| {
                identities
                    .file_for(name, schemes)
                    .map(|f| f.file_name().unwrap().to_str().unwrap().to_owned())
            };
            assert_eq!(file(&[RSA, ECDSA]).as_deref(), Some("b.pem"));
            assert_eq!(file(&[RSA]).as_deref(), Some("a.pem"));
            assert_eq!(file(&[SignatureScheme::ED25519]), None);
        }
    }
}
