//! One direction of a message: from where it is read to where it is written,
//! with back-pressure, through one buffer and without copying.

use std::io;
use std::task::{Context, Poll, ready};

use super::buffer::{Buffer, Buffers, Size};
use super::stream::Stream;
use crate::h1::{self, Body, BodyError};

/// Pieces of a body up to this are copied behind the head, to leave in one write.
const JOINED: usize = 8 * 1024;
/// The most that is kept of a request to send it again: a small body and its head.
pub(crate) const KEPT: usize = 16 * 1024;

/// The state of one direction.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// Written before anything else: the head, chunk framing of ours.
    out: Vec<u8>,
    written: usize,
    body: Body,
    /// Bytes at the front of the source's buffer that go on as they are …
    pass: usize,
    /// … and that are left out after them.
    skip: usize,
    /// Is a body that ends with its connection sent in chunks?
    rechunk: Rechunk,
    /// Has the sink taken bytes that its socket did not take yet?
    unflushed: bool,
    /// Bytes written.
    sent: u64,
    /// Bytes of the body's content after which it is too large.
    max_content: u64,
    /// What was read of the source, to begin anew with; `None`: too much.
    kept: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rechunk {
    No,
    BetweenChunks,
    InChunk,
    Ended,
}

/// Which side failed, and how.
#[derive(Debug)]
pub(crate) enum TransferError {
    /// The source's connection broke, or ended before the body did.
    Source,
    /// The source's body is not framed right.
    Framing(BodyError),
    /// The source's body is larger than allowed.
    TooLarge,
    /// The sink's connection broke.
    Sink,
}

impl Transfer {
    /// Sends `out` (a head), then `body`; in chunks of our own if `rechunk`.
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

    /// Refuses a body with more than this much content.
    pub(crate) fn limit_content(mut self, bytes: Option<u64>) -> Self {
        self.max_content = bytes.unwrap_or(u64::MAX);
        self
    }

    /// Keeps what is read of a small source, which begins with `read`.
    pub(crate) fn keep(mut self, read: Vec<u8>) -> Self {
        self.kept = Some(read);
        self
    }

    /// All that was read of the source, if it was kept and is not too much.
    pub(crate) fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.kept.take()
    }

    /// What was read beyond the body, behind the first `before` bytes in hand: to
    /// begin anew with this forgotten would be to lose the next request.
    pub(crate) fn keep_ahead(&mut self, held: Option<&Buffer>, before: usize) {
        let now = held.map_or(0, |held| held.filled().len());
        self.keep_read(held, now.saturating_sub(before));
    }

    /// So many more bytes of the source were read.
    fn keep_read(&mut self, held: Option<&Buffer>, n: usize) {
        self.kept = self.kept.take().and_then(|mut kept| {
            let read = held.map_or(&[][..], Buffer::filled);
            kept.extend_from_slice(&read[read.len().saturating_sub(n)..]);
            (kept.len() <= KEPT).then_some(kept)
        });
    }

    /// Bytes written so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Was it sent whole?
    pub(crate) fn is_complete(&self) -> bool {
        self.out.len() == self.written
            && self.pass == 0
            && self.body.is_done()
            && matches!(self.rechunk, Rechunk::No | Rechunk::Ended)
    }

    /// Is it the source that it waits for (and not the sink)?
    pub(crate) fn is_blocked_by_source(&self) -> bool {
        self.out.len() == self.written && self.pass == 0 && !self.unflushed
    }

    /// Has any of the body's content come?
    pub(crate) fn has_begun_body(&self) -> bool {
        self.body.data_bytes() > 0
    }

    /// The output buffer, to be given back.
    pub(crate) fn into_output(self) -> Vec<u8> {
        self.out
    }

    /// Copies what is there already behind the head, if it is little.
    pub(crate) fn join(&mut self, source: &mut Option<Buffer>) -> Result<(), TransferError> {
        if self.rechunk != Rechunk::No || self.body.is_done() {
            return Ok(());
        }
        while let Some(buffer) = source.as_mut().filter(|b| !b.is_empty() && b.filled().len() <= JOINED) {
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

    /// Moves on as far as it goes; ready when all is sent.
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

    /// Sees out what the sink has taken, as far as it goes.
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
    use crate::h1::{BodyLimits, Framing};
    use crate::proxy::wire::socket::Socket;

    /// Both sides of a TLS connection.
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
    async fn what_tls_has_taken_is_not_sent_before_the_socket_has_taken_it() {
        let (mut sink, mut reader) = encrypted().await;
        let mut source = Stream::new(TcpStream::connect(quiet_address().await).await.unwrap());
        let (buffers, mut held) = (Buffers::new(16 * 1024), None);
        // Until the socket is full; TLS has room for more.
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
        assert!(first.await.is_pending(), "nobody has read yet");
        assert!(!transfer.is_blocked_by_source(), "it is the reader that is slow");
        let mut read = vec![0; taken + 100];
        let sent = std::future::poll_fn(|cx| transfer.poll(cx, &buffers, &mut source, &mut held, &mut sink));
        let (sent, whole) = tokio::join!(sent, reader.read_exact(&mut read));
        assert!(sent.is_ok() && whole.is_ok());
        assert_eq!(read[taken..], [8; 100]);
    }

    /// Somebody who accepts and says nothing.
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
