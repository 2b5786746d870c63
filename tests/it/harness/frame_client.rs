//! HTTP/2, frame by frame: a client that sends exactly the frames that it is
//! told, right or wrong, without help from any library.

use super::frames::{ACK, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS, frame};
use super::raw::RawClient;

/// A header block: every field a literal, never indexed, no Huffman (RFC 7541 §6.2.3).
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

/// An integer with a prefix of 7 bits (RFC 7541 §5.1).
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

/// What the other side says to a stream, or to the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// A response of this status on this stream.
    Response(u32, u16),
    /// `RST_STREAM` with this code.
    Reset(u32, u32),
    /// GOAWAY with this code, other than "no error".
    GoAway(u32),
    /// The end of the connection.
    Closed,
}

pub(crate) struct FrameClient {
    raw: RawClient,
}

impl FrameClient {
    /// Shakes hands, without settings of its own.
    pub(crate) async fn new(mut raw: RawClient) -> Self {
        raw.send([PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).await;
        Self { raw }
    }

    /// Sends as long as the other side takes it.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.raw.try_send(bytes).await
    }

    /// The next that is said; settings are confirmed, windows and data passed over.
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
                // A block of trailers does not begin with a status.
                HEADERS => {
                    if let Some(status) = status(&payload) {
                        return Said::Response(stream, status);
                    }
                }
                RST_STREAM => return Said::Reset(stream, word(0)),
                // The first of a graceful end says nothing.
                GOAWAY if word(4) != 0 => return Said::GoAway(word(4)),
                _ => {}
            }
        }
    }
}

/// The status that a response's header block begins with (RFC 7541, appendix A:
/// 8 to 14 in the static table), by itself or as a literal of that name.
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

/// Three digits in the Huffman code: 0, 1 and 2 are 5 bits, the others 6 (RFC 7541, appendix B).
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
