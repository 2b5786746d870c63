//! One connection, as the data plane reads and writes it.
//!
//! Everything the proxy does with a connection goes through these few calls.
//! Plain sockets, TLS and streams of HTTP/2 differ here and where they are
//! made only. TLS may take bytes that the socket does not take yet:
//! [`Stream::poll_flush`] sees them out, and is called wherever a side waits
//! for something else next.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::socket::Socket;

/// A connected byte stream.
#[derive(Debug)]
pub(crate) enum Stream {
    /// The socket itself.
    Plain(Socket),
    /// TLS over a socket, either side of it. Boxed: it is large.
    Tls(Box<TlsStream<Socket>>),
    /// One stream of an HTTP/2 connection, speaking HTTP/1.1.
    Bridged(Box<dyn Bridge>),
}

/// A stream of an HTTP/2 connection which, to whoever reads and writes it, is
/// a connection that carries one HTTP/1.1 exchange: one framing for all, and a
/// connection that is what it seems needs no case for it.
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
    /// Whatever was not said to its end is to be seen to break off.
    fn abort(&mut self);
    /// See [`Stream::has_refused_tunnel`].
    fn has_refused_tunnel(&self) -> bool {
        false
    }
}

impl Stream {
    /// Takes a connected socket.
    pub(crate) fn new(socket: impl Into<Socket>) -> Self {
        Self::Plain(socket.into())
    }

    /// Reads what is there; 0 is the end. A short read clears the readiness, so
    /// that no second read is made just to be told there is nothing.
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

    /// Writes what is taken; 0 is an error.
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

    /// Sees out what was taken and not yet sent.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            Self::Bridged(bridge) => bridge.poll_flush(cx),
        }
    }

    /// Closing it will reset it, so that what was not said to its end does not
    /// look as if it were.
    pub(crate) fn reset_on_close(&mut self) {
        match self {
            Self::Plain(socket) => socket.reset_on_close(),
            Self::Tls(tls) => tls.get_ref().0.reset_on_close(),
            Self::Bridged(bridge) => bridge.abort(),
        }
    }

    /// Was the client told 502 in place of what the backend answered when it was
    /// asked for a tunnel?
    pub(crate) fn has_refused_tunnel(&self) -> bool {
        matches!(self, Self::Bridged(bridge) if bridge.has_refused_tunnel())
    }

    /// Ends the sending side; over TLS with a word that this is the end.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            Self::Bridged(bridge) => bridge.poll_shutdown(cx),
        }
    }

    /// Ready when there is something to read: bytes, the end or an error. On a
    /// plain socket this costs no system call. What TLS says for itself (a
    /// session ticket, a new key) is taken in and is nothing to read.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Tls(tls) => Pin::new(tls).poll_fill_buf(cx).map_ok(|_| ()),
            Self::Bridged(bridge) => bridge.poll_readable(cx),
        }
    }

    /// Of a backend's: may HTTP/2 be spoken, which TLS has to agree on?
    pub(crate) fn chose_http2(&self) -> bool {
        match self {
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
            Self::Plain(_) | Self::Bridged(_) => true,
        }
    }

    /// Is there nothing to read, not even the end? What a connection waiting in
    /// the pool must be to be used again.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// For what speaks its own protocol over a connection.
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
    fn a_plain_connection_is_no_larger_for_the_others() {
        assert!(size_of::<Stream>() <= size_of::<tokio::net::TcpStream>() + size_of::<usize>());
    }
}
