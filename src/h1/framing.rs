//! Framing: where a body ends (RFC 9112 §6).

use super::authentication::is_of_connection;
use super::bytes::{is_token_string, trim_ows};
use super::{Connection, FieldKind, FieldSlots, HeadError};

/// How the end of a body is determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks and a trailer section.
    Chunked,
    /// All bytes until the connection closes; responses only.
    UntilClose,
}

/// The fields of a head that the codec interprets.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "the flags are independent")]
pub(super) struct KnownFields<'b> {
    pub host: Option<&'b [u8]>,
    pub length: Option<u64>,
    pub chunked: bool,
    pub connection: Connection<'b>,
    pub expects_continue: bool,
    pub upgrade: Option<&'b [u8]>,
    /// Credentials or challenges of a scheme that authenticates the connection.
    pub connection_auth: bool,
    /// Whether there is a Via.
    pub via: bool,
    upgrades: usize,
}

impl<'b> KnownFields<'b> {
    /// Visits every field once: checks the line ending, classifies it, stores it in `slots`, and
    /// interprets it. `head` is the complete head, `first` the start of its field lines.
    pub(super) fn collect(
        head: &'b [u8],
        first: usize,
        found: &[httparse::Header<'b>],
        slots: &mut FieldSlots<'b>,
    ) -> Result<Self, HeadError> {
        // httparse also accepts a bare LF as a line ending. Every line except the last is checked
        // at the start of the next one.
        if !head.ends_with(b"\r\n") || !head[..head.len() - 2].ends_with(b"\r\n") {
            return Err(HeadError::BareLf);
        }
        let base = head.as_ptr().addr();
        let mut known = Self::default();
        slots.list.clear();
        for header in found {
            let start = header.name.as_ptr().addr().wrapping_sub(base);
            if !head.get(first..start).is_some_and(|lines| lines.is_empty() || lines.ends_with(b"\r\n")) {
                return Err(HeadError::BareLf);
            }
            let line = u32::try_from(start - first).map_err(|_| HeadError::HeadTooLarge)?;
            let kind = FieldKind::classify(header.name.as_bytes());
            let field = super::Field { name: header.name, value: header.value, kind, line };
            slots.list.try_push(field).map_err(|_| HeadError::TooManyFields)?;
            if kind != FieldKind::Other {
                known.note(kind, header.value)?;
            }
        }
        if known.chunked && known.length.is_some() {
            return Err(HeadError::LengthAndCoding);
        }
        if known.upgrades != 1 || !known.connection.upgrade {
            known.upgrade = None;
        }
        Ok(known)
    }

    fn note(&mut self, kind: FieldKind, value: &'b [u8]) -> Result<(), HeadError> {
        match kind {
            FieldKind::Host if self.host.is_some() => Err(HeadError::HostRepeated),
            FieldKind::Host => {
                self.host = Some(value);
                Ok(())
            }
            FieldKind::ContentLength if self.length.is_some() => Err(HeadError::ContentLengthRepeated),
            FieldKind::ContentLength => {
                self.length = Some(content_length(value)?);
                Ok(())
            }
            FieldKind::TransferEncoding if self.chunked => Err(HeadError::TransferEncoding),
            FieldKind::TransferEncoding => {
                only_chunked(value)?;
                self.chunked = true;
                Ok(())
            }
            FieldKind::Connection => self.connection.add(value),
            FieldKind::Authorization
            | FieldKind::ProxyAuthorization
            | FieldKind::WwwAuthenticate
            | FieldKind::ProxyAuthenticate => {
                self.connection_auth |= is_of_connection(value);
                Ok(())
            }
            FieldKind::Expect => {
                self.expects_continue |= value.eq_ignore_ascii_case(b"100-continue");
                Ok(())
            }
            FieldKind::Via => {
                self.via = true;
                Ok(())
            }
            FieldKind::Upgrade => {
                self.upgrade = Some(value);
                self.upgrades += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Parses 1*DIGIT and nothing else: no sign, no list, at most 63 bits, because many readers use
/// signed integers.
fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    if value.is_empty() {
        return Err(HeadError::ContentLength);
    }
    let length = value.iter().try_fold(0_i64, |sum, &byte| {
        let digit = byte.wrapping_sub(b'0');
        let next = sum.checked_mul(10).filter(|_| digit <= 9);
        next.and_then(|sum| sum.checked_add(i64::from(digit))).ok_or(HeadError::ContentLength)
    })?;
    u64::try_from(length).map_err(|_| HeadError::ContentLength)
}

/// Checks that `chunked` is the only coding.
fn only_chunked(value: &[u8]) -> Result<(), HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings = || value.split(|&byte| byte == b',').map(trim_ows);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let well_formed = codings().all(is_token_string);
    let chunked_only_last = codings().rev().skip(1).all(|coding| !is_chunked(coding));
    Err(if well_formed && chunked_only_last { HeadError::UnknownCoding } else { HeadError::TransferEncoding })
}
