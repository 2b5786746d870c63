//! Parses response heads.

use std::mem::MaybeUninit;

use super::framing::KnownFields;
use super::scan::find_end;
use super::{FieldSlots, Fields, Framing, HeadError, HeadLimits, MAX_FIELDS, Parsed, ResponseHead, Version};

/// Parses the head of the response that starts at `buf[0]`, if it is complete.
///
/// `request_method` is the method of the request: responses to HEAD have no body. Interim responses
/// (1xx) have heads of their own; the caller calls again for the next one. For `scanned` and
/// `slots` see [`super::parse_request`].
///
/// # Errors
/// If the head is not strictly valid, as soon as the first invalid byte is seen.
pub fn parse_response<'s, 'b: 's>(
    buf: &'b [u8],
    scanned: &mut usize,
    limits: &HeadLimits,
    request_method: &str,
    slots: &'s mut FieldSlots<'b>,
) -> Result<Parsed<ResponseHead<'s>>, HeadError> {
    let view = &buf[..buf.len().min(limits.head_bytes)];
    let whole = if *scanned == 0 { decide(view, limits, request_method, slots).ok().flatten() } else { None };
    let decided = match whole {
        Some(decided) => decided,
        None => match scan(view, scanned)? {
            Some(end) => decide(&view[..end], limits, request_method, slots)?.ok_or(HeadError::StatusLine)?,
            None if view.len() >= limits.head_bytes => return Err(HeadError::HeadTooLarge),
            None => return Ok(Parsed::Partial),
        },
    };
    let head = ResponseHead {
        status: decided.status,
        reason: decided.reason,
        version: decided.version,
        fields: Fields { raw: decided.raw, list: &slots.list, may_have_spaces: true },
        framing: decided.framing,
        connection: decided.known.connection,
        upgrade: decided.known.upgrade,
        connection_auth: decided.known.connection_auth && matches!(decided.status, 401 | 407),
    };
    Ok(Parsed::Complete { head, len: decided.len })
}

/// A head without its fields, which are in the slots.
struct Decided<'b> {
    status: u16,
    reason: &'b [u8],
    version: Version,
    raw: &'b [u8],
    framing: Framing,
    known: KnownFields<'b>,
    len: usize,
}

/// Parses the head at the start of `view`; `None` if it is incomplete.
fn decide<'b>(
    view: &'b [u8],
    limits: &HeadLimits,
    request_method: &str,
    slots: &mut FieldSlots<'b>,
) -> Result<Option<Decided<'b>>, HeadError> {
    let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let room = &mut room[..limits.fields.min(MAX_FIELDS)];
    // Spaces before the colon are removed when the line is written (RFC 9112 §5.1).
    let mut parser = httparse::ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true);
    let len = match parser.parse_response_with_uninit_headers(&mut response, view, room) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(explain(error)),
    };
    let (Some(status), Some(version)) = (response.code, response.version) else {
        return Err(HeadError::StatusLine);
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };

    // httparse skips empty lines, accepts a bare LF as a line ending, and returns an empty reason
    // if it contains obs-text. Parse the line again. Many servers write no reason, and some not even
    // the space before it.
    let start = "HTTP/1.1 200".len();
    let first = memchr::memchr(b'\n', &view[..len]).map_or(len, |end| end + 1);
    let line = view[..first].strip_suffix(b"\r\n").ok_or(HeadError::BareLf)?;
    let reason = match line.get(start..) {
        Some([b' ', reason @ ..]) => reason,
        Some([]) => &[],
        _ => return Err(HeadError::StatusLine),
    };
    if !(100..=599).contains(&status) {
        return Err(HeadError::StatusLine);
    }

    let known = KnownFields::collect(&view[..len], first, response.headers, slots)?;
    let bodiless = status < 200 || status == 204;
    if known.chunked && (bodiless || version == Version::Http10) {
        return Err(HeadError::CodingNotAllowed);
    }
    let framing = match known.length {
        _ if bodiless || status == 304 || request_method == "HEAD" => Framing::None,
        Some(length) => Framing::Length(length),
        None if known.chunked => Framing::Chunked,
        None => Framing::UntilClose,
    };
    let raw = &view[first..len - 2];
    Ok(Some(Decided { status, reason, version, raw, framing, known, len }))
}

/// Searches for the end of the head, after the bytes already scanned.
fn scan(view: &[u8], scanned: &mut usize) -> Result<Option<usize>, HeadError> {
    const START: &[u8] = b"HTTP/1.";
    if *scanned < START.len() && view.iter().zip(START).any(|(byte, expected)| byte != expected) {
        return Err(HeadError::StatusLine);
    }
    find_end(view, 0, scanned)
}

fn explain(error: httparse::Error) -> HeadError {
    match error {
        httparse::Error::HeaderName => HeadError::FieldName,
        httparse::Error::HeaderValue => HeadError::FieldValue,
        httparse::Error::TooManyHeaders => HeadError::TooManyFields,
        httparse::Error::Version => HeadError::Version,
        _ => HeadError::StatusLine,
    }
}
