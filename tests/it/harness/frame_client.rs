//! A frame-level HTTP/2 client that sends exactly the given frames, valid or not.

use super::frames::{ACK, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame, literals};
use super::raw::RawClient;

/// Encodes fields as never-indexed literals (RFC 7541 §6.2.3), without Huffman coding.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    literals(0x10, fields.iter().copied())
}

/// What the peer says about a stream or the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// A response: stream and status.
    Response(u32, u16),
    /// `RST_STREAM`: stream and error code.
    Reset(u32, u32),
    /// GOAWAY with this error code, other than `NO_ERROR`.
    GoAway(u32),
    /// The connection ended.
    Closed,
}

/// A connection on which the caller writes the frames.
pub(crate) struct FrameClient {
    raw: RawClient,
}

impl FrameClient {
    /// Sends the preface and empty settings.
    pub(crate) async fn new(mut raw: RawClient) -> Self {
        raw.begin_http2().await;
        Self { raw }
    }

    /// Sends the bytes; returns false if the peer has closed the connection.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.raw.try_send(bytes).await
    }

    /// Returns what the peer says next. Acknowledges settings, and skips window updates and data.
    pub(crate) async fn said(&mut self) -> Said {
        loop {
            let Some(received) = self.raw.next_frame().await else { return Said::Closed };
            match received.kind {
                SETTINGS if received.flags & ACK == 0 => {
                    self.raw.try_send(frame(SETTINGS, ACK, 0, b"")).await;
                }
                // Trailers do not start with a status.
                HEADERS => {
                    if let Some(status) = status(&received.payload) {
                        return Said::Response(received.stream, status);
                    }
                }
                RST_STREAM => return Said::Reset(received.stream, received.code()),
                // A graceful shutdown starts with a GOAWAY without an error.
                GOAWAY if received.code() != 0 => return Said::GoAway(received.code()),
                _ => {}
            }
        }
    }
}

/// Returns the status at the start of a response's header block: indexed (RFC 7541 appendix A,
/// entries 8 to 14 of the static table), or a literal with that name.
fn status(block: &[u8]) -> Option<u16> {
    match *block.first()? {
        indexed @ 0x88..=0x8e => Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)]),
        literal if matches!(literal & 0x3f, 8..=14) && literal & 0x80 == 0 || literal == 0x08 => {
            let length = block.get(1)?;
            let bytes = block.get(2..2 + usize::from(length & 0x7f))?;
            if length & 0x80 == 0 {
                std::str::from_utf8(bytes).ok()?.parse().ok()
            } else {
                huffman_digits(bytes)
            }
        }
        _ => None,
    }
}

/// Decodes three Huffman-coded digits: 0, 1 and 2 have 5 bits, the others 6 (RFC 7541 appendix B).
fn huffman_digits(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |n| u16::from(byte >> n & 1)));
    let mut take = |count: usize| (0..count).try_fold(0, |word, _| Some(word << 1 | bits.next()?));
    let mut number = 0;
    for _ in 0..3 {
        let short: u16 = take(5)?;
        let digit = if short <= 2 { short } else { (short << 1 | take(1)?).checked_sub(0x19)? + 3 };
        number = number * 10 + digit;
    }
    Some(number)
}
