//! One socket, as the data plane reads and writes it.
//!
//! Everything the proxy does with a connection goes through these few calls,
//! so that another kind of stream (TLS) changes this file and no other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connected byte stream.
#[derive(Debug)]
pub(super) struct Stream(TcpStream);

impl Stream {
    /// Takes a connected socket; small writes are sent at once.
    pub(super) fn new(socket: TcpStream) -> Self {
        // A socket that refuses the option works, only slower.
        let _ = socket.set_nodelay(true);
        Self(socket)
    }

    /// Reads what is there; 0 is the end. A short read clears the readiness, so
    /// that no second read is made just to be told there is nothing.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(into);
        match Pin::new(&mut self.0).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Writes what the socket takes; 0 is an error.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.0).poll_write(cx, bytes) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            other => other,
        }
    }

    /// The socket below.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.0
    }

    /// Ends the sending side.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    /// Ready when there is something to read: bytes, the end or an error. Costs
    /// no system call.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// Is there nothing to read, not even the end? What a connection waiting in
    /// the pool must be to be used again. Costs no system call.
    pub(super) fn is_quiet(&self) -> bool {
        self.poll_readable(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}
