//! The key: what identifies a session's requests.
//!
//! An upstream lists sources, and the first one present in a request decides. A source with an
//! empty value is absent: a cleared cookie falls through to the next source instead of putting all
//! such clients together. Values are compared and hashed as received. They are not percent-decoded,
//! so an id that a client re-encodes is another id. Nothing here allocates.

use std::fmt;
use std::net::IpAddr;

use super::client_ip::Mask;
use super::table::Table;
use super::{KeyHash, Seed, SessionName, Timestamp};

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
    /// The name of its session in the table; `None` if there is no table.
    pub name: Option<SessionName>,
}

/// How keys are hashed, and which sessions are known.
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    /// The ring's seed.
    pub seed: Seed,
    /// The mask of addresses.
    pub mask: Mask,
    /// The table, if bindings are kept in one.
    pub table: Option<&'a Table>,
    /// When the request arrived.
    pub now: Timestamp,
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

/// Returns the key from the first source that is present. If it has several values, the first that the
/// table knows wins, else the first: a browser may send an old cookie in front of the live one.
pub fn find_key(
    sources: &[KeySource],
    context: KeyContext<'_>,
    request: &impl RequestView,
    client: ClientIdentity<'_>,
) -> Option<FoundKey> {
    let KeyContext { seed, mask, table, .. } = context;
    let namer = table.map(Table::namer);
    sources.iter().enumerate().find_map(|(source, wanted)| {
        let (hash, name) = match wanted {
            KeySource::Ip => {
                let address = mask.apply(client.ip);
                (KeyHash::of_address(seed, address), namer.map(|namer| namer.of_address(address)))
            }
            KeySource::ClientCert => {
                let name = client.certificate?;
                (of_certificate(seed, name), namer.map(|namer| namer.of_certificate(name.as_bytes())))
            }
            _ => {
                let id = match table {
                    Some(table) => known_id(wanted, request, table, context.now)?,
                    None => find_id(wanted, request)?,
                };
                (KeyHash::of_id(seed, id), namer.map(|namer| namer.of_id(id)))
            }
        };
        Some(FoundKey { source, hash, name })
    })
}

/// Returns the id in one source: of several values, the first that the table knows, else the first.
fn known_id<'r>(
    source: &'r KeySource,
    request: &'r impl RequestView,
    table: &Table,
    now: Timestamp,
) -> Option<&'r [u8]> {
    let mut first_two = [None; 2];
    let mut found = None;
    let mut tried = 0;
    let known = |id: &[u8]| table.peek(table.namer().of_id(id), now).is_some();
    each_id(source, request, |id| {
        // One value, as nearly always, is not looked up here.
        match &mut first_two {
            [first @ None, _] => *first = Some(id),
            [Some(first), second @ None] if id != *first => {
                *second = Some(id);
                found = [*first, id].into_iter().find(|id| known(id));
                tried = 2;
            }
            [_, None] => {}
            [_, Some(_)] => {
                tried += 1;
                found = Some(id).filter(|id| known(id));
            }
        }
        found.is_none() && tried < MAX_TRIED
    });
    found.or(first_two[0])
}

/// The most values of one name that are looked up. A client may send hundreds.
const MAX_TRIED: usize = 8;

/// Hashes the name in a certificate. No id from a client can be equal to it.
fn of_certificate(seed: Seed, name: &str) -> KeyHash {
    KeyHash::of_id(seed, format!("client_cert\0{name}").as_bytes())
}

/// Returns the id in one source, never empty. Returns `None` for [`KeySource::Ip`] and
/// [`KeySource::ClientCert`], which are not in the request.
///
/// Of several cookies, headers or parameters with the same name, the first non-empty value wins.
pub fn find_id<'r>(source: &'r KeySource, request: &'r impl RequestView) -> Option<&'r [u8]> {
    let mut found = None;
    each_id(source, request, |id| {
        found = Some(id);
        false
    });
    found
}

/// Calls `visit` with each non-empty value in one source, in order, while it returns true.
fn each_id<'r>(source: &'r KeySource, request: &'r impl RequestView, visit: impl FnMut(&'r [u8]) -> bool) {
    let target = request.path_and_query().as_bytes();
    match source {
        KeySource::Ip | KeySource::ClientCert => {}
        KeySource::Cookie(name) => visit_all(cookie_values(request, name.as_bytes()), visit),
        KeySource::Header(name) => visit_all(request.field_values(name).map(trim), visit),
        KeySource::Query(name) => visit_all(query_values(target, name.as_bytes()), visit),
        KeySource::PathParam(name) => visit_all(path_param_values(target, name.as_bytes()), visit),
    }
}

fn visit_all<'r>(values: impl Iterator<Item = &'r [u8]>, visit: impl FnMut(&'r [u8]) -> bool) {
    let _ = values.filter(|value| !value.is_empty()).map(visit).find(|more| !more);
}

/// Returns the values of the query parameter `name`. Only `&` separates parameters.
fn query_values<'r>(target: &'r [u8], name: &'r [u8]) -> impl Iterator<Item = &'r [u8]> {
    let query = memchr::memchr(b'?', target).map(|mark| &target[mark + 1..]);
    let parameters = query.into_iter().flat_map(|query| query.split(|byte| *byte == b'&'));
    parameters.filter_map(move |parameter| value_of(parameter, name))
}

/// Returns the values of the path parameter `name` in all segments (RFC 3986 §3.3).
fn path_param_values<'r>(target: &'r [u8], name: &'r [u8]) -> impl Iterator<Item = &'r [u8]> {
    let mut rest = &target[..memchr::memchr(b'?', target).unwrap_or(target.len())];
    let parameters = std::iter::from_fn(move || {
        let start = memchr::memchr(b';', rest)? + 1;
        rest = &rest[start..];
        // A parameter ends at the next one or with its segment. After a `/`, look for the next `;`
        // again.
        let end = memchr::memchr2(b';', b'/', rest).unwrap_or(rest.len());
        let parameter = &rest[..end];
        rest = &rest[end..];
        Some(parameter)
    });
    parameters.filter_map(move |parameter| value_of(parameter, name))
}

/// Returns the value of `name=value`.
fn value_of<'r>(parameter: &'r [u8], name: &[u8]) -> Option<&'r [u8]> {
    parameter.strip_prefix(name)?.strip_prefix(b"=")
}
