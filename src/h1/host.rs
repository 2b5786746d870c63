//! Parses `uri-host [ ":" [ port ] ]` (RFC 9110 §7.2), limited to hosts that can be resolved and routed.

use std::net::Ipv6Addr;

use super::HeadError;
use super::bytes::is_host;

/// The maximum length of a host, port included: a DNS name and `:65535`.
const MAX_HOST: usize = 255 + 6;

/// Parses a host. Userinfo and empty hosts are errors. An empty port, which a URI may have, is
/// dropped with its colon (RFC 3986 §3.2.3).
pub(super) fn parse_host(value: &[u8]) -> Result<&str, HeadError> {
    let value = match value {
        [name @ .., b':'] if !name.is_empty() && !name.ends_with(b":") => name,
        _ => value,
    };
    let name = value.iter().position(|&byte| !is_host(byte)).unwrap_or(value.len());
    let port = match value.get(name) {
        None => None,
        Some(b':') => Some(&value[name + 1..]),
        Some(b'[') if name == 0 => literal_port(value)?,
        Some(_) => return Err(HeadError::Host),
    };
    let bare = matches!(value, [] | [b':', ..]);
    if bare || value.len() > MAX_HOST || !port.is_none_or(is_port) {
        return Err(HeadError::Host);
    }
    std::str::from_utf8(value).map_err(|_| HeadError::Host)
}

/// Parses `"[" IPv6address "]" [":" port]` and returns the port. Zone ids and `IPvFuture` are
/// errors.
fn literal_port(value: &[u8]) -> Result<Option<&[u8]>, HeadError> {
    let close = value.iter().position(|&byte| byte == b']').ok_or(HeadError::Host)?;
    std::str::from_utf8(&value[1..close])
        .ok()
        .and_then(|address| address.parse::<Ipv6Addr>().ok())
        .ok_or(HeadError::Host)?;
    match &value[close + 1..] {
        [] => Ok(None),
        [b':', port @ ..] => Ok(Some(port)),
        _ => Err(HeadError::Host),
    }
}

fn is_port(port: &[u8]) -> bool {
    let number = || port.iter().fold(0_u32, |sum, byte| sum * 10 + u32::from(byte - b'0'));
    (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit) && u16::try_from(number()).is_ok()
}
