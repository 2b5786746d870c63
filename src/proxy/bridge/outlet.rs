//! Sends the bytes of an HTTP/1.1 body as frames of a stream.

use std::io;
use std::task::{Context, Poll, ready};

use ::h2::{Reason, SendStream};
use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use crate::h1::Body;

/// The most bytes that one write accepts: the default maximum frame size (RFC 9113 §6.5.2).
const FRAME: usize = 16 * 1024;

/// The sending side of a stream, after the head.
pub(crate) struct Outlet {
    stream: SendStream<Bytes>,
    payload: Payload,
    trailers: HeaderMap,
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
    pub(crate) fn new(stream: SendStream<Bytes>, payload: Payload) -> Self {
        Self { stream, payload, trailers: HeaderMap::new() }
    }

    /// Sends as many bytes as the peer's flow-control window allows. Returns their number.
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
            Payload::Framed(body) => {
                // Only data uses the flow-control window, not the chunk framing around it.
                let mut next = body.clone();
                let mut step = next.advance(bytes).map_err(io::Error::other)?;
                let trailers = body.in_trailers();
                if !trailers && !step.forward.is_empty() {
                    let mut limited = body.clone();
                    let room = ready!(self.poll_room(cx, step.forward.len()))?;
                    if room < step.forward.len() {
                        step =
                            limited.advance(&bytes[..step.forward.start + room]).map_err(io::Error::other)?;
                        next = limited;
                    }
                }
                if step.consumed == 0 {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                let forward = &bytes[step.forward];
                if trailers {
                    self.collect(forward)?;
                } else if !forward.is_empty() {
                    self.send(forward, step.done)?;
                }
                self.payload = if step.done { Payload::Ended } else { Payload::Framed(next) };
                if step.done && trailers {
                    self.end()?;
                }
                Poll::Ready(Ok(step.consumed))
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

    /// Ready when the peer has reset the stream or the connection has failed.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_reset(cx).map(|_| ())
    }

    /// Ready with the number of bytes, at least 1, that flow control allows.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
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
        self.stream.send_data(Bytes::copy_from_slice(bytes), end).map_err(io::Error::other)
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
