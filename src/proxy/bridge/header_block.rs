//! Looks into header blocks for what the `h2` crate drops without a word: pseudo-headers where there
//! must be none, and a fragment in `:path`.
//!
//! Nothing is decoded. Of a name, only the kind matters, and an entry of the dynamic table is known by
//! its place alone: whatever was evicted, `h2` refuses as an index.

use std::collections::VecDeque;

/// The most entries of a dynamic table of the default size: 4,096 bytes, at least 32 each (RFC 7541
/// §4.1).
const MAX_ENTRIES: usize = 128;
/// The entries of the static table (RFC 7541 appendix A).
const STATIC: usize = 61;

/// What was found in a header block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// A pseudo-header of requests, or one that is not known.
    pub request_pseudo: bool,
    /// `:status`.
    pub status: bool,
    /// `:path` with a `#`.
    pub fragment: bool,
}

/// The kind of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Path,
    Status,
    /// Another pseudo-header.
    Pseudo,
    Header,
}

/// Reads the header blocks of one direction of a connection, in order.
#[derive(Debug, Default)]
pub(crate) struct HeaderBlocks {
    /// The dynamic table, newest first: kind of name, and whether it is a `:path` with a `#`.
    entries: VecDeque<(Name, bool)>,
}

impl HeaderBlocks {
    /// Reads a complete block. `None` if it is malformed: `h2` closes the connection.
    pub(crate) fn read(&mut self, mut block: &[u8]) -> Option<Found> {
        let mut found = Found::default();
        while let Some(&first) = block.first() {
            let (name, fragment) = match first {
                0x80.. => self.entry(integer(&mut block, 7)?)?,
                // A new size of the table.
                0x20..0x40 => {
                    integer(&mut block, 5)?;
                    continue;
                }
                _ => {
                    let indexed = first & 0x40 != 0;
                    let name = match integer(&mut block, if indexed { 6 } else { 4 })? {
                        0 => Name::of(&string(&mut block)?),
                        index => self.entry(index)?.0,
                    };
                    let value = string(&mut block)?;
                    let entry = (name, name == Name::Path && value.has_number_sign());
                    if indexed {
                        self.entries.truncate(MAX_ENTRIES - 1);
                        self.entries.push_front(entry);
                    }
                    entry
                }
            };
            found.status |= name == Name::Status;
            found.request_pseudo |= matches!(name, Name::Path | Name::Pseudo);
            found.fragment |= fragment;
        }
        Some(found)
    }

    /// Returns an entry of the static or the dynamic table.
    fn entry(&self, index: usize) -> Option<(Name, bool)> {
        let name = match index {
            0 => return None,
            1..=3 | 6 | 7 => Name::Pseudo,
            4 | 5 => Name::Path,
            8..=14 => Name::Status,
            15..=STATIC => Name::Header,
            _ => return self.entries.get(index - STATIC - 1).copied(),
        };
        Some((name, false))
    }
}

/// A string as it was sent (RFC 7541 §5.2).
struct Sent<'b> {
    bytes: &'b [u8],
    /// Whether it is Huffman-coded.
    coded: bool,
}

impl Name {
    fn of(name: &Sent<'_>) -> Self {
        match (name.coded, name.bytes) {
            (false, b":path") | (true, b"\xb9\x58\xd3\x3f") => Self::Path,
            (false, b":status") | (true, b"\xb8\x84\x8d\x36\xa3") => Self::Status,
            // A coded `:` has the seven bits 1011100.
            (false, [b':', ..]) | (true, [0xb8 | 0xb9, ..]) => Self::Pseudo,
            _ => Self::Header,
        }
    }
}

/// The end of the codes of each length, in a window of 30 bits (RFC 7541 appendix B). The codes are
/// canonical: a longer one is a larger number.
const CODE_ENDS: [(u32, u32); 21] = [
    (5, 0x1400_0000),
    (6, 0x2e00_0000),
    (7, 0x3e00_0000),
    (8, 0x3f80_0000),
    (10, 0x3fd0_0000),
    (11, 0x3fe8_0000),
    (12, 0x3ff0_0000),
    (13, 0x3ffc_0000),
    (14, 0x3ffe_0000),
    (15, 0x3fff_8000),
    (19, 0x3fff_9800),
    (20, 0x3fff_b800),
    (21, 0x3fff_d200),
    (22, 0x3fff_ec00),
    (23, 0x3fff_fa80),
    (24, 0x3fff_fd80),
    (25, 0x3fff_fe00),
    (26, 0x3fff_fef0),
    (27, 0x3fff_ff88),
    (28, 0x3fff_fffc),
    (30, 0x4000_0000),
];
/// The code of `#`, and its length.
const NUMBER_SIGN: (u32, u32) = (12, 0xffa);

impl Sent<'_> {
    /// Returns true if the text has a `#`.
    fn has_number_sign(&self) -> bool {
        if !self.coded {
            return self.bytes.contains(&b'#');
        }
        let bits = 8 * self.bytes.len();
        let mut at = 0;
        while at < bits {
            let window = self.window(at);
            let Some((length, _)) = CODE_ENDS.iter().find(|(_, end)| window < *end) else { return false };
            if (*length, window >> (30 - length)) == NUMBER_SIGN && at + 12 <= bits {
                return true;
            }
            at += *length as usize;
        }
        false
    }

    /// Returns the 30 bits at this place. The end is padded with ones.
    fn window(&self, at: usize) -> u32 {
        let mut word = 0_u64;
        for index in at / 8..at / 8 + 5 {
            word = word << 8 | u64::from(self.bytes.get(index).copied().unwrap_or(0xff));
        }
        u32::try_from(word >> (10 - at % 8) & 0x3fff_ffff).unwrap_or(u32::MAX)
    }
}

/// Takes an integer with a prefix of this many bits (RFC 7541 §5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Option<usize> {
    let (first, mut rest) = block.split_first()?;
    let mask = (1_usize << prefix) - 1;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        for shift in [0, 7, 14, 21] {
            let (byte, behind) = rest.split_first()?;
            rest = behind;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *block = rest;
                return Some(value);
            }
        }
        return None;
    }
    *block = rest;
    Some(value)
}

/// Takes a string.
fn string<'b>(block: &mut &'b [u8]) -> Option<Sent<'b>> {
    let coded = block.first()? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (bytes, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some(Sent { bytes, coded })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(block: &[u8]) -> Found {
        HeaderBlocks::default().read(block).unwrap()
    }

    const PATH: Found = Found { request_pseudo: true, status: false, fragment: false };
    const FRAGMENT: Found = Found { fragment: true, ..PATH };

    #[test]
    fn pseudo_headers_are_found_however_they_are_sent() {
        let request: [&[u8]; 6] = [
            b"\x84",
            b"\x82",
            b"\x04\x02/a",
            b"\x00\x05:path\x02/a",
            b"\x00\x84\xb9\x58\xd3\x3f\x02/a",
            b"\x10\x02:x\x01y",
        ];
        for block in request {
            assert_eq!(read(block), PATH, "{block:?}");
        }
        let status: [&[u8]; 4] =
            [b"\x88", b"\x08\x03200", b"\x00\x07:status\x03200", b"\x00\x85\xb8\x84\x8d\x36\xa3\x03200"];
        for block in status {
            assert_eq!(read(block), Found { status: true, ..Found::default() }, "{block:?}");
        }
        for block in [&b"\x90"[..], b"\x00\x01x\x02:#", b"\x3f\xe1\x1f\x90", b""] {
            assert_eq!(read(block), Found::default(), "{block:?}");
        }
    }

    #[test]
    fn fragment_is_found_coded_or_not() {
        assert_eq!(read(b"\x04\x04/a#b"), FRAGMENT);
        assert_eq!(read(b"\x44\x04/a?b"), PATH);
        for (text, fragment) in [
            ("/a#b", true),
            ("/#", true),
            ("#", true),
            ("/a?b", false),
            ("/\u{e9}\\<>#", true),
            ("/\u{ff}{}^~`", false),
        ] {
            let coded = huffman(text.as_bytes());
            let length = u8::try_from(coded.len()).unwrap();
            let block = [&[0x04, 0x80 | length], &coded[..]].concat();
            assert_eq!(read(&block).fragment, fragment, "{text}");
        }
    }

    #[test]
    fn entries_of_the_dynamic_table_are_remembered_by_their_place() {
        let mut blocks = HeaderBlocks::default();
        // A path with a fragment, then two other entries.
        assert_eq!(blocks.read(b"\x44\x03/#a\x40\x01x\x01y"), Some(FRAGMENT));
        assert_eq!(blocks.read(b"\x40\x01z\x01y"), Some(Found::default()));
        assert_eq!(blocks.read(b"\xbe\xbf"), Some(Found::default()));
        assert_eq!(blocks.read(b"\xc0"), Some(FRAGMENT));
        // Its name, with another value.
        assert_eq!(blocks.read(b"\x0f\x31\x01/"), Some(PATH));
        assert_eq!(blocks.read(b"\xc1"), None, "not in the table");
        for _ in 0..300 {
            assert!(blocks.read(b"\x40\x01x\x01y").is_some());
        }
        assert_eq!(blocks.entries.len(), MAX_ENTRIES);
    }

    #[test]
    fn blocks_that_are_cut_off_are_malformed() {
        for block in [&b"\x80"[..], b"\xff", b"\x00", b"\x00\x05x", b"\x04\xff\xff\xff\xff\xff\x01"] {
            assert_eq!(HeaderBlocks::default().read(block), None, "{block:?}");
        }
    }

    /// Codes a few characters (RFC 7541 appendix B).
    fn huffman(text: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in text {
            let (code, length) = match byte {
                b'/' => (0x18, 6),
                b'a' => (0x3, 5),
                b'b' => (0x23, 6),
                b'#' => (0xffa, 12),
                b'?' => (0x3fc, 10),
                b'\\' => (0x7fff0, 19),
                b'<' => (0x7ffc, 15),
                b'>' => (0xffb, 12),
                b'{' => (0x7ffe, 15),
                b'}' => (0x3ffd, 14),
                b'^' => (0x3ffc, 14),
                b'~' => (0x1ffd, 13),
                b'`' => (0x7ffd, 15),
                0xa9 => (0x3f_ffdd, 22),
                0xbf => (0x7f_fff1, 23),
                0xc3 => (0x7_fff1, 19),
                byte => panic!("{byte}"),
            };
            for place in (0..length).rev() {
                bits.push(if code >> place & 1 == 1 { '1' } else { '0' });
            }
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let bits = bits.as_bytes();
        bits.chunks(8).map(|byte| byte.iter().fold(0, |sum, bit| sum << 1 | (bit - b'0'))).collect()
    }
}
