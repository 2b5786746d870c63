//! Sends the bytes of an HTTP/1.1 body as frames of a stream.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use ::h2::{Reason, SendStream};
use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::unsent::Unsent;
use crate::h1::Body;

/// The most bytes that one write accepts: the default maximum frame size (RFC 9113 §6.5.2).
const FRAME: usize = 16 * 1024;

/// The sending side of a stream, after the head.
pub(crate) struct Outlet {
    stream: SendStream<Bytes>,
    payload: Payload,
    trailers: HeaderMap,
    unsent: Unsent,
}

/// The kind of bytes written.
#[derive(Debug)]
pub(crate) enum Payload {
    /// A body in HTTP/1.1 framing. The parser is from [`Body::with_data_and_trailers`].
    Framed(Body),
    /// The bytes of a tunnel.
    Raw,
    /// None: the stream has ended.
    Ended,
}

impl Outlet {
    /// Creates an outlet. `unsent` is the one of the stream's connection.
    pub(crate) fn new(stream: SendStream<Bytes>, payload: Payload, unsent: Unsent) -> Self {
        Self { stream, payload, trailers: HeaderMap::new(), unsent }
    }

    /// Sends as many bytes as the peer's flow-control window and the connection's room for unsent
    /// frames allow. Returns their number. Joins the data of small chunks into one frame.
    ///
    /// # Errors
    /// If the connection failed, the peer reset the stream, or the bytes do not match the framing.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &self.payload {
            Payload::Ended => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Payload::Raw => {
                let room = ready!(self.poll_room(cx, bytes.len()))?;
                let taken = room.min(bytes.len());
                Poll::Ready(self.send(&bytes[..taken], false).map(|()| taken))
            }
            Payload::Framed(body) if body.in_trailers() => {
                let mut next = body.clone();
                let step = next.advance(bytes).map_err(io::Error::other)?;
                if step.consumed == 0 {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                self.collect(&bytes[step.forward])?;
                self.payload = if step.done { Payload::Ended } else { Payload::Framed(next) };
                if step.done {
                    self.end()?;
                }
                Poll::Ready(Ok(step.consumed))
            }
            Payload::Framed(body) => {
                let body = body.clone();
                // Only data uses the flow-control window, not the chunk framing around it.
                let mut run = DataRun::read(&body, bytes, FRAME)?;
                if run.len() > 0 {
                    let room = ready!(self.poll_room(cx, run.len()))?;
                    if room < run.len() {
                        run = DataRun::read(&body, bytes, room)?;
                    }
                }
                if run.consumed == 0 {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                let (consumed, done) = (run.consumed, run.next.is_done());
                self.payload = if done { Payload::Ended } else { Payload::Framed(run.next) };
                if run.joined.is_empty() && !run.first.is_empty() {
                    self.send(&bytes[run.first], done)?;
                } else if !run.joined.is_empty() {
                    self.send_owned(run.joined, done)?;
                }
                Poll::Ready(Ok(consumed))
            }
        }
    }

    /// Ends the stream, if it is a tunnel.
    ///
    /// # Errors
    /// See [`Self::poll_write`].
    pub(crate) fn shutdown(&mut self) -> io::Result<()> {
        if matches!(self.payload, Payload::Raw) {
            self.payload = Payload::Ended;
            self.send(&[], true)?;
        }
        Ok(())
    }

    /// Resets the stream, unless it has ended.
    pub(crate) fn abort(&mut self, reason: Reason) {
        if !matches!(self.payload, Payload::Ended) {
            self.payload = Payload::Ended;
            self.stream.send_reset(reason);
        }
    }

    /// Returns whether the whole message was sent.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.payload, Payload::Ended)
    }

    /// Ready when the peer has reset the stream or the connection has failed.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }

    /// Ready with the number of bytes, at least 1, that may be sent.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        // First, so that a stream that waits here holds none of the flow-control window.
        ready!(self.unsent.poll_room(cx));
        self.stream.reserve_capacity(wanted.min(FRAME));
        loop {
            match self.stream.capacity() {
                0 => match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                room => return Poll::Ready(Ok(room)),
            }
        }
    }

    fn send(&mut self, bytes: &[u8], end: bool) -> io::Result<()> {
        self.send_owned(bytes.to_vec(), end)
    }

    fn send_owned(&mut self, bytes: Vec<u8>, end: bool) -> io::Result<()> {
        let frame = if bytes.is_empty() { Bytes::new() } else { self.unsent.frame(bytes) };
        self.stream.send_data(frame, end).map_err(io::Error::other)
    }

    /// Collects trailer lines, to send them at the end.
    fn collect(&mut self, lines: &[u8]) -> io::Result<()> {
        for field in super::head::fields_of(lines) {
            let (name, value) = field.ok_or(io::ErrorKind::InvalidData)?;
            self.trailers.append(HeaderName::from_bytes(name).map_err(io::Error::other)?, value);
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.trailers.is_empty() {
            self.send(&[], true)
        } else {
            self.stream.send_trailers(std::mem::take(&mut self.trailers)).map_err(io::Error::other)
        }
    }
}

/// The data of one frame: of one chunk, or of several that follow each other.
struct DataRun {
    /// The first piece of data.
    first: Range<usize>,
    /// All pieces together. Empty if there is only one.
    joined: Vec<u8>,
    /// The number of bytes consumed, with chunk framing.
    consumed: usize,
    /// The parser behind them.
    next: Body,
}

impl DataRun {
    /// Reads up to `most` bytes of data.
    fn read(body: &Body, bytes: &[u8], most: usize) -> io::Result<Self> {
        let mut run = Self { first: 0..0, joined: Vec::new(), consumed: 0, next: body.clone() };
        loop {
            let rest = &bytes[run.consumed..];
            let room = most - run.len();
            let mut next = run.next.clone();
            let mut step = next.advance(rest).map_err(io::Error::other)?;
            if step.forward.len() > room {
                next = run.next.clone();
                step = next.advance(&rest[..step.forward.start + room]).map_err(io::Error::other)?;
            }
            let piece = run.consumed + step.forward.start..run.consumed + step.forward.end;
            if run.first.is_empty() {
                run.first = piece;
            } else if !piece.is_empty() {
                if run.joined.is_empty() {
                    run.joined.reserve(most.min(bytes.len()));
                    run.joined.extend_from_slice(&bytes[run.first.clone()]);
                }
                run.joined.extend_from_slice(&bytes[piece]);
            }
            (run.consumed, run.next) = (run.consumed + step.consumed, next);
            let full = run.len() == most || run.consumed == bytes.len();
            if full || step.consumed == 0 || run.next.is_done() || run.next.in_trailers() {
                return Ok(run);
            }
        }
    }

    /// Returns the number of bytes of data.
    fn len(&self) -> usize {
        if self.joined.is_empty() { self.first.len() } else { self.joined.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::{BodyLimits, Framing};

    fn chunked() -> Body {
        Body::new(Framing::Chunked, BodyLimits::default()).with_data_and_trailers()
    }

    /// Splits `text` into runs of up to `most` bytes of data. Returns the data of each.
    fn runs(mut body: Body, text: &[u8], most: usize) -> Vec<Vec<u8>> {
        let (mut at, mut runs) = (0, Vec::new());
        while at < text.len() && !body.is_done() && !body.in_trailers() {
            let run = DataRun::read(&body, &text[at..], most).unwrap();
            assert!(run.consumed > 0 && run.len() <= most);
            let data = if run.joined.is_empty() { text[at..][run.first].to_vec() } else { run.joined };
            if !data.is_empty() {
                runs.push(data);
            }
            (at, body) = (at + run.consumed, run.next);
        }
        runs
    }

    #[test]
    fn tiny_chunks_are_joined_into_full_frames() {
        let mut text = b"1\r\nx\r\n".repeat(40_000);
        text.extend_from_slice(b"0\r\n\r\n");
        let sizes: Vec<_> = runs(chunked(), &text, FRAME).iter().map(Vec::len).collect();
        assert_eq!(sizes, [FRAME, FRAME, 40_000 - 2 * FRAME]);
    }

    #[test]
    fn joined_data_is_the_data_of_the_chunks_for_any_room() {
        let text = b"3\r\nabc\r\n1;x=y\r\nd\r\n4\r\nefgh\r\n0\r\nX: y\r\n\r\n";
        for most in 1..12 {
            let runs = runs(chunked(), text, most);
            assert_eq!(runs.concat(), b"abcdefgh", "room for {most}");
            assert!(runs[..runs.len() - 1].iter().all(|run| run.len() == most), "room for {most}: {runs:?}");
        }
        let length = Body::new(Framing::Length(8), BodyLimits::default());
        assert_eq!(runs(length, b"abcdefgh", 5), [b"abcde".to_vec(), b"fgh".to_vec()]);
    }
}
