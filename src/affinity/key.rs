//! The key: what identifies a session's requests.
//!
//! An upstream lists sources, and the first one present in a request decides. A source with an
//! empty value is absent: a cleared cookie falls through to the next source instead of putting all
//! such clients together. Values are compared and hashed as received. They are not percent-decoded,
//! so an id that a client re-encodes is another id. Nothing here allocates.

use std::fmt;
use std::net::IpAddr;

use super::client_ip::Mask;
use super::{KeyHash, Seed};

pub use super::message::RequestView;
use super::message::trim;

pub mod cookies;
#[cfg(test)]
pub(crate) mod tests;

use cookies::cookie_values;

/// A place to look for a session's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// `ip`: the client's address, masked.
    Ip,
    /// `client_cert`: the name in the client's certificate.
    ClientCert,
    /// `cookie:NAME`.
    Cookie(String),
    /// `header:NAME`, in lower case.
    Header(String),
    /// `query:NAME`.
    Query(String),
    /// `path_param:NAME` (`/a;NAME=value/b`).
    PathParam(String),
}

impl fmt::Display for KeySource {
    /// Writes the source as in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => f.write_str("ip"),
            Self::ClientCert => f.write_str("client_cert"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::PathParam(name) => write!(f, "path_param:{name}"),
        }
    }
}

/// A key found in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundKey {
    /// The index of its source in the upstream's list.
    pub source: usize,
    /// Its hash.
    pub hash: KeyHash,
}

/// What identifies the client apart from the request itself.
#[derive(Debug, Clone, Copy)]
pub struct ClientIdentity<'c> {
    /// Its address, as seen through trusted proxies.
    pub ip: IpAddr,
    /// The name in its certificate: the subject, or the digest if the subject is empty. `None`
    /// without a certificate.
    pub certificate: Option<&'c str>,
}

/// Returns the key from the first source that is present.
pub fn find_key(
    sources: &[KeySource],
    seed: Seed,
    mask: Mask,
    request: &impl RequestView,
    client: ClientIdentity<'_>,
) -> Option<FoundKey> {
    sources.iter().enumerate().find_map(|(source, wanted)| {
        let hash = match wanted {
            KeySource::Ip => KeyHash::of_address(seed, mask.apply(client.ip)),
            KeySource::ClientCert => of_certificate(seed, client.certificate?),
            _ => KeyHash::of_id(seed, find_id(wanted, request)?),
        };
        Some(FoundKey { source, hash })
    })
}

/// Hashes the name in a certificate. No id from a client can be equal to it.
fn of_certificate(seed: Seed, name: &str) -> KeyHash {
    KeyHash::of_id(seed, format!("client_cert\0{name}").as_bytes())
}

/// Returns the id in one source, never empty. Returns `None` for [`KeySource::Ip`] and
/// [`KeySource::ClientCert`], which are not in the request.
///
/// Of several cookies, headers or parameters with the same name, the first non-empty value wins.
pub fn find_id<'r>(source: &'r KeySource, request: &'r impl RequestView) -> Option<&'r [u8]> {
    match source {
        KeySource::Ip | KeySource::ClientCert => None,
        KeySource::Cookie(name) => cookie_values(request, name.as_bytes()).find(|value| !value.is_empty()),
        KeySource::Header(name) => request.field_values(name).map(trim).find(|value| !value.is_empty()),
        KeySource::Query(name) => query_value(request.path_and_query().as_bytes(), name.as_bytes()),
        KeySource::PathParam(name) => path_param_value(request.path_and_query().as_bytes(), name.as_bytes()),
    }
}

/// Returns the value of the query parameter `name`. Only `&` separates parameters.
fn query_value<'r>(target: &'r [u8], name: &[u8]) -> Option<&'r [u8]> {
    let start = memchr::memchr(b'?', target)? + 1;
    let mut rest = &target[start..];
    loop {
        let end = memchr::memchr(b'&', rest).unwrap_or(rest.len());
        if let Some(value) = value_of(&rest[..end], name) {
            return Some(value);
        }
        rest = rest.get(end + 1..)?;
    }
}

/// Returns the value of the path parameter `name` in any segment (RFC 3986 §3.3).
fn path_param_value<'r>(target: &'r [u8], name: &[u8]) -> Option<&'r [u8]> {
    let path = &target[..memchr::memchr(b'?', target).unwrap_or(target.len())];
    let mut rest = path;
    loop {
        let start = memchr::memchr(b';', rest)? + 1;
        rest = &rest[start..];
        // A parameter ends at the next one or with its segment. After a `/`, look for the next `;`
        // again.
        let end = memchr::memchr2(b';', b'/', rest).unwrap_or(rest.len());
        if let Some(value) = value_of(&rest[..end], name) {
            return Some(value);
        }
        rest = &rest[end..];
    }
}

/// Returns the value of `name=value`, unless it is empty.
fn value_of<'r>(parameter: &'r [u8], name: &[u8]) -> Option<&'r [u8]> {
    let value = parameter.strip_prefix(name)?.strip_prefix(b"=")?;
    (!value.is_empty()).then_some(value)
}
