//! Hand-written HTTP/2 frames (RFC 9113 §4.1), for what a well-behaved client would not send.

use super::raw::RawClient;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PUSH_PROMISE: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The pseudo-header fields of `GET /`.
pub(crate) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/")];
/// The pseudo-header fields of `POST /`.
pub(crate) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "t"), (":path", "/")];

/// A received frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// Returns the first 32-bit word, or for GOAWAY the second: the error code of `RST_STREAM` and
    /// GOAWAY, the increment of `WINDOW_UPDATE`.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// Encodes a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Encodes a GET request as one frame.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    let block = block(&[(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", path)]);
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// Encodes fields as literals without indexing (RFC 7541 §6.2.2), without Huffman coding.
pub(crate) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    literals(0x00, fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

/// Encodes fields as literals with new names. `representation` is the first byte of each: 0x00
/// without indexing, 0x10 never indexed (RFC 7541 §6.2).
pub(super) fn literals<'a>(
    representation: u8,
    fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(representation);
        for text in [name, value] {
            write_len(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// Encodes an integer with a 7-bit prefix (RFC 7541 §5.1).
fn write_len(bytes: &mut Vec<u8>, len: usize) {
    let Some(mut rest) = len.checked_sub(127) else {
        bytes.push(u8::try_from(len).expect("less than 127"));
        return;
    };
    bytes.push(127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).expect("seven bits") | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
}

impl RawClient {
    /// Sends the HTTP/2 preface and empty settings.
    pub(crate) async fn begin_http2(&mut self) {
        self.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
    }

    /// Reads the next frame; `None` if the connection closed or was reset.
    pub(crate) async fn next_frame(&mut self) -> Option<Frame> {
        let head = self.at_most(9).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
        let payload = self.at_most(len as usize).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads up to the next frame of this kind; `None` if the connection ends before it.
    pub(crate) async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        loop {
            let frame = self.next_frame().await?;
            if frame.kind == kind {
                return Some(frame);
            }
        }
    }

    /// Reads up to the next frame of this kind on this stream.
    pub(crate) async fn next_on(&mut self, stream: u32, kind: u8) -> Frame {
        loop {
            let frame = self.next_of(kind).await.expect("a frame");
            if frame.stream == stream {
                return frame;
            }
        }
    }
}
