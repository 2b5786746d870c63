//! SipHash-2-4 (Aumasson and Bernstein, 2012): a short keyed hash that is a pseudorandom function.
//!
//! Without the key nobody can find two messages with the same hash, or one with a given hash. XXH3,
//! which places keys on the ring, does not give this.

/// A key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SipKey(pub(super) u64, pub(super) u64);

/// Hashes a message that is given in parts. Where the parts are divided does not matter.
#[derive(Clone)]
pub(super) struct SipHasher {
    state: [u64; 4],
    /// Bytes that do not fill a word yet, from the lowest.
    tail: u64,
    len: u64,
}

impl SipHasher {
    pub(super) fn new(SipKey(k0, k1): SipKey) -> Self {
        Self {
            state: [
                k0 ^ 0x736f_6d65_7073_6575,
                k1 ^ 0x646f_7261_6e64_6f6d,
                k0 ^ 0x6c79_6765_6e65_7261,
                k1 ^ 0x7465_6462_7974_6573,
            ],
            tail: 0,
            len: 0,
        }
    }

    pub(super) fn write(&mut self, mut bytes: &[u8]) {
        while !self.len.is_multiple_of(8) {
            let [byte, rest @ ..] = bytes else { return };
            self.push(*byte);
            bytes = rest;
        }
        while let Some((word, rest)) = bytes.split_first_chunk() {
            self.compress(u64::from_le_bytes(*word));
            self.len = self.len.wrapping_add(8);
            bytes = rest;
        }
        for byte in bytes {
            self.push(*byte);
        }
    }

    pub(super) fn finish(mut self) -> u64 {
        self.compress(self.tail | self.len << 56);
        self.state[2] ^= 0xff;
        for _ in 0..4 {
            round(&mut self.state);
        }
        self.state.iter().fold(0, |hash, word| hash ^ word)
    }

    fn push(&mut self, byte: u8) {
        self.tail |= u64::from(byte) << (8 * (self.len % 8));
        self.len = self.len.wrapping_add(1);
        if self.len.is_multiple_of(8) {
            let word = std::mem::take(&mut self.tail);
            self.compress(word);
        }
    }

    fn compress(&mut self, word: u64) {
        self.state[3] ^= word;
        round(&mut self.state);
        round(&mut self.state);
        self.state[0] ^= word;
    }
}

fn round(state: &mut [u64; 4]) {
    let [mut v0, mut v1, mut v2, mut v3] = *state;
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    *state = [v0, v1, v2, v3];
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SipKey = SipKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);

    fn hash(bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher::new(KEY);
        hasher.write(bytes);
        hasher.finish()
    }

    #[test]
    fn hashes_equal_the_vectors_of_the_authors() {
        let message: Vec<u8> = (0..63).collect();
        // From Appendix A of the paper, and from `vectors.h` of the reference implementation.
        assert_eq!(hash(&message[..15]), 0xa129_ca61_49be_45e5);
        assert_eq!(hash(&[]), 0x726f_db47_dd0e_0e31);
        assert_eq!(hash(&message[..1]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(hash(&message[..8]), 0x93f5_f579_9a93_2462);
        assert_eq!(hash(&message), 0x958a_324c_eb06_4572);
    }

    #[test]
    fn where_parts_are_divided_does_not_matter() {
        let message: Vec<u8> = (0..40).collect();
        for first in 0..40 {
            for second in first..40 {
                let mut hasher = SipHasher::new(KEY);
                for part in [&message[..first], &message[first..second], &message[second..]] {
                    hasher.write(part);
                }
                assert_eq!(hasher.finish(), hash(&message));
            }
        }
    }
}
