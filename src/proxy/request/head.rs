//! Rewrites heads: which headers Homing drops, replaces and adds.

use std::io::Write as _;
use std::net::IpAddr;

use super::hops;
use crate::affinity::cookie::{self, CookieConfig, OwnCookies, is_targeted_field};
use crate::affinity::pick::{Outcome, Reason};
use crate::h1::{self, Edit, Field, FieldKind, RequestHead, ResponseHead, Version};
use crate::model::Forwarding;

/// The changes to a request head.
#[derive(Debug)]
pub(crate) struct RequestEdits<'a> {
    /// The peer of the client connection.
    pub peer: IpAddr,
    /// Whether the peer's forwarding headers are trusted.
    pub trusted: bool,
    /// The Host for a request without one (HTTP/1.0).
    pub default_host: &'a str,
    /// Which forwarding headers to set.
    pub forwarding: &'a Forwarding,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The client's HTTP version, as in Via.
    pub version: &'static str,
    /// The subject and digest of the client's certificate.
    pub certificate: Option<(&'a str, &'a str)>,
    /// The sealed cookies, which are removed.
    pub own_cookies: Option<(&'a CookieConfig, OwnCookies)>,
    /// The values of X-Affinity-Backend and X-Affinity-Successor.
    pub announce: Option<(&'a str, Option<&'a str>)>,
    /// Whether to ask the backend for the upgrade.
    pub upgrade: bool,
}

/// Appends the request head for the backend.
pub(crate) fn write_request(out: &mut Vec<u8>, head: &RequestHead<'_>, edits: &RequestEdits<'_>) {
    h1::write_request_line(out, head.method, head.target.path_and_query());
    let host = if head.host.is_empty() { edits.default_host } else { head.host };
    h1::write_field(out, "Host", host.as_bytes());
    let forwarding = edits.forwarding;
    let http10 = head.version == Version::Http10;
    let names_fields = head.connection.options().next().is_some();
    let mut takes_trailers = false;
    let hops_left = hops::left(head);
    h1::copy_fields(out, &head.fields, |field| match field.kind {
        FieldKind::Te => {
            takes_trailers |= accepts_trailers(field.value);
            Edit::Drop
        }
        // Only Homing sets these, and nobody Proxy (httpoxy).
        FieldKind::Host | FieldKind::Affinity | FieldKind::ClientCert | FieldKind::Proxy => Edit::Drop,
        FieldKind::MaxForwards if hops_left.is_some() => Edit::Drop,
        FieldKind::Cookie if edits.own_cookies.is_some() => Edit::Drop,
        // Forwarding headers of an untrusted peer are dropped even if Homing sets none of its own.
        FieldKind::XForwardedFor if forwarding.x_forwarded || !edits.trusted => Edit::Drop,
        FieldKind::XForwardedProto | FieldKind::XForwardedHost if !edits.trusted => Edit::Drop,
        FieldKind::Forwarded if forwarding.forwarded || !edits.trusted => Edit::Drop,
        FieldKind::Expect if http10 => Edit::Drop,
        // The framing was validated and does not change.
        FieldKind::TransferEncoding => Edit::Keep,
        kind if h1::is_hop_by_hop(kind) => Edit::Drop,
        FieldKind::ContentLength => Edit::Keep,
        _ if names_fields && head.connection.names(field.name) => Edit::Drop,
        FieldKind::Other if !forwarding.underscores && field.name.as_bytes().contains(&b'_') => Edit::Drop,
        FieldKind::Other if is_spoofed(field.name, edits.trusted) => Edit::Drop,
        _ => Edit::Keep,
    });
    if let Some((config, own)) = edits.own_cookies {
        write_cookies_without(out, head, config, own);
    }
    if forwarding.x_forwarded {
        write_x_forwarded(out, head, edits);
    }
    if forwarding.forwarded {
        write_forwarded(out, head, edits);
    }
    if let Some(left) = hops_left {
        let left = left.saturating_sub(1);
        h1::write_field(out, "Max-Forwards", itoa::Buffer::new().format(left).as_bytes());
    }
    write_via(out, forwarding, edits.version, Some(hops::instance()));
    if let Some((backend, successor)) = edits.announce {
        h1::write_field(out, "X-Affinity-Backend", backend.as_bytes());
        if let Some(successor) = successor {
            h1::write_field(out, "X-Affinity-Successor", successor.as_bytes());
        }
    }
    if let Some((subject, digest)) = edits.certificate {
        if !subject.is_empty() {
            h1::write_field(out, "X-Client-Cert-Subject", subject.as_bytes());
        }
        h1::write_field(out, "X-Client-Cert-SHA256", digest.as_bytes());
    }
    if let (true, Some(protocol)) = (edits.upgrade, head.upgrade) {
        h1::write_field(out, "Connection", b"upgrade");
        h1::write_field(out, "Upgrade", protocol);
    } else if takes_trailers && !http10 {
        // Some backends send trailers only to those who ask for them. Homing forwards trailers.
        h1::write_field(out, "TE", b"trailers");
        h1::write_field(out, "Connection", b"te");
    }
    h1::end_head(out);
}

/// Returns whether a TE value accepts trailers (RFC 9110 §10.1.4).
fn accepts_trailers(te: &[u8]) -> bool {
    te.split(|byte| *byte == b',').any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Returns whether a header is in a family that only Homing (`X-Affinity-*`) or a trusted peer
/// (`X-Forwarded-*`, `X-Real-IP*`) may set. Treats `_` in a name as `-`, because CGI and WSGI
/// do not distinguish them.
fn is_spoofed(name: &str, trusted: bool) -> bool {
    let name = name.as_bytes();
    if name[0] | 0x20 != b'x' {
        return false;
    }
    let starts = |prefix: &[u8]| {
        let dashed = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        name.len() >= prefix.len() && name.iter().zip(prefix).all(|(&byte, &wanted)| dashed(byte) == wanted)
    };
    starts(b"x-affinity-") || (!trusted && (starts(b"x-forwarded-") || starts(b"x-real-ip")))
}

/// Writes the client's cookies without the sealed cookies.
fn write_cookies_without(out: &mut Vec<u8>, head: &RequestHead<'_>, config: &CookieConfig, own: OwnCookies) {
    let (mut rest, mut seen) = (Vec::new(), 0);
    for field in head.fields.iter().filter(|f| f.kind == FieldKind::Cookie) {
        rest.clear();
        match cookie::strip_cookie(&mut rest, field.value, |name| config.is_named(name), own, &mut seen) {
            cookie::Stripped::Unchanged => h1::write_field(out, "Cookie", field.value),
            cookie::Stripped::Changed => h1::write_field(out, "Cookie", &rest),
            cookie::Stripped::Empty => {}
        }
    }
}

/// Writes X-Forwarded-For: the trusted list, then the peer. Writes X-Forwarded-Proto and
/// X-Forwarded-Host as seen here, unless a trusted proxy has set them.
fn write_x_forwarded(out: &mut Vec<u8>, head: &RequestHead<'_>, edits: &RequestEdits<'_>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    let (mut proto, mut host) = (false, false);
    if edits.trusted {
        for field in &head.fields {
            match field.kind {
                FieldKind::XForwardedFor if !field.value.is_empty() => {
                    out.extend_from_slice(field.value);
                    out.extend_from_slice(b", ");
                }
                FieldKind::XForwardedProto => proto = true,
                FieldKind::XForwardedHost => host = true,
                _ => {}
            }
        }
    }
    write_ip(out, edits.peer);
    out.extend_from_slice(b"\r\n");
    if !proto {
        h1::write_field(out, "X-Forwarded-Proto", edits.scheme.as_bytes());
    }
    if !host && !head.host.is_empty() {
        h1::write_field(out, "X-Forwarded-Host", head.host.as_bytes());
    }
}

/// Writes Forwarded (RFC 7239): the trusted elements, then one for the peer.
fn write_forwarded(out: &mut Vec<u8>, head: &RequestHead<'_>, edits: &RequestEdits<'_>) {
    out.extend_from_slice(b"Forwarded: ");
    if edits.trusted {
        for field in head.fields.iter().filter(|f| f.kind == FieldKind::Forwarded && !f.value.is_empty()) {
            out.extend_from_slice(field.value);
            out.extend_from_slice(b", ");
        }
    }
    out.extend_from_slice(b"for=");
    match edits.peer {
        IpAddr::V4(_) => write_ip(out, edits.peer),
        IpAddr::V6(_) => {
            out.extend_from_slice(b"\"[");
            write_ip(out, edits.peer);
            out.extend_from_slice(b"]\"");
        }
    }
    if !head.host.is_empty() {
        // The parser accepts no Host that could end a quoted string.
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(head.host.as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(edits.scheme.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Returns a version as written in Via.
pub(crate) fn via_version(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    }
}

/// Writes Via, with the id of this process as a comment.
fn write_via(out: &mut Vec<u8>, forwarding: &Forwarding, version: &str, instance: Option<&str>) {
    if let Some(pseudonym) = &forwarding.via {
        out.extend_from_slice(b"Via: ");
        out.extend_from_slice(version.as_bytes());
        out.push(b' ');
        out.extend_from_slice(pseudonym.as_bytes());
        if let Some(instance) = instance {
            out.extend_from_slice(b" (");
            out.extend_from_slice(instance.as_bytes());
            out.push(b')');
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(v4) => {
            let mut digits = itoa::Buffer::new();
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(digits.format(octet).as_bytes());
            }
        }
        IpAddr::V6(v6) => {
            // Writing into a Vec cannot fail.
            let _ = write!(out, "{v6}");
        }
    }
}

/// 426: the response names the protocol that the client must use.
const UPGRADE_REQUIRED: u16 = 426;

/// The changes to a response head.
#[derive(Debug)]
pub(crate) struct ResponseEdits<'a> {
    /// Whether the client connection stays open.
    pub persistent: bool,
    /// The client's HTTP version.
    pub version: Version,
    /// The framing of the body sent to the client.
    pub framing: ClientFraming,
    /// The settings with the Via pseudonym.
    pub forwarding: &'a Forwarding,
    /// The value of X-Affinity-Outcome, if enabled.
    pub report: Option<AffinityReport<'a>>,
    /// The Set-Cookie values with the sealed cookie.
    pub set_cookies: &'a [String],
    /// Whether to add `Cache-Control: private`, and to remove the headers that override it at some
    /// shared caches.
    pub make_private: bool,
    /// The protocol that a 101 switches to.
    pub upgrade: Option<&'a [u8]>,
}

/// The framing of a response body sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientFraming {
    /// The backend's framing.
    Same,
    /// Chunked. The backend's body ends with its connection.
    Chunked,
    /// The body ends with the connection (HTTP/1.0 clients).
    UntilClose,
}

/// The value of X-Affinity-Outcome.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AffinityReport<'a> {
    pub outcome: Outcome,
    pub reason: Option<Reason>,
    pub backend: &'a str,
}

/// Appends the response head for the client.
pub(crate) fn write_response(out: &mut Vec<u8>, head: &ResponseHead<'_>, edits: &ResponseEdits<'_>) {
    h1::write_status_line(out, head.status, head.reason);
    let names_fields = head.connection.options().next().is_some();
    h1::copy_fields(out, &head.fields, |field: &Field<'_>| match field.kind {
        // Never sent to an HTTP/1.0 client, even without a body (RFC 9112 §6.1).
        FieldKind::TransferEncoding
            if edits.framing == ClientFraming::Same && edits.version == Version::Http11 =>
        {
            Edit::Keep
        }
        FieldKind::TransferEncoding | FieldKind::Affinity => Edit::Drop,
        // Names the protocol that the client must use (RFC 9110 §15.5.22).
        FieldKind::Upgrade if head.status == UPGRADE_REQUIRED => Edit::Keep,
        kind if h1::is_hop_by_hop(kind) => Edit::Drop,
        // Not allowed in these responses (RFC 9110 §8.6).
        FieldKind::ContentLength if matches!(head.status, 101 | 204) => Edit::Drop,
        FieldKind::ContentLength => Edit::Keep,
        _ if names_fields && head.connection.names(field.name) => Edit::Drop,
        _ if edits.make_private && is_targeted_field(field.name) => Edit::Drop,
        _ => Edit::Keep,
    });
    if edits.framing == ClientFraming::Chunked {
        h1::write_field(out, "Transfer-Encoding", b"chunked");
    }
    if edits.make_private {
        h1::write_field(out, "Cache-Control", b"private");
    }
    for cookie in edits.set_cookies {
        h1::write_field(out, "Set-Cookie", cookie.as_bytes());
    }
    write_via(out, edits.forwarding, via_version(head.version), None);
    if let Some(report) = &edits.report {
        write_report(out, report);
    }
    if let Some(protocol) = edits.upgrade {
        h1::write_field(out, "Connection", b"upgrade");
        h1::write_field(out, "Upgrade", protocol);
    } else if head.status == UPGRADE_REQUIRED && head.fields.first(FieldKind::Upgrade).is_some() {
        h1::write_field(out, "Connection", if edits.persistent { b"upgrade" } else { b"upgrade, close" });
    } else if !edits.persistent {
        h1::write_field(out, "Connection", b"close");
    } else if edits.version == Version::Http10 {
        h1::write_field(out, "Connection", b"keep-alive");
    }
    h1::end_head(out);
}

/// Appends an interim response (1xx, not 101) without hop-by-hop and affinity headers, and without
/// Content-Length (RFC 9110 §8.6).
pub(crate) fn write_interim(out: &mut Vec<u8>, head: &ResponseHead<'_>) {
    h1::write_status_line(out, head.status, head.reason);
    h1::copy_fields(out, &head.fields, |field| match field.kind {
        FieldKind::Affinity | FieldKind::ContentLength => Edit::Drop,
        kind if h1::is_hop_by_hop(kind) || head.connection.names(field.name) => Edit::Drop,
        _ => Edit::Keep,
    });
    h1::end_head(out);
}

/// Appends X-Affinity-Outcome.
pub(crate) fn write_report(out: &mut Vec<u8>, report: &AffinityReport<'_>) {
    out.extend_from_slice(b"X-Affinity-Outcome: ");
    out.extend_from_slice(report.outcome.as_str().as_bytes());
    if let Some(reason) = report.reason {
        out.extend_from_slice(b"; reason=");
        out.extend_from_slice(reason.as_str().as_bytes());
    }
    out.extend_from_slice(b"; backend=");
    out.extend_from_slice(report.backend.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Returns whether X-Forwarded-Proto says that the client used https.
pub(crate) fn forwarded_as_https(head: &RequestHead<'_>) -> bool {
    let proto = head.fields.iter().find(|f| f.kind == FieldKind::XForwardedProto);
    // The first entry of a list is the client's.
    let first = proto.and_then(|f| f.value.split(|b| *b == b',').next());
    first.is_some_and(|scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"https"))
}

/// Returns whether a request asks for a WebSocket. Homing forwards no other upgrade, because it
/// could not follow the protocol.
pub(crate) fn asks_for_websocket(head: &RequestHead<'_>) -> bool {
    head.upgrade.is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"))
}
