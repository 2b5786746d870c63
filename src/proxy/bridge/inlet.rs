//! Reads a stream as the bytes of an HTTP/1.1 message.

use std::io;
use std::task::{Context, Poll, ready};

use ::h2::RecvStream;
use bytes::Bytes;
use http::HeaderMap;

use super::head::Malformed;
use super::observer::Mark;
use crate::h1;

/// The receiving side of a stream.
pub(crate) struct Inlet {
    recv: RecvStream,
    /// The head, chunk framing or trailers to be read next.
    text: Vec<u8>,
    /// Number of bytes of `text` already read.
    read: usize,
    /// Data to be read after `text`.
    piece: Bytes,
    /// Data to be read after `piece`, absorbed while nobody read. Bounded by the stream's window.
    absorbed: Vec<u8>,
    framing: Framing,
    state: State,
    /// Tells whether the trailers have a pseudo-header, which `h2` has dropped.
    mark: Option<Mark>,
}

/// How the body's data is framed in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// In chunks, followed by trailers.
    Chunked,
    /// Unchanged: the length is known, or the stream is a tunnel.
    Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Ended,
    Failed,
}

impl Inlet {
    /// Creates an inlet that yields `head`, then the stream's data.
    pub(crate) fn new(recv: RecvStream, head: Vec<u8>, framing: Framing) -> Self {
        let state = if recv.is_end_stream() { State::Ended } else { State::Data };
        Self {
            recv,
            text: head,
            read: 0,
            piece: Bytes::new(),
            absorbed: Vec::new(),
            framing,
            state,
            mark: None,
        }
    }

    /// Fails if the stream is marked once its trailers have arrived.
    pub(crate) fn with_mark(mut self, mark: Mark) -> Self {
        self.mark = Some(mark);
        self
    }

    /// Reads available bytes and returns their number, or 0 at the end of the stream. Reopens the
    /// peer's flow-control window by the number of data bytes read.
    ///
    /// # Errors
    /// If the connection failed, or the peer reset the stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut n = 0;
        while n < into.len() {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(true)) => n += self.take(&mut into[n..]),
                Poll::Ready(Ok(false)) => break,
                _ if n > 0 => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(n))
    }

    fn take(&mut self, into: &mut [u8]) -> usize {
        if self.read < self.text.len() {
            let n = into.len().min(self.text.len() - self.read);
            into[..n].copy_from_slice(&self.text[self.read..self.read + n]);
            self.read += n;
            return n;
        }
        let n = into.len().min(self.piece.len());
        into[..n].copy_from_slice(&self.piece.split_to(n));
        // Fails only if more capacity is released than was received.
        let _ = self.recv.flow_control().release_capacity(n);
        if self.piece.is_empty() && self.framing == Framing::Chunked {
            self.write_text(|text| text.extend_from_slice(h1::CHUNK_END));
        }
        n
    }

    /// Ready with true when there is something to read, with false at the end of the stream.
    ///
    /// # Errors
    /// See [`Self::poll_read`].
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.read == self.text.len() && self.piece.is_empty() {
            if !self.absorbed.is_empty() {
                let absorbed = Bytes::from(std::mem::take(&mut self.absorbed));
                self.set_piece(absorbed);
                break;
            }
            match self.state {
                State::Data => match ready!(self.recv.poll_data(cx)) {
                    Some(Ok(piece)) => self.set_piece(piece),
                    Some(Err(error)) => return self.fail(error),
                    None => self.state = State::Trailers,
                },
                State::Trailers => match ready!(self.recv.poll_trailers(cx)) {
                    Ok(_) if self.mark.as_ref().is_some_and(Mark::take) => {
                        self.state = State::Failed;
                        return Poll::Ready(Err(io::Error::other(Malformed("pseudo-header in trailers"))));
                    }
                    Ok(trailers) => {
                        self.state = State::Ended;
                        if self.framing == Framing::Chunked {
                            self.write_text(|text| write_end(text, trailers.as_ref()));
                        }
                    }
                    Err(error) => return self.fail(error),
                },
                State::Ended => return Poll::Ready(Ok(false)),
                State::Failed => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Drops what the peer still sends. Ready at the end of its message. After `left` bytes, takes no
    /// more: the flow-control window closes.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let mut dropped = std::mem::take(&mut self.piece).len() + std::mem::take(&mut self.absorbed).len();
        while self.state == State::Data {
            let _ = self.recv.flow_control().release_capacity(dropped);
            if *left == 0 {
                return Poll::Pending;
            }
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(piece)) => dropped = piece.len(),
                Some(Err(_)) | None => return Poll::Ready(()),
            }
            *left = left.saturating_sub(dropped);
        }
        Poll::Ready(())
    }

    /// Returns whether the whole message has arrived.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended | State::Failed) || self.recv.is_end_stream()
    }

    /// Returns the stream, without what was read from it.
    pub(crate) fn into_recv(self) -> RecvStream {
        self.recv
    }

    /// Joins frames that have arrived while the reader of the body is stalled. The peer's window
    /// bounds their data but not their number, and each frame takes memory.
    pub(crate) fn absorb(&mut self, cx: &mut Context<'_>) {
        while self.state == State::Data {
            match self.recv.poll_data(cx) {
                Poll::Ready(Some(Ok(piece))) => self.absorbed.extend_from_slice(&piece),
                // The reader gets the error after the data.
                Poll::Ready(Some(Err(_))) => self.state = State::Failed,
                Poll::Ready(None) => self.state = State::Trailers,
                Poll::Pending => return,
            }
        }
    }

    fn set_piece(&mut self, piece: Bytes) {
        if !piece.is_empty() && self.framing == Framing::Chunked {
            self.write_text(|text| h1::write_chunk_prefix(text, piece.len()));
        }
        self.piece = piece;
    }

    fn fail<T>(&mut self, error: ::h2::Error) -> Poll<io::Result<T>> {
        self.state = State::Failed;
        Poll::Ready(Err(io::Error::other(error)))
    }

    fn write_text(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.text.clear();
        self.read = 0;
        write(&mut self.text);
    }
}

/// Writes the last chunk and the trailers.
fn write_end(text: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    text.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        h1::write_spelled_field(text, name.as_str(), value.as_bytes());
    }
    h1::end_head(text);
}
