//! Writes heads and chunk framing to the caller's buffer.
//!
//! Release builds do not validate the input: names and values come from a parsed head, the
//! configuration or HTTP/2 fields, none of which can contain CR, LF or NUL.

use super::{Field, Fields};

/// The end of a chunk's data.
pub const CHUNK_END: &[u8] = b"\r\n";

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What to do with a field line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit<'a> {
    /// Forward it byte for byte.
    Keep,
    /// Drop it.
    Drop,
    /// Forward it with this value.
    Replace(&'a [u8]),
}

/// Writes a request line; always HTTP/1.1.
#[inline]
pub fn write_request_line(out: &mut Vec<u8>, method: &str, target: &str) {
    out.reserve(method.len() + target.len() + " ".len() + " HTTP/1.1\r\n".len());
    out.extend_from_slice(method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// Writes a status line; always HTTP/1.1. `status` is 100..=999.
#[inline]
pub fn write_status_line(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    debug_assert!((100..=999).contains(&status) && is_line(reason));
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// Writes a field line.
#[inline]
pub fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    debug_assert!(is_line(name.as_bytes()) && is_line(value));
    out.reserve(name.len() + value.len() + ": \r\n".len());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes the empty line.
#[inline]
pub fn end_head(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Returns whether a field line has spaces before its colon.
fn has_spaces(fields: &Fields<'_>, field: &Field<'_>) -> bool {
    fields.raw.get(field.line as usize + field.name.len()) != Some(&b':')
}

/// Writes the field lines of a head, edited by `edit`. Adjacent lines that are kept are copied
/// together as received. This is safe because only strictly valid lines are accepted; a line with
/// spaces before the colon, which responses may have, is written anew.
#[inline]
pub fn copy_fields<'b, 'e>(
    out: &mut Vec<u8>,
    fields: &Fields<'b>,
    mut edit: impl FnMut(&Field<'b>) -> Edit<'e>,
) {
    out.reserve(fields.raw.len());
    // Lines from here on are kept but not copied yet.
    let mut kept = 0;
    for (index, field) in fields.list.iter().enumerate() {
        let edit = edit(field);
        let edit = match edit {
            Edit::Keep if fields.may_have_spaces && has_spaces(fields, field) => Edit::Replace(field.value),
            Edit::Keep => continue,
            edit => edit,
        };
        let next = fields.list.get(index + 1).map_or(fields.raw.len(), |next| next.line as usize);
        out.extend_from_slice(&fields.raw[kept..field.line as usize]);
        kept = next;
        if let Edit::Replace(value) = edit {
            write_field(out, field.name, value);
        }
    }
    out.extend_from_slice(&fields.raw[kept..]);
}

/// Writes the size line of a chunk; `len` must not be 0 (which would end the body).
#[inline]
pub fn write_chunk_prefix(out: &mut Vec<u8>, len: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    debug_assert!(len > 0);
    let significant = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for place in (0..significant).rev() {
        out.push(DIGITS[len >> (place * 4) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}

fn is_line(bytes: &[u8]) -> bool {
    !bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}
