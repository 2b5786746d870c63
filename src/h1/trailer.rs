//! Which trailers to forward (RFC 9110 §6.5.1).

use super::bytes::{is_token, is_value};
use super::{BodyError, FieldKind};

/// What to do with a trailer line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trailer {
    /// Forward it.
    Keep,
    /// Drop it: the field is not allowed in trailers.
    Drop,
}

/// Validates one trailer line, without its CRLF.
pub(super) fn judge(line: &[u8]) -> Result<Trailer, BodyError> {
    let name_len = line.iter().position(|&byte| !is_token(byte)).ok_or(BodyError::Trailer)?;
    let (name, rest) = line.split_at(name_len);
    match rest {
        [b':', value @ ..] if !name.is_empty() && value.iter().all(|&byte| is_value(byte)) => {}
        _ => return Err(BodyError::Trailer),
    }
    Ok(if is_forbidden(name) { Trailer::Drop } else { Trailer::Keep })
}

/// Returns true if the field affects how a message is framed, routed, authenticated, cached or
/// interpreted. A reader that merges trailers into the header could be fooled with it.
fn is_forbidden(name: &[u8]) -> bool {
    if name.contains(&b'_') {
        // CGI and WSGI do not distinguish the two.
        let dashed: Vec<u8> = name.iter().map(|&b| if b == b'_' { b'-' } else { b }).collect();
        return is_forbidden(&dashed);
    }
    // The proxy, or the backend, acts on every kind that the proxy knows.
    if FieldKind::classify(name) != FieldKind::Other {
        return true;
    }
    FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}

/// The forbidden fields that [`FieldKind`] does not know.
const FORBIDDEN: &[&[u8]] = &[
    // Request modifiers and conditions.
    b"range",
    b"if-match",
    b"if-none-match",
    b"if-modified-since",
    b"if-unmodified-since",
    b"if-range",
    // Authentication and origin.
    b"authentication-info",
    b"proxy-authentication-info",
    b"origin",
    b"x-real-ip",
    b"x-forwarded-port",
    b"x-forwarded-server",
    // Response control.
    b"age",
    b"date",
    b"expires",
    b"location",
    b"pragma",
    b"retry-after",
    b"vary",
    b"warning",
    // Content interpretation.
    b"content-encoding",
    b"content-type",
    b"content-range",
    b"content-location",
];
