//! Forwards a message in one direction, with backpressure, through one buffer and without copying.

use std::io;
use std::task::{Context, Poll, ready};

use super::buffer::{Buffer, Buffers, Size};
use super::stream::Stream;
use crate::h1::{self, Body, BodyError};

/// Body bytes up to this many are copied behind the head and sent with it in one write.
const JOIN_LIMIT: usize = 8 * 1024;
/// The most bytes of a request, head and body, that are kept for a retry.
pub(crate) const KEPT: usize = 16 * 1024;

/// A message on its way from a source to a sink.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// Bytes to write before anything else: the head, or our own chunk framing.
    out: Vec<u8>,
    written: usize,
    body: Body,
    /// Number of bytes at the front of the source's buffer to forward.
    pass: usize,
    /// Number of bytes after those to drop.
    skip: usize,
    /// Whether a body that ends at EOF is sent in chunks.
    rechunk: Rechunk,
    /// Whether the sink has accepted bytes that its socket has not taken yet.
    unflushed: bool,
    /// Bytes written.
    sent: u64,
    /// Largest content allowed, in bytes.
    max_content: u64,
    /// Bytes read from the source so far, for a retry. `None` if not kept, or too many.
    kept: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rechunk {
    No,
    BetweenChunks,
    InChunk,
    Ended,
}

/// Why a transfer failed.
#[derive(Debug)]
pub(crate) enum TransferError {
    /// The source's connection failed, or closed before the end of the body.
    Source,
    /// The body's framing is invalid.
    Framing(BodyError),
    /// The body is larger than allowed.
    TooLarge,
    /// The sink's connection failed.
    Sink,
}

impl Transfer {
    /// Sends `out` (a head), then `body`. If `rechunk` is true, sends the body in our own chunks.
    pub(crate) fn new(out: Vec<u8>, body: Body, rechunk: bool) -> Self {
        let rechunk = if rechunk { Rechunk::BetweenChunks } else { Rechunk::No };
        Self {
            out,
            written: 0,
            body,
            pass: 0,
            skip: 0,
            rechunk,
            unflushed: false,
            sent: 0,
            max_content: u64::MAX,
            kept: None,
        }
    }

    /// Limits the body's content to this many bytes.
    pub(crate) fn limit_content(mut self, bytes: Option<u64>) -> Self {
        self.max_content = bytes.unwrap_or(u64::MAX);
        self
    }

    /// Keeps a copy of the bytes read from the source, up to [`KEPT`], for a retry. `read` has those
    /// read so far.
    pub(crate) fn keep(mut self, read: Vec<u8>) -> Self {
        self.kept = Some(read);
        self
    }

    /// Takes the copy of all bytes read from the source. `None` if not kept, or too many.
    pub(crate) fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.kept.take()
    }

    /// Adds the bytes behind the first `before` of the held buffer to the copy. They follow the
    /// body; a retry without them would lose the next request.
    pub(crate) fn keep_ahead(&mut self, held: Option<&Buffer>, before: usize) {
        let now = held.map_or(0, |held| held.filled().len());
        self.keep_read(held, now.saturating_sub(before));
    }

    /// Adds the last `n` bytes of the held buffer to the copy.
    fn keep_read(&mut self, held: Option<&Buffer>, n: usize) {
        self.kept = self.kept.take().and_then(|mut kept| {
            let read = held.map_or(&[][..], Buffer::filled);
            kept.extend_from_slice(&read[read.len().saturating_sub(n)..]);
            (kept.len() <= KEPT).then_some(kept)
        });
    }

    /// Returns the number of bytes written so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Returns true if the whole message was written.
    pub(crate) fn is_complete(&self) -> bool {
        self.out.len() == self.written
            && self.pass == 0
            && self.body.is_done()
            && matches!(self.rechunk, Rechunk::No | Rechunk::Ended)
    }

    /// Returns true if the transfer waits for the source, false if for the sink.
    pub(crate) fn is_blocked_by_source(&self) -> bool {
        self.out.len() == self.written && self.pass == 0 && !self.unflushed
    }

    /// Returns true if any of the body's content has arrived.
    pub(crate) fn has_begun_body(&self) -> bool {
        self.body.data_bytes() > 0
    }

    /// Returns the output buffer, for reuse.
    pub(crate) fn into_output(self) -> Vec<u8> {
        self.out
    }

    /// Copies body bytes that are already buffered behind the head, if there are few.
    pub(crate) fn join(&mut self, source: &mut Option<Buffer>) -> Result<(), TransferError> {
        if self.rechunk != Rechunk::No || self.body.is_done() {
            return Ok(());
        }
        while let Some(buffer) = source.as_mut().filter(|b| !b.is_empty() && b.filled().len() <= JOIN_LIMIT) {
            let step = self.body.advance(buffer.filled()).map_err(TransferError::Framing)?;
            self.out.extend_from_slice(&buffer.filled()[step.forward.clone()]);
            buffer.consume(step.consumed);
            self.check_content()?;
            if step.done || step.consumed == 0 {
                break;
            }
        }
        Ok(())
    }

    fn check_content(&self) -> Result<(), TransferError> {
        if self.body.data_bytes() > self.max_content { Err(TransferError::TooLarge) } else { Ok(()) }
    }

    /// Forwards as much as possible. Ready when the whole message is sent.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        source: &mut Stream,
        held: &mut Option<Buffer>,
        sink: &mut Stream,
    ) -> Poll<Result<(), TransferError>> {
        loop {
            if self.written < self.out.len() {
                let n = ready!(sink.poll_write(cx, &self.out[self.written..])).map_err(sink_error)?;
                self.written += n;
                self.sent += n as u64;
                continue;
            }
            if let (true, Some(buffer)) = (self.pass > 0, held.as_mut()) {
                let n = ready!(sink.poll_write(cx, &buffer.filled()[..self.pass])).map_err(sink_error)?;
                self.sent += n as u64;
                self.pass -= n;
                buffer.consume(n);
                if self.pass == 0 {
                    buffer.consume(std::mem::take(&mut self.skip));
                    if self.rechunk == Rechunk::InChunk {
                        self.rechunk = Rechunk::BetweenChunks;
                        self.write_next(|out| out.extend_from_slice(h1::CHUNK_END));
                    }
                }
                continue;
            }
            if self.body.is_done() {
                if self.rechunk == Rechunk::BetweenChunks {
                    self.rechunk = Rechunk::Ended;
                    self.write_next(|out| out.extend_from_slice(h1::LAST_CHUNK));
                    continue;
                }
                self.flush(cx, sink)?;
                return if self.unflushed { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            if let Some(buffer) = held.as_mut().filter(|b| !b.is_empty()) {
                let step = self.body.advance(buffer.filled()).map_err(TransferError::Framing)?;
                self.pass = step.forward.len();
                self.skip = step.consumed - step.forward.end;
                buffer.consume(step.forward.start);
                if self.pass == 0 {
                    buffer.consume(std::mem::take(&mut self.skip));
                } else if self.rechunk == Rechunk::BetweenChunks {
                    self.rechunk = Rechunk::InChunk;
                    let length = self.pass;
                    self.write_next(|out| h1::write_chunk_prefix(out, length));
                }
                self.check_content()?;
                if step.done || step.consumed > 0 {
                    continue;
                }
            }
            let Poll::Ready(filled) = buffers.poll_fill(held, Size::Large, source, cx) else {
                self.flush(cx, sink)?;
                return Poll::Pending;
            };
            let n = filled.map_err(|_| TransferError::Source)?;
            if self.kept.is_some() {
                self.keep_read(held.as_ref(), n);
            }
            if n == 0 {
                self.body.finish_at_eof().map_err(|_| TransferError::Source)?;
            }
        }
    }

    /// Flushes the sink as far as possible.
    fn flush(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Result<(), TransferError> {
        self.unflushed = match sink.poll_flush(cx) {
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => return Err(sink_error(error)),
            Poll::Pending => true,
        };
        Ok(())
    }

    fn write_next(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.clear();
        self.written = 0;
        write(&mut self.out);
    }
}

fn sink_error(_: io::Error) -> TransferError {
    TransferError::Sink
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

    use super::*;
    use crate::dial::socket::Socket;
    use crate::h1::{BodyLimits, Framing};

    /// Returns both sides of a TLS connection.
    async fn encrypted() -> (Stream, TlsStream<Socket>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let (client, server) = tokio::join!(
            TlsConnector::from(Arc::new(client)).connect(name, socket.into()),
            TlsAcceptor::from(Arc::new(server)).accept(accepted.into()),
        );
        (Stream::Tls(Box::new(TlsStream::Server(server.unwrap()))), TlsStream::Client(client.unwrap()))
    }

    #[tokio::test]
    async fn transfer_is_not_complete_before_tls_is_flushed() {
        let (mut sink, mut reader) = encrypted().await;
        let mut source = Stream::new(TcpStream::connect(quiet_address().await).await.unwrap());
        let (buffers, mut held) = (Buffers::new(16 * 1024), None);
        // Fill the socket. TLS can still buffer more.
        let mut taken = 0;
        std::future::poll_fn(|cx| {
            while sink.poll_flush(cx).is_ready() {
                let Poll::Ready(Ok(n)) = sink.poll_write(cx, &[7; 4096]) else { panic!("TLS is full") };
                taken += n;
            }
            Poll::Ready(())
        })
        .await;
        let mut transfer =
            Transfer::new(vec![8; 100], Body::new(Framing::None, BodyLimits::default()), false);
        let first = std::future::poll_fn(|cx| {
            Poll::Ready(transfer.poll(cx, &buffers, &mut source, &mut held, &mut sink))
        });
        assert!(first.await.is_pending(), "complete although nothing was read yet");
        assert!(!transfer.is_blocked_by_source(), "waits for the source, not for the slow reader");
        let mut read = vec![0; taken + 100];
        let sent = std::future::poll_fn(|cx| transfer.poll(cx, &buffers, &mut source, &mut held, &mut sink));
        let (sent, whole) = tokio::join!(sent, reader.read_exact(&mut read));
        assert!(sent.is_ok() && whole.is_ok());
        assert_eq!(read[taken..], [8; 100]);
    }

    /// Returns the address of a server that accepts one connection and sends nothing.
    async fn quiet_address() -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let accepted = listener.accept().await;
            std::future::pending::<()>().await;
            drop(accepted);
        });
        address
    }
}
