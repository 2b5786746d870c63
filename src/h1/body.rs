//! Forwards bodies by reference.
//!
//! A body is not decoded and re-encoded: [`Body`] says which bytes of the input belong to it, and
//! which of those to forward. Chunks are forwarded with their framing, so that a whole buffer of
//! them is one range. Chunk extensions and forbidden trailers are dropped.

use std::ops::Range;

use super::bytes::is_value;
use super::trailer::{Trailer, judge};
use super::{BodyError, Framing};

/// Limits on the parts of a chunked body that are not data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes in the trailer section. The caller's buffer must have room for as many, since a
    /// trailer line is validated as a whole.
    pub trailer_bytes: u32,
    /// Bytes of chunk extensions in one body.
    pub extension_bytes: u32,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { trailer_bytes: 8 * 1024, extension_bytes: 16 * 1024 }
    }
}

/// The result of [`Body::advance`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The number of bytes consumed.
    pub consumed: usize,
    /// The range of the consumed bytes to forward; may be empty.
    pub forward: Range<usize>,
    /// Whether the body is complete; the bytes after it belong to the next message.
    pub done: bool,
}

/// The parser state of one body.
#[derive(Debug, Clone)]
pub struct Body {
    state: State,
    output: Output,
    /// Hex digits of the chunk size so far.
    digits: u8,
    /// Whether nothing has followed the semicolon yet.
    extension_empty: bool,
    /// What is left of the limits.
    trailers_left: u32,
    extensions_left: u32,
    /// Data bytes left in the body (with a length) or in the chunk.
    remaining: u64,
    data: u64,
}

/// Which parts of a chunked body to forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// All of it, unchanged.
    Framed,
    /// Only data.
    Data,
    /// Data, then trailer lines, never both in one step.
    DataAndTrailers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    Length,
    UntilClose,
    /// In the chunk size.
    Size,
    Extension,
    /// Before the LF of the size line.
    SizeLf,
    Data,
    /// Before the CRLF after a chunk's data.
    DataCr,
    /// Between that CR and its LF.
    DataLf,
    /// At the start of a trailer line or of the empty line.
    Trailers,
}

impl Body {
    /// Creates the state of a body that starts at the next byte.
    pub fn new(framing: Framing, limits: BodyLimits) -> Self {
        let (state, remaining) = match framing {
            Framing::None | Framing::Length(0) => (State::Done, 0),
            Framing::Length(length) => (State::Length, length),
            Framing::Chunked => (State::Size, 0),
            Framing::UntilClose => (State::UntilClose, 0),
        };
        Self {
            state,
            output: Output::Framed,
            digits: 0,
            extension_empty: true,
            trailers_left: limits.trailer_bytes,
            extensions_left: limits.extension_bytes,
            remaining,
            data: 0,
        }
    }

    /// Forwards only data, for a receiver that does not support chunks (HTTP/1.0).
    #[must_use]
    pub fn with_data_only(mut self) -> Self {
        self.output = Output::Data;
        self
    }

    /// Forwards the data, then the trailer lines with their CRLF, for a receiver that frames bodies
    /// itself (HTTP/2). A step forwards trailers if [`Self::in_trailers`] was true before it.
    #[must_use]
    pub fn with_data_and_trailers(mut self) -> Self {
        self.output = Output::DataAndTrailers;
        self
    }

    /// Returns true if all data has been seen, and trailers or their end follow.
    pub fn in_trailers(&self) -> bool {
        self.state == State::Trailers
    }

    /// Returns true if the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns the bytes of data seen so far, without framing.
    pub fn data_bytes(&self) -> u64 {
        self.data
    }

    /// Parses `input`, which starts where the last step stopped. If a step consumes nothing and the
    /// body is not complete, it needs more input: the caller keeps the bytes and calls again with
    /// more. Bytes after the body are not consumed.
    ///
    /// # Errors
    /// If the chunk framing is invalid. Bytes already forwarded cannot be taken back, so the other
    /// side must see a truncated body.
    #[inline]
    pub fn advance(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        match self.state {
            State::Done => Ok(Step { consumed: 0, forward: 0..0, done: true }),
            State::UntilClose => {
                self.data += input.len() as u64;
                Ok(Step { consumed: input.len(), forward: 0..input.len(), done: false })
            }
            State::Length => {
                let len = self.take_data(input.len());
                if self.remaining == 0 {
                    self.state = State::Done;
                }
                Ok(Step { consumed: len, forward: 0..len, done: self.is_done() })
            }
            _ => self.advance_chunks(input),
        }
    }

    /// Ends the body at the end of the connection.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] if the body is not complete.
    pub fn finish_at_eof(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// Returns true if framing is forwarded.
    fn framed(&self) -> bool {
        self.output == Output::Framed
    }

    /// Counts as many of `available` bytes as data as there is data left. Returns how many.
    fn take_data(&mut self, available: usize) -> usize {
        let len = usize::try_from(self.remaining).map_or(available, |remaining| remaining.min(available));
        self.remaining -= len as u64;
        self.data += len as u64;
        len
    }

    fn advance_chunks(&mut self, input: &[u8]) -> Result<Step, BodyError> {
        let in_trailers = self.in_trailers();
        let mut forward = 0..0;
        let mut pos = 0;
        while pos < input.len() && self.state != State::Done {
            if pos > 0 && self.output == Output::DataAndTrailers && self.in_trailers() && !in_trailers {
                break;
            }
            // A step forwards one contiguous range. A piece to forward after a dropped one must
            // wait for the next step.
            let gap = !forward.is_empty() && forward.end != pos;
            let before = gap.then(|| self.clone());
            let Some(piece) = self.piece(&input[pos..])? else { break };
            if piece.forward {
                if let Some(before) = before {
                    *self = before;
                    break;
                }
                if forward.is_empty() {
                    forward.start = pos;
                }
                forward.end = pos + piece.len;
            }
            pos += piece.len;
        }
        Ok(Step { consumed: pos, forward, done: self.is_done() })
    }

    /// Parses the next piece of a chunked body; `rest` is not empty. Returns `None` if it is
    /// incomplete.
    fn piece(&mut self, rest: &[u8]) -> Result<Option<Piece>, BodyError> {
        let framed = self.framed();
        let framing = |len| Ok(Some(Piece { len, forward: framed }));
        match (self.state, rest) {
            (State::Size, _) => self.size_piece(rest),
            (State::Extension, _) => self.extension_piece(rest).map(Some),
            (State::SizeLf, [b'\n', ..]) => {
                let piece = framing(1);
                self.end_size_line();
                piece
            }
            (State::DataCr, [b'\r', b'\n', ..]) => {
                self.state = State::Size;
                framing(2)
            }
            (State::DataCr, [b'\r']) => {
                self.state = State::DataLf;
                framing(1)
            }
            (State::DataLf, [b'\n', ..]) => {
                self.state = State::Size;
                framing(1)
            }
            (State::SizeLf | State::DataCr | State::DataLf, _) => Err(BodyError::LineEnd),
            (State::Data, _) => {
                let len = self.take_data(rest.len());
                if self.remaining == 0 {
                    self.state = State::DataCr;
                }
                Ok(Some(Piece { len, forward: true }))
            }
            (State::Trailers, _) => self.trailer_piece(rest),
            (State::Done | State::Length | State::UntilClose, _) => Ok(None),
        }
    }

    /// Parses the digits of a chunk size, and the end of the line if it follows immediately. Where
    /// the framing is forwarded, no digit goes on before the size is known to be valid.
    fn size_piece(&mut self, rest: &[u8]) -> Result<Option<Piece>, BodyError> {
        let (mut digits, mut size, mut len) = (self.digits, self.remaining, 0);
        while let Some(digit) = rest.get(len).and_then(|&byte| char::from(byte).to_digit(16)) {
            if digits == MAX_DIGITS || size > MAX_SIZE >> 4 {
                return Err(BodyError::ChunkSize);
            }
            digits += 1;
            size = size << 4 | u64::from(digit);
            len += 1;
        }
        let forward = self.framed();
        if digits == 0 {
            return Err(BodyError::ChunkSize);
        }
        if forward && len == rest.len() {
            return Ok(None);
        }
        (self.digits, self.remaining) = (digits, size);
        let piece = match &rest[len..] {
            [b'\r', b'\n', ..] => {
                self.end_size_line();
                Piece { len: len + 2, forward }
            }
            [b'\r', ..] => {
                self.state = State::SizeLf;
                Piece { len: len + 1, forward }
            }
            // The semicolon is dropped, so it is a piece of its own.
            [b';', ..] if len == 0 => {
                self.state = State::Extension;
                self.extension_empty = true;
                Piece { len: 1, forward: false }
            }
            [] | [b';', ..] => Piece { len, forward },
            [b'\n', ..] => return Err(BodyError::LineEnd),
            _ => return Err(BodyError::ChunkSize),
        };
        Ok(Some(piece))
    }

    /// Handles the end of the size line: data follows or, after a size of 0, trailers.
    fn end_size_line(&mut self) {
        self.digits = 0;
        self.state = if self.remaining == 0 { State::Trailers } else { State::Data };
    }

    fn extension_piece(&mut self, rest: &[u8]) -> Result<Piece, BodyError> {
        let legal = |byte: &u8| is_value(*byte) && byte.is_ascii();
        let len = rest.iter().position(|byte| !legal(byte)).unwrap_or(rest.len());
        if len > 0 {
            self.extensions_left = u32::try_from(len)
                .ok()
                .and_then(|len| self.extensions_left.checked_sub(len))
                .ok_or(BodyError::ChunkExtensionsTooLarge)?;
            self.extension_empty = false;
            return Ok(Piece { len, forward: false });
        }
        match rest.first() {
            Some(b'\r') if !self.extension_empty => {
                self.state = State::SizeLf;
                Ok(Piece { len: 1, forward: self.framed() })
            }
            Some(b'\n') => Err(BodyError::LineEnd),
            _ => Err(BodyError::ChunkExtension),
        }
    }

    /// Parses a complete trailer line, or the empty line.
    fn trailer_piece(&mut self, rest: &[u8]) -> Result<Option<Piece>, BodyError> {
        // The empty line does not count. Check the size first, so that the result does not depend
        // on whether the end of the line has arrived.
        let end = memchr::memchr(b'\n', rest).map(|end| end + 1);
        let len = end.unwrap_or(rest.len());
        let left = u32::try_from(len).ok().and_then(|len| self.trailers_left.checked_sub(len));
        match &rest[..len] {
            [b'\r'] => return Ok(None),
            [b'\r', b'\n'] => {
                self.state = State::Done;
                return Ok(Some(Piece { len, forward: self.framed() }));
            }
            _ => {}
        }
        let left = left.ok_or(BodyError::TrailersTooLarge)?;
        if end.is_none() {
            return Ok(None);
        }
        let line = rest[..len].strip_suffix(b"\r\n").ok_or(BodyError::LineEnd)?;
        self.trailers_left = left;
        let keep = judge(line)? == Trailer::Keep;
        Ok(Some(Piece { len, forward: keep && self.output != Output::Data }))
    }
}

/// A part of a chunked body that is forwarded or dropped as a whole.
struct Piece {
    len: usize,
    forward: bool,
}

/// The most hex digits in a chunk size.
const MAX_DIGITS: u8 = 16;
/// The largest chunk size. Many readers use signed integers of 64 bits.
const MAX_SIZE: u64 = u64::MAX >> 1;

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
