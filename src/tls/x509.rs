//! Parses certificates: names, validity and subject.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{X509Name, X509Version};

/// The parsed content of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject alternative names, or the common name if there are none.
    pub names: Vec<Name>,
    /// Start of the validity period.
    pub not_before: SystemTime,
    /// End of the validity period.
    pub not_after: SystemTime,
    /// Whether it is a CA certificate.
    pub is_ca: bool,
    /// Whether it is of X.509 version 3, the only one that TLS clients accept.
    pub is_v3: bool,
}

/// A name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Name {
    /// A host name, in lower case.
    Host(String),
    /// `*.example.com`, stored as `.example.com`. Matches exactly one label before it
    /// (RFC 6125 §6.4.3).
    Wildcard(String),
    /// An IP address.
    Ip(IpAddr),
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*{suffix}"),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

impl Name {
    fn of_host(text: &str) -> Self {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') => Self::Wildcard(suffix.to_owned()),
            _ => Self::Host(text),
        }
    }

    /// Returns true if the name matches `host` (in lower case, without port, IPv6 in
    /// brackets).
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Host(name) => name == host,
            Self::Wildcard(suffix) => below(host) == Some(suffix),
            Self::Ip(ip) => host.trim_matches(['[', ']']).parse() == Ok(*ip),
        }
    }
}

/// Returns the wildcard suffix that matches a host: `.example.com` for `www.example.com`.
pub(super) fn below(host: &str) -> Option<&str> {
    host.find('.').filter(|&at| at > 0).map(|at| &host[at..])
}

impl CertificateFacts {
    /// Parses a certificate. Returns `None` if it is invalid.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let mut names = Vec::new();
        if let Ok(Some(alternative)) = certificate.subject_alternative_name() {
            for name in &alternative.value.general_names {
                match name {
                    GeneralName::DNSName(host) => names.push(Name::of_host(host)),
                    GeneralName::IPAddress(bytes) => names.extend(ip(bytes).map(Name::Ip)),
                    _ => {}
                }
            }
        }
        if names.is_empty() {
            let common = certificate.subject().iter_common_name().next();
            names.extend(common.and_then(|name| name.as_str().ok()).map(Name::of_host));
        }
        let validity = certificate.validity();
        Some(Self {
            names,
            not_before: time(validity.not_before.timestamp()),
            not_after: time(validity.not_after.timestamp()),
            is_ca: certificate.is_ca(),
            is_v3: certificate.version() == X509Version::V3,
        })
    }

    /// Returns true if the certificate is valid for `host` (in lower case, without port).
    pub fn covers(&self, host: &str) -> bool {
        self.names.iter().any(|name| name.covers(host))
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn time(unix: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(unix).unwrap_or(0))
}

/// Formats a certificate's subject (RFC 4514): `CN=alice,O=Example,C=DE`. All but
/// printable ASCII is escaped, so that the result is a valid header value.
pub(super) fn subject(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(distinguished_name(certificate.subject()))
}

fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let relative: Vec<_> = name.iter_rdn().collect();
    for (index, relative) in relative.into_iter().rev().enumerate() {
        if index > 0 {
            text.push(',');
        }
        for (index, attribute) in relative.iter().enumerate() {
            if index > 0 {
                text.push('+');
            }
            match (short_name(attribute.attr_type()), attribute.as_str()) {
                (Some(short), Ok(value)) => {
                    text.push_str(short);
                    text.push('=');
                    escape(&mut text, value);
                }
                (short, _) => {
                    match short {
                        Some(short) => text.push_str(short),
                        None => text.push_str(&attribute.attr_type().to_id_string()),
                    }
                    text.push_str("=#");
                    hex_of_der(&mut text, attribute.attr_value());
                }
            }
        }
    }
    text
}

/// Returns the short name of an attribute: those of RFC 4514 §3, and the customary
/// `emailAddress`.
fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    Some(match oid.to_id_string().as_str() {
        "2.5.4.3" => "CN",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.6" => "C",
        "2.5.4.9" => "STREET",
        "0.9.2342.19200300.100.1.25" => "DC",
        "0.9.2342.19200300.100.1.1" => "UID",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        let at_edge = (byte == b' ' && (index == 0 || index == last)) || (byte == b'#' && index == 0);
        if matches!(byte, b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';') || at_edge {
            text.push('\\');
            text.push(char::from(byte));
        } else if byte == b' ' || byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\{byte:02X}");
        }
    }
}

/// Appends the DER encoding of a value, in hex (RFC 4514 §2.4).
fn hex_of_der(text: &mut String, value: &Any<'_>) {
    let data = value.as_bytes();
    let Tag(tag) = value.tag();
    let mut header = vec![u8::try_from(tag & 0x1f).unwrap_or_default()];
    match u16::try_from(data.len()) {
        Ok(length @ ..128) => header.push(length.to_be_bytes()[1]),
        Ok(length) => {
            header.push(0x82);
            header.extend(length.to_be_bytes());
        }
        // A certificate this large does not fit into a handshake.
        Err(_) => return,
    }
    for byte in header.iter().chain(data) {
        let _ = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{DnType, DnValue, KeyPair};

    use super::*;
    use crate::tls::fixture;

    fn subject_of(entries: &[(DnType, DnValue)]) -> String {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in entries {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        subject(certificate.der()).unwrap()
    }

    #[test]
    fn subject_is_reversed_and_escaped() {
        let utf8 = |text: &str| DnValue::Utf8String(text.to_owned());
        let parts = [
            (DnType::CountryName, utf8("DE")),
            (DnType::OrganizationName, utf8("A, \"B\" + C")),
            (DnType::CommonName, utf8(" Zoë\r\nX-Evil: 1 ")),
        ];
        let text = subject_of(&parts);
        assert_eq!(text, r#"CN=\ Zo\C3\AB\0D\0AX-Evil: 1\ ,O=A\, \"B\" \+ C,C=DE"#);
        let other = [(DnType::CustomDnType(vec![1, 2, 3]), utf8("x"))];
        assert_eq!(subject_of(&other), "1.2.3=#0c0178");
        assert_eq!(subject_of(&[]), "");
    }

    #[test]
    fn subject_is_always_a_valid_header_value() {
        use proptest::prelude::*;
        let key = KeyPair::generate().unwrap();
        let made = |text: &str| {
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, text);
            params.self_signed(&key).unwrap().der().to_vec()
        };
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        proptest!(ProptestConfig::with_cases(200), |(text in ".{0,40}", changes in changes)| {
            let mut der = made(&text);
            for (at, byte) in changes {
                let at = at.index(der.len());
                der[at] = byte;
            }
            if let Some(subject) = subject(&der) {
                prop_assert!(subject.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{subject:?}");
            }
            let _ = CertificateFacts::read(&der);
        });
    }

    #[test]
    fn wildcard_matches_exactly_one_label() {
        let made = fixture::certificate(&["Shop.example.com", "*.example.org", "10.0.0.1", "::1"]);
        let facts = CertificateFacts::read(made.cert.der()).unwrap();
        for covered in ["shop.example.com", "a.example.org", "10.0.0.1", "[::1]"] {
            assert!(facts.covers(covered), "{covered}");
        }
        for other in ["example.org", "a.b.example.org", ".example.org", "x.example.com", "10.0.0.2", ""] {
            assert!(!facts.covers(other), "{other}");
        }
        assert!(!facts.is_ca && facts.not_before < facts.not_after);
        assert!(CertificateFacts::read(b"no certificate").is_none());
    }
}
