//! The transport of an HTTP/2 connection: a stream that counts frames to detect floods.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flood::{Budget, Frames};
use crate::proxy::bridge::observer::Observer;
use crate::proxy::wire::buffer::Buffer;
use crate::proxy::wire::stream::Stream;
use crate::proxy::worker::Worker;

/// The state of a transport, shared with its connection.
#[derive(Debug, Default)]
pub(crate) struct WriteGauge {
    flooded: Cell<bool>,
    /// Whether the last write could not proceed.
    blocked: Cell<bool>,
    /// Bytes written since the last call of [`Self::taken`].
    written: Cell<usize>,
}

impl WriteGauge {
    /// Notes that the client has exceeded its budget.
    pub(crate) fn set_flooded(&self) {
        self.flooded.set(true);
    }

    /// Returns true if the client has exceeded its budget. Nothing more is read from it then.
    pub(crate) fn flooded(&self) -> bool {
        self.flooded.get()
    }

    /// Returns true if the client is not reading: the last write could not proceed.
    pub(crate) fn blocked(&self) -> bool {
        self.blocked.get()
    }

    /// Returns the number of bytes written since the last call.
    pub(crate) fn taken(&self) -> usize {
        self.written.take()
    }

    fn wrote(&self, outcome: &Poll<io::Result<usize>>) {
        self.blocked.set(outcome.is_pending());
        if let Poll::Ready(Ok(n)) = outcome {
            self.written.set(self.written.get().saturating_add(*n));
        }
    }
}

/// A client's stream, with its flood budget.
pub(crate) struct Transport {
    worker: Rc<Worker>,
    stream: Stream,
    /// Bytes read while detecting HTTP/2.
    held: Option<Buffer>,
    budget: Budget,
    received: Frames,
    sent: Frames,
    observer: Observer,
    gauge: Rc<WriteGauge>,
}

impl Transport {
    pub(crate) fn new(
        worker: Rc<Worker>,
        stream: Stream,
        held: Option<Buffer>,
        gauge: Rc<WriteGauge>,
        observer: Observer,
    ) -> Self {
        let budget = Budget::new(worker.coarse_now());
        let (received, sent) = (Frames::of_client(), Frames::of_server());
        Self { worker, stream, held, budget, received, sent, observer, gauge }
    }

    fn count_sent(&mut self, bufs: &[IoSlice<'_>], mut written: usize) {
        for buf in bufs {
            let n = written.min(buf.len());
            self.budget.sent(&mut self.sent, &buf[..n]);
            written -= n;
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.gauge.flooded() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match &mut this.held {
            Some(held) if !held.is_empty() => {
                let n = held.filled().len().min(buf.remaining());
                buf.put_slice(&held.filled()[..n]);
                held.consume(n);
            }
            held => {
                this.worker.buffers.put_back(held);
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            }
        }
        let now = this.worker.coarse_now();
        let bytes = &buf.filled()[before..];
        if !(this.budget.received(&mut this.received, bytes, now) && this.observer.observe(bytes)) {
            this.gauge.flooded.set(true);
            buf.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = this.stream.poll_write(cx, buf);
        this.gauge.wrote(&outcome);
        let n = ready!(outcome)?;
        this.count_sent(&[IoSlice::new(buf)], n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.gauge.wrote(&outcome);
        let n = ready!(outcome)?;
        this.count_sent(bufs, n);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        AsyncWrite::is_write_vectored(&self.stream)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.poll_shutdown(cx)
    }
}
