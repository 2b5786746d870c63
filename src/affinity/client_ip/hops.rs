//! Parses forwarding headers into lists of hops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use crate::affinity::message::trim;

/// The maximum number of hops read, from the right.
pub(super) const MAX_HOPS: usize = 32;

/// A hop's address; `None` if the element has no address.
pub(super) type Hop = Option<IpAddr>;

/// Hops from right to left, up to the requested number.
pub(super) type Hops = ArrayVec<Hop, MAX_HOPS>;

/// Returns the hops of one X-Forwarded-For line, rightmost first.
pub(super) fn x_forwarded_for(line: &[u8], limit: usize) -> Hops {
    line.rsplit(|b| *b == b',')
        .map(trim)
        .filter(|element| !element.is_empty())
        .map(parse_node)
        .take(limit.min(MAX_HOPS))
        .collect()
}

/// Returns the hops of one Forwarded line (RFC 7239 §4), rightmost first.
///
/// Quoted strings can only be parsed from the left. An element that does not parse becomes a hop
/// without an address, and parsing resumes at its first comma, quoted or not. An unclosed quote
/// from a client therefore cannot hide what the proxies appended.
pub(super) fn forwarded(line: &[u8], limit: usize) -> Hops {
    let mut hops = Hops::new();
    let mut push = |hop: Hop| {
        if hops.is_full() {
            hops.remove(0);
        }
        hops.push(hop);
    };
    let mut rest = trim(line);
    while !rest.is_empty() {
        if let [b',', tail @ ..] = rest {
            rest = trim(tail);
            continue;
        }
        if let Some((node, tail)) = element(rest) {
            push(node.and_then(|node| parse_node(&node)));
            rest = trim(tail);
        } else {
            push(None);
            rest = memchr::memchr(b',', rest).map_or(&[][..], |comma| trim(&rest[comma..]));
        }
    }
    hops.reverse();
    hops.truncate(limit);
    hops
}

/// The longest node worth reading: `[`, 45 characters of IPv6, `]:65535`.
type Node = ArrayVec<u8, 64>;

/// Parses one element. Returns its `for` value and the rest of the line from the comma on, or
/// `None` if it is malformed.
fn element(text: &[u8]) -> Option<(Option<Node>, &[u8])> {
    let mut node = None;
    let mut rest = text;
    loop {
        rest = trim_start(rest);
        // RFC 7239 §4 allows empty pairs (`;;`).
        if !matches!(rest, [] | [b',' | b';', ..]) {
            let equals = rest.iter().position(|b| !is_token(*b))?;
            let (name, tail) = rest.split_at(equals);
            let (value, tail) = value(tail.strip_prefix(b"=")?)?;
            if name.eq_ignore_ascii_case(b"for") && node.replace(value).is_some() {
                return None;
            }
            rest = trim_start(tail);
        }
        match rest {
            [] | [b',', ..] => return Some((node, rest)),
            [b';', tail @ ..] => rest = tail,
            _ => return None,
        }
    }
}

/// Parses a token or quoted string, unescaped. Returns it and the rest of the line. A value too
/// long for a node is truncated, which makes it invalid as a node.
fn value(text: &[u8]) -> Option<(Node, &[u8])> {
    let mut value = Node::new();
    let Some(quoted) = text.strip_prefix(b"\"") else {
        // Wider than a token: proxies write IPv6 addresses and addresses with a port without the
        // required quotes.
        let end = text.iter().position(|b| !is_token(*b) && !b"[]:".contains(b)).unwrap_or(text.len());
        let _ = value.try_extend_from_slice(&text[..end.min(value.capacity())]);
        return (end > 0).then_some((value, &text[end..]));
    };
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        let byte = match byte {
            b'"' => return Some((value, &quoted[at + 1..])),
            b'\\' => bytes.next()?.1,
            other => other,
        };
        let _ = value.try_push(*byte);
    }
    None
}

/// Parses `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`. The
/// port may be an obfuscated identifier (RFC 7239 §6.2).
fn parse_node(node: &[u8]) -> Hop {
    let node = std::str::from_utf8(node).ok()?;
    let address = if let Some(bracketed) = node.strip_prefix('[') {
        let (address, port) = bracketed.split_once(']')?;
        if !port.is_empty() && !is_port(port.strip_prefix(':')?) {
            return None;
        }
        IpAddr::V6(address.parse::<Ipv6Addr>().ok()?)
    } else if let Ok(address) = node.parse::<IpAddr>() {
        address
    } else {
        let (address, port) = node.split_once(':')?;
        if !is_port(port) {
            return None;
        }
        IpAddr::V4(address.parse::<Ipv4Addr>().ok()?)
    };
    Some(address.to_canonical())
}

fn is_port(text: &str) -> bool {
    let obfuscated = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match text.strip_prefix('_') {
        Some(name) => !name.is_empty() && obfuscated(name),
        None => text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok(),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}
