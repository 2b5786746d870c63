//! A frame-level HTTP/2 client that sends exactly the given frames, valid or not.

use super::frames::{ACK, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};
use super::raw::RawClient;

/// Encodes fields as never-indexed literals (RFC 7541 §6.2.3), without Huffman coding.
pub(crate) fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0x10);
        for text in [name, value] {
            integer(&mut out, text.len());
            out.extend_from_slice(text);
        }
    }
    out
}

/// Encodes an integer with a 7-bit prefix (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, value: usize) {
    let Some(mut rest) = value.checked_sub(0x7f) else {
        out.push(u8::try_from(value).expect("less than 127"));
        return;
    };
    out.push(0x7f);
    while rest >= 0x80 {
        out.push(u8::try_from(rest % 0x80).expect("7 bits") | 0x80);
        rest /= 0x80;
    }
    out.push(u8::try_from(rest).expect("7 bits"));
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
        raw.send([PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await;
        Self { raw }
    }

    /// Sends the bytes; returns false if the peer has closed the connection.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.raw.try_send(bytes).await
    }

    /// Returns what the peer says next. Acknowledges settings, and skips window updates and data.
    pub(crate) async fn said(&mut self) -> Said {
        loop {
            let Ok(head) = self.raw.at_most(9).await else { return Said::Closed };
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let length = usize::try_from(length).expect("24 bits");
            let Ok(payload) = self.raw.at_most(length).await else { return Said::Closed };
            let word = |at: usize| {
                payload[at..at + 4].iter().fold(0_u32, |word, byte| (word << 8) | u32::from(*byte))
            };
            match kind {
                SETTINGS if flags & ACK == 0 => {
                    self.raw.try_send(frame(SETTINGS, ACK, 0, b"")).await;
                }
                // Trailers do not start with a status.
                HEADERS => {
                    if let Some(status) = status(&payload) {
                        return Said::Response(stream, status);
                    }
                }
                RST_STREAM => return Said::Reset(stream, word(0)),
                // A graceful shutdown starts with a GOAWAY without an error.
                GOAWAY if word(4) != 0 => return Said::GoAway(word(4)),
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
