//! Watches the flow-control window that a backend grants a connection. All uploads on the
//! connection share it, so one that the backend does not read can use it up for the others.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::wire::stream::Stream;

/// The window before the first `WINDOW_UPDATE`, in bytes (RFC 9113 §6.9.2).
const INITIAL: i64 = 65_535;
/// Length of a frame header in bytes (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;
/// The preface that a client sends before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// Frame types (RFC 9113 §6).
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 8;

/// What is left of a connection's window.
#[derive(Debug)]
pub(super) struct SendWindow {
    left: Cell<i64>,
    /// The largest that it ever was.
    full: Cell<i64>,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self { left: Cell::new(INITIAL), full: Cell::new(INITIAL) }
    }
}

impl SendWindow {
    /// Returns the share of the window that counts as little, in bytes.
    pub(super) fn little(&self) -> i64 {
        self.full.get() / 4
    }

    /// Returns whether little is left: the backend has not read most of what it was sent.
    pub(super) fn is_low(&self) -> bool {
        self.left.get() < self.little()
    }

    fn sent(&self, frame: &Frame) {
        if frame.kind() == DATA {
            self.left.set(self.left.get() - i64::from(frame.len()));
        }
    }

    fn received(&self, frame: &Frame) {
        if frame.kind() == WINDOW_UPDATE && frame.stream() == 0 {
            self.left.set(self.left.get().saturating_add(frame.word().into()));
            self.full.set(self.full.get().max(self.left.get()));
        }
    }
}

/// The header of a frame, and the first four bytes of its payload.
#[derive(Debug, Default)]
struct Frame {
    bytes: [u8; FRAME_HEADER + 4],
    /// Number of bytes in `bytes`.
    seen: usize,
}

impl Frame {
    fn len(&self) -> u32 {
        u32::from_be_bytes([0, self.bytes[0], self.bytes[1], self.bytes[2]])
    }

    fn kind(&self) -> u8 {
        self.bytes[3]
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d, _, _, _, _] = self.bytes;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }

    /// Returns the first word of the payload, without its reserved bit.
    fn word(&self) -> u32 {
        let [.., a, b, c, d] = self.bytes;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }
}

/// Finds the frames in one direction.
#[derive(Debug, Default)]
struct Frames {
    frame: Frame,
    /// Bytes of the payload, or of the preface, to pass over.
    skip: usize,
}

impl Frames {
    /// Advances past these bytes. Calls `began` for each frame.
    fn advance(&mut self, mut bytes: &[u8], mut began: impl FnMut(&Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let frame = &mut self.frame;
            let wanted = if frame.seen < FRAME_HEADER {
                FRAME_HEADER
            } else {
                FRAME_HEADER + usize::try_from(frame.len()).unwrap_or(usize::MAX).min(4)
            };
            let n = bytes.len().min(wanted - frame.seen);
            frame.bytes[frame.seen..frame.seen + n].copy_from_slice(&bytes[..n]);
            frame.seen += n;
            bytes = &bytes[n..];
            if frame.seen < FRAME_HEADER {
                continue;
            }
            let len = usize::try_from(frame.len()).unwrap_or(usize::MAX);
            let inside = frame.seen - FRAME_HEADER;
            if inside == len.min(4) {
                began(frame);
                self.skip = len - inside;
                self.frame = Frame::default();
            }
        }
    }
}

/// A connection to a backend whose window is watched.
pub(super) struct Watched {
    stream: Stream,
    window: Rc<SendWindow>,
    sent: Frames,
    received: Frames,
}

impl Watched {
    pub(super) fn new(stream: Stream, window: Rc<SendWindow>) -> Self {
        let sent = Frames { skip: PREFACE, ..Frames::default() };
        Self { stream, window, sent, received: Frames::default() }
    }

    fn count_sent(&mut self, bufs: &[IoSlice<'_>], mut written: usize) {
        for buf in bufs {
            let n = written.min(buf.len());
            self.sent.advance(&buf[..n], |frame| self.window.sent(frame));
            written -= n;
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.received.advance(&buf.filled()[before..], |frame| this.window.received(frame));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let n = ready!(this.stream.poll_write(cx, buf))?;
        this.count_sent(&[IoSlice::new(buf)], n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let n = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let [_, a, b, c] = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![a, b, c, kind, 0];
        frame.extend(stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn window_follows_data_and_updates_of_the_connection_however_they_are_split() {
        let sent =
            [vec![7; PREFACE], frame(4, 0, &[]), frame(DATA, 1, &vec![0; 40_000]), frame(DATA, 3, &[])];
        let sent = [sent.concat(), frame(1, 5, b"abc"), frame(DATA, 5, &[1, 2])].concat();
        let updates = [
            frame(6, 0, &[9; 8]),
            frame(WINDOW_UPDATE, 0, &1_000u32.to_be_bytes()),
            frame(WINDOW_UPDATE, 1, &5_000u32.to_be_bytes()),
            frame(WINDOW_UPDATE, 0, &30u32.to_be_bytes()),
        ];
        for piece in [1, 2, 7, 9, 13, 100, 1 << 20] {
            let window = SendWindow::default();
            let mut frames = Frames { skip: PREFACE, ..Frames::default() };
            sent.chunks(piece).for_each(|bytes| frames.advance(bytes, |frame| window.sent(frame)));
            assert_eq!(window.left.get(), INITIAL - 40_002, "in pieces of {piece}");
            let mut frames = Frames::default();
            updates.concat().chunks(piece).for_each(|b| frames.advance(b, |frame| window.received(frame)));
            assert_eq!(window.left.get(), INITIAL - 40_002 + 1_030, "in pieces of {piece}");
        }
    }

    #[test]
    fn window_is_low_when_less_than_a_quarter_of_its_largest_is_left() {
        let window = SendWindow::default();
        let (mut there, mut back) = (Frames::default(), Frames::default());
        let mut send = |n| there.advance(&frame(DATA, 1, &vec![0; n]), |frame| window.sent(frame));
        send(49_000);
        assert!(!window.is_low());
        send(1_000);
        assert!(window.is_low());
        back.advance(&frame(WINDOW_UPDATE, 0, &1_000_000u32.to_be_bytes()), |f| window.received(f));
        assert!(!window.is_low());
        send(800_000);
        assert!(window.is_low(), "a quarter of the first window is left, not of the largest");
    }
}
