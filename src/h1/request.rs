//! Parses request heads.

use std::mem::MaybeUninit;

use super::bytes::is_token;
use super::framing::KnownFields;
use super::host::parse_host;
use super::scan::find_end;
use super::{
    FieldSlots, Fields, Framing, HeadError, HeadLimits, MAX_FIELDS, Parsed, RequestHead, Target, Version,
};

/// The maximum length of a method; the longest registered one has 17 bytes.
pub const MAX_METHOD: usize = 24;

/// Bytes of the request line that are validated before it is complete.
const PREFIX: usize = MAX_METHOD + 8;

/// The maximum length of the empty lines before a request line (RFC 9112 §2.2), in bytes.
const MAX_LEAD: usize = 4;

/// Parses the head of the request that starts at `buf[0]`, if it is complete.
///
/// `scanned` is 0 for a new head and stores the progress of the search for the end between calls,
/// so that a head that arrives byte by byte takes linear time. `buf` must keep its start meanwhile.
/// The fields are stored in `slots`. The result, including an error, depends only on the bytes and
/// not on how they were split.
///
/// # Errors
/// If the head is not strictly valid, as soon as the first invalid byte is seen.
pub fn parse_request<'s, 'b: 's>(
    buf: &'b [u8],
    scanned: &mut usize,
    limits: &HeadLimits,
    slots: &'s mut FieldSlots<'b>,
) -> Result<Parsed<RequestHead<'s>>, HeadError> {
    let view = &buf[..buf.len().min(limits.head_bytes)];
    let lead = leading_empty_lines(view);
    let whole = if *scanned == 0 { decide(view, lead, limits, slots).ok().flatten() } else { None };
    let decided = match whole {
        Some(decided) => decided,
        None => match scan(view, lead, scanned, limits)? {
            Some(end) => decide(&view[..end], lead, limits, slots)?.ok_or(HeadError::RequestLine)?,
            None if view.len() >= limits.head_bytes => return Err(too_long(view, lead)),
            None => return Ok(Parsed::Partial),
        },
    };
    let head = RequestHead {
        method: decided.method,
        target: decided.target,
        version: decided.version,
        fields: Fields { raw: decided.raw, list: &slots.list, may_have_spaces: false },
        host: decided.host,
        framing: decided.framing,
        connection: decided.known.connection,
        expects_continue: decided.known.expects_continue && decided.version == Version::Http11,
        upgrade: decided.known.upgrade.filter(|_| decided.version == Version::Http11),
        has_via: decided.known.via,
        connection_auth: decided.known.connection_auth,
    };
    Ok(Parsed::Complete { head, len: decided.len })
}

/// A head without its fields, which are in the slots.
struct Decided<'b> {
    method: &'b str,
    target: Target<'b>,
    version: Version,
    raw: &'b [u8],
    host: &'b str,
    framing: Framing,
    known: KnownFields<'b>,
    len: usize,
}

/// Parses the head at the start of `view`; `None` if it is incomplete.
fn decide<'b>(
    view: &'b [u8],
    lead: usize,
    limits: &HeadLimits,
    slots: &mut FieldSlots<'b>,
) -> Result<Option<Decided<'b>>, HeadError> {
    let buf = &view[lead..];
    // httparse would skip any number of empty lines, and bare LFs too.
    if matches!(buf.first(), Some(b'\r' | b'\n')) {
        return Err(HeadError::RequestLine);
    }
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let room = &mut room[..limits.fields.min(MAX_FIELDS)];
    let len = match request.parse_with_uninit_headers(buf, room) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(explain(error, buf)),
    };
    let (Some(method), Some(path), Some(version)) = (request.method, request.path, request.version) else {
        return Err(HeadError::RequestLine);
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };

    // The length of `method SP target SP HTTP/1.x CRLF`.
    let first = method.len() + 1 + path.len() + 1 + version.as_str().len() + 2;
    if method.len() > MAX_METHOD {
        return Err(HeadError::Method);
    }
    if path.len() > limits.uri_bytes {
        return Err(HeadError::TargetTooLong);
    }
    let target = parse_target(method, path)?;
    let known = KnownFields::collect(&buf[..len], first, request.headers, slots)?;

    let host = match known.host {
        Some(value) => parse_host(value)?,
        None if version == Version::Http11 => return Err(HeadError::HostMissing),
        None => "",
    };
    let host = if let Target::Absolute { authority, .. } = target { authority } else { host };
    let framing = match known.length {
        None if !known.chunked => Framing::None,
        Some(length) => Framing::Length(length),
        None if version == Version::Http10 => return Err(HeadError::CodingNotAllowed),
        None => Framing::Chunked,
    };
    if method == "TRACE" && !matches!(framing, Framing::None | Framing::Length(0)) {
        return Err(HeadError::BodyNotAllowed);
    }
    let raw = &buf[first..len - 2];
    Ok(Some(Decided { method, target, version, raw, host, framing, known, len: lead + len }))
}

fn parse_target<'b>(method: &str, target: &'b str) -> Result<Target<'b>, HeadError> {
    if method == "CONNECT" {
        return Err(HeadError::Connect);
    }
    if !has_uri_bytes(target) {
        return Err(HeadError::Target);
    }
    if target.starts_with('/') {
        return Ok(Target::Origin(target));
    }
    if target == "*" {
        return if method == "OPTIONS" { Ok(Target::Asterisk) } else { Err(HeadError::Target) };
    }
    let (scheme, rest) = target.split_once("://").ok_or(HeadError::Target)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(HeadError::Target);
    }
    let (authority, path_and_query) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path_and_query = match path_and_query.as_bytes().first() {
        None if method == "OPTIONS" => "*",
        None => "/",
        Some(b'/') => path_and_query,
        // The origin form of `http://a?b` is not a substring of it, and no client sends this.
        Some(_) => return Err(HeadError::Target),
    };
    Ok(Target::Absolute { scheme, authority: parse_host(authority.as_bytes())?, path_and_query })
}

/// Returns true if the path has only bytes of a URI (and `"`, which HTTP/2 accepts too), and the
/// query only bytes that browsers and scripts send: everything but `#`. Readers disagree on what a
/// `\` in a path means; what follows the `?` belongs to the application.
fn has_uri_bytes(target: &str) -> bool {
    let odd =
        |byte: &u8| !matches!(byte, b'!'..=b'~') | matches!(byte, b'"' | b'#' | b'<' | b'>' | b'\\' | b'`');
    // Counts without an early exit, so that the loop is vectorized.
    if target.as_bytes().iter().filter(|byte| odd(byte)).count() == 0 {
        return true;
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    path.bytes().all(|byte| byte == b'"' || !odd(&byte)) && !query.as_bytes().contains(&b'#')
}

fn leading_empty_lines(buf: &[u8]) -> usize {
    let mut lead = 0;
    while lead < MAX_LEAD && buf[lead..].starts_with(b"\r\n") {
        lead += 2;
    }
    lead
}

/// Searches for the end of the head byte by byte, after the bytes already scanned.
fn scan(
    view: &[u8],
    lead: usize,
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Option<usize>, HeadError> {
    if *scanned < lead + PREFIX {
        check_prefix(&view[lead..view.len().min(lead + PREFIX)])?;
    }
    // A valid request line ends before this.
    let longest =
        lead.saturating_add(MAX_METHOD + 1 + "HTTP/1.1\r\n".len() + 1).saturating_add(limits.uri_bytes);
    if *scanned < longest {
        let line = &view[..view.len().min(longest)];
        if let Some(end) = find_end(line, lead, scanned)? {
            return Ok(Some(end));
        }
        if line.len() == longest && memchr::memchr(b'\n', &line[lead..]).is_none() {
            return Err(HeadError::TargetTooLong);
        }
    }
    find_end(view, lead, scanned)
}

/// Checks whether this can be the start of a request line. `prefix` is at most [`PREFIX`] long.
fn check_prefix(prefix: &[u8]) -> Result<(), HeadError> {
    let (mut in_method, mut in_query) = (true, false);
    for (at, &byte) in prefix.iter().enumerate() {
        match byte {
            b'\r' => return Ok(()),
            b'\n' => return Err(HeadError::BareLf),
            b'\t' => return Err(HeadError::RequestLine),
            0..=0x1f | 0x7f => return Err(HeadError::Control),
            b' ' if at == 0 => return Err(HeadError::RequestLine),
            b' ' => in_method = false,
            b'?' if !in_method => in_query = true,
            _ if !in_method && !in_query && byte >= 0x80 => return Err(HeadError::Target),
            _ if in_method && (at == MAX_METHOD || !is_token(byte)) => return Err(HeadError::Method),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the error for a head that does not end within the limit.
fn too_long(view: &[u8], lead: usize) -> HeadError {
    if memchr::memchr(b'\n', &view[lead..]).is_none() {
        HeadError::TargetTooLong
    } else {
        HeadError::HeadTooLarge
    }
}

/// Converts an httparse error. `buf` starts with the request line.
fn explain(error: httparse::Error, buf: &[u8]) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::FieldName,
        httparse::Error::HeaderValue => HeadError::FieldValue,
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version if has_other_version(buf) => HeadError::Version,
        httparse::Error::Token if !has_utf8_target(buf) => HeadError::Target,
        _ => HeadError::RequestLine,
    }
}

/// Returns false if the target is not UTF-8.
fn has_utf8_target(buf: &[u8]) -> bool {
    let line = &buf[..memchr::memchr(b'\r', buf).unwrap_or(buf.len())];
    line.split(|&byte| byte == b' ').nth(1).is_none_or(|target| std::str::from_utf8(target).is_ok())
}

/// Returns true if the request line is valid except for an unsupported version.
fn has_other_version(buf: &[u8]) -> bool {
    let line = &buf[..memchr::memchr(b'\r', buf).unwrap_or(buf.len())];
    let mut parts = line.split(|&byte| byte == b' ');
    let version = parts.nth(2);
    let well_formed = matches!(version, Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit());
    well_formed && parts.next().is_none()
}
