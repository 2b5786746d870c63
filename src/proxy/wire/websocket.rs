//! The parts of WebSocket (RFC 6455) that a proxy needs: the accept key, frame boundaries (§5.2),
//! and the Close frame.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

/// The GUID that is appended to a key before hashing (§1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A server's Close frame with status 1001, going away (§7.4.1).
pub(crate) const GOING_AWAY: &[u8] = &[0x88, 2, 0x03, 0xE9];
/// The same from a client: masked, with a masking key of zeros.
pub(crate) const GOING_AWAY_MASKED: &[u8] = &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE9];

/// Returns the `Sec-WebSocket-Accept` value for a key (§4.2.2).
pub(crate) fn accept_key(key: &str) -> String {
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

/// Tracks frame boundaries in one direction.
#[derive(Debug, Default)]
pub(crate) struct Boundary {
    /// The current frame's header, as far as it was seen.
    head: [u8; 10],
    /// Number of bytes in `head`.
    seen: u8,
    /// Remaining bytes of the current frame's masking key and payload.
    left: u64,
}

impl Boundary {
    /// Advances past these bytes.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[usize::from(self.seen)] = bytes[0];
            self.seen += 1;
            bytes = &bytes[1..];
            if let Some(left) = self.rest_of_frame() {
                self.left = left;
                self.seen = 0;
            }
        }
    }

    /// Returns true if the next byte starts a frame.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.seen == 0 && self.left == 0
    }

    /// Returns the length of masking key and payload, once the header is complete.
    fn rest_of_frame(&self) -> Option<u64> {
        let length = self.head[1] & 0x7F;
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        let payload = match (self.seen, length) {
            (2, 0..=125) => u64::from(length),
            (4, 126) => u64::from(u16::from_be_bytes([self.head[2], self.head[3]])),
            (10, 127) => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&self.head[2..10]);
                u64::from_be_bytes(bytes)
            }
            _ => return None,
        };
        Some(payload.saturating_add(mask))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..=125 => frame.push(mask | u8::try_from(length).unwrap()),
            126..=0xFFFF => {
                frame.push(mask | 0x7E);
                frame.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                frame.push(mask | 0x7F);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(std::iter::repeat_n(7, length + if masked { 4 } else { 0 }));
        frame
    }

    #[test]
    fn accept_key_matches_the_rfc_example() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn frame_boundaries_do_not_depend_on_chunking() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            for masked in [false, true] {
                let frame = frame(length, masked);
                for piece in [1, 3, 4096] {
                    let mut boundary = Boundary::default();
                    let mut left = frame.len();
                    for bytes in frame.chunks(piece) {
                        assert_eq!(boundary.is_between_frames(), left == frame.len());
                        boundary.advance(bytes);
                        left -= bytes.len();
                    }
                    assert!(boundary.is_between_frames(), "{length} {masked} {piece}");
                }
            }
        }
    }
}
