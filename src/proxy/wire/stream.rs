//! A connection as the data plane reads and writes it: a plain socket, TLS, or a bridged stream.
//!
//! All I/O of the proxy goes through this type, so the three differ only here and where they are
//! created. TLS may buffer bytes that the socket cannot take yet. Call [`Stream::poll_flush`] to
//! send them before waiting for anything else.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use crate::dial::socket::{ResetWatch, Socket};

/// Estimated memory of an idle stream of each kind.
const PLAIN_BYTES: usize = 2 * 1024;
const TLS_BYTES: usize = 24 * 1024;
const BRIDGED_BYTES: usize = 4 * 1024;

/// A connected byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    /// A plain socket.
    Plain(Socket),
    /// TLS over a socket, as client or server. Boxed because it is large.
    Tls(Box<TlsStream<Socket>>),
    /// A stream of an HTTP/2 connection.
    Bridged(Box<dyn Bridge>),
}

/// A bridged stream: an HTTP/2 stream that is read and written as a connection with one HTTP/1.1
/// exchange. The pipeline handles only one kind of framing, and other connections pay nothing for
/// it.
pub(crate) trait Bridge: fmt::Debug {
    /// See [`Stream::poll_read`].
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;
    /// See [`Stream::poll_write`].
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
    /// See [`Stream::poll_flush`].
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// See [`Stream::poll_shutdown`].
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// See [`Stream::poll_readable`].
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// See [`Stream::absorb`].
    fn absorb(&mut self, _: &mut Context<'_>) {}
    /// Resets the stream unless its message is complete. Makes truncation visible to the peer.
    fn abort(&mut self);
    /// See [`Stream::poll_drain`].
    fn poll_drain(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        let _ = (cx, left);
        Poll::Ready(())
    }
    /// See [`Stream::refusal`].
    fn refusal(&self) -> Option<Refusal> {
        None
    }
}

/// Why a bridge does not send a response to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It did not open the requested tunnel.
    NoTunnel,
    /// Its headers are more than the client accepts.
    LargeHead,
}

impl Stream {
    /// Wraps a connected socket.
    pub(crate) fn new(socket: impl Into<Socket>) -> Self {
        Self::Plain(socket.into())
    }

    /// Returns an estimate of the memory that an idle stream holds, in bytes.
    pub(crate) fn state_bytes(&self) -> usize {
        match self {
            Self::Plain(_) => PLAIN_BYTES,
            Self::Tls(_) => TLS_BYTES,
            Self::Bridged(_) => BRIDGED_BYTES,
        }
    }

    /// Returns the bytes that the stream may buffer for a peer that does not read, besides the
    /// socket's.
    pub(crate) fn send_buffer(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(_) | Self::Bridged(_) => 16 * 1024,
        }
    }

    /// Reads available bytes and returns their number, or 0 at EOF. A short read clears the
    /// readiness, which saves a second read that would only return `WouldBlock`.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        let outcome = match self {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, &mut buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, &mut buf),
            Self::Bridged(bridge) => return bridge.poll_read(cx, into),
        };
        match outcome {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes bytes and returns how many were accepted. Accepting none is a `WriteZero` error.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = match self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            Self::Bridged(bridge) => bridge.poll_write(cx, bytes),
        };
        match outcome {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            other => other,
        }
    }

    /// Sends the bytes that were accepted but not sent yet.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Bridged(bridge) => bridge.poll_flush(cx),
        }
    }

    /// Drops what the peer of a bridged stream still sends, up to `left` bytes. Ready when it has
    /// ended its message or reset the stream.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>, left: &mut usize) -> Poll<()> {
        match self {
            Self::Plain(_) | Self::Tls(_) => Poll::Ready(()),
            Self::Bridged(bridge) => bridge.poll_drain(cx, left),
        }
    }

    /// Makes closing the stream reset it, so that a truncated message does not look complete.
    pub(crate) fn reset_on_close(&mut self) {
        match self {
            Self::Plain(socket) => socket.reset_on_close(),
            Self::Tls(tls) => tls.get_ref().0.reset_on_close(),
            Self::Bridged(bridge) => bridge.abort(),
        }
    }

    /// Joins what has arrived on a bridged stream that is not being read, so that many small frames
    /// take no more memory than their data.
    pub(crate) fn absorb(&mut self, cx: &mut Context<'_>) {
        if let Self::Bridged(bridge) = self {
            bridge.absorb(cx);
        }
    }

    /// Returns why the client got a 502 instead of the backend's response, if it did.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Plain(_) | Self::Tls(_) => None,
            Self::Bridged(bridge) => bridge.refusal(),
        }
    }

    /// Shuts down the sending side, over TLS with a `close_notify` alert.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Bridged(bridge) => bridge.poll_shutdown(cx),
        }
    }

    /// Sends a `close_notify` alert over TLS, if that is possible without waiting.
    pub(crate) fn notify_close(&mut self) {
        if let Self::Tls(tls) = self {
            let _ = Pin::new(tls).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Ready when there is something to read: bytes, EOF or an error. Costs no system call on a
    /// plain socket. TLS messages without data (session tickets, key updates) are processed and do
    /// not count.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Tls(tls) => Pin::new(tls).poll_fill_buf(cx).map_ok(|_| ()),
            Self::Bridged(bridge) => bridge.poll_readable(cx),
        }
    }

    /// Starts to watch for the reset of a connection whose peer sends nothing more.
    pub(crate) fn watch_reset(&self) -> Option<ResetWatch> {
        match self {
            Self::Plain(socket) => ResetWatch::new(socket),
            Self::Tls(tls) => ResetWatch::new(tls.get_ref().0),
            Self::Bridged(_) => None,
        }
    }

    /// Returns true if there is nothing to read, not even EOF. Only then can a pooled connection be
    /// reused.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// For crates that run a protocol over the connection.
impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            Self::Bridged(bridge) => {
                bridge.poll_read(cx, buf.initialize_unfilled()).map_ok(|n| buf.advance(n))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Self::Bridged(bridge) => bridge.poll_write(cx, bufs.first().map_or(&[], |buf| buf)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        !matches!(self, Self::Bridged(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_streams_stay_small() {
        assert!(size_of::<Stream>() <= size_of::<tokio::net::TcpStream>() + size_of::<usize>());
    }
}
