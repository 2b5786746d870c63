//! Seals and opens the cookie's value.
//!
//! Version 2, then base64url without padding:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 2 |
//! | 1 | key id: which key may open it |
//! | 12 | nonce, random |
//! | 21 + n | sealed: issued, last seen, bound (4 each), big-endian seconds since the epoch; 1 if it names the session's key, 2 if it is early, else 0; that key's seeded hash (8); the backend's id |
//! | 16 | tag |
//!
//! Version 1 has no `bound` and names no key. It is read, but not written.
//!
//! The cipher is AES-256-GCM-SIV (RFC 8452): the proxies of a fleet share a key and draw nonces
//! independently, so a repeated nonce must not be a catastrophe. The associated data are the
//! version and the upstream's name: a cookie sealed for one upstream is forged for every other.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::opened::Opened;
use crate::affinity::{BackendId, KeyHash, Timestamp};

/// The keys that seal and open cookies: the first seals, all open.
pub struct KeyRing {
    keys: Vec<Key>,
}

struct Key {
    id: u8,
    key: LessSafeKey,
}

/// Why a value cannot be opened. In every case it was not sealed here, or not for this upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not base64url, or an impossible length or version.
    #[error("not a sealed cookie")]
    Malformed,
    /// Sealed with a key that is not (or no longer) on the ring, or altered.
    #[error("sealed with an unknown key")]
    UnknownKey,
    /// Altered, sealed for another upstream, or made up.
    #[error("authentication failed")]
    Unauthentic,
}

impl KeyRing {
    /// Creates a ring of these keys. Without any, it is [`KeyRing::ephemeral`].
    pub fn new(keys: &[[u8; 32]]) -> Self {
        if keys.is_empty() {
            return Self::ephemeral();
        }
        Self { keys: keys.iter().map(Key::new).collect() }
    }

    /// Creates a ring of one random key. No other proxy can open its cookies, nor can this one
    /// after a restart.
    ///
    /// # Panics
    /// If the system's random number generator fails.
    pub fn ephemeral() -> Self {
        Self::new(&[random()])
    }

    /// Seals a binding into a cookie value.
    ///
    /// # Panics
    /// If the system's random number generator fails.
    pub fn seal(&self, upstream: &str, binding: &Opened) -> String {
        self.seal_with_nonce(upstream, binding, random())
    }

    /// Opens a cookie value sealed for `upstream`.
    pub fn open(&self, upstream: &str, value: &[u8]) -> Result<Opened, OpenError> {
        let mut buffer = [0; MAX_LEN];
        // The decoder requires room for its estimate, so check the length first.
        if value.len() > MAX_TEXT {
            return Err(OpenError::Malformed);
        }
        let len = URL_SAFE_NO_PAD.decode_slice(value, &mut buffer).map_err(|_| OpenError::Malformed)?;
        let sealed = &buffer[..len];
        let [version, id, rest @ ..] = sealed else { return Err(OpenError::Malformed) };
        let version = Version::of(*version).ok_or(OpenError::Malformed)?;
        if len < version.shortest() {
            return Err(OpenError::Malformed);
        }
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(OpenError::Malformed)?;
        // Key ids may collide: try every key with this id.
        let mut keys = self.keys.iter().filter(|key| key.id == *id).peekable();
        if keys.peek().is_none() {
            return Err(OpenError::UnknownKey);
        }
        keys.find_map(|key| key.open(version, upstream, *nonce, sealed)).ok_or(OpenError::Unauthentic)
    }

    pub(super) fn seal_with_nonce(&self, upstream: &str, binding: &Opened, nonce: [u8; NONCE_LEN]) -> String {
        let Key { id, key } = &self.keys[0];
        let backend = binding.backend.as_str().as_bytes();
        let mut sealed = Vec::with_capacity(MAX_LEN);
        for time in [binding.issued, binding.last_seen, binding.bound] {
            sealed.extend_from_slice(&time.0.to_be_bytes());
        }
        sealed.push(match binding.key {
            Some(_) => 1,
            None => 2 * u8::from(binding.early),
        });
        sealed.extend_from_slice(&binding.key.map_or(0, |key| key.0).to_be_bytes());
        sealed.extend_from_slice(backend);
        let aad = Aad::from(associated_data(Version::Two, upstream));
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .expect("invariant: a hundred bytes can be sealed");
        let mut value = Vec::with_capacity(MAX_LEN);
        value.extend_from_slice(&[Version::Two as u8, *id]);
        value.extend_from_slice(&nonce);
        value.extend_from_slice(&sealed);
        value.extend_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode(value)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

impl Key {
    fn new(key: &[u8; 32]) -> Self {
        let mut text = b"homing cookie key id\0".to_vec();
        text.extend_from_slice(key);
        let id = digest(&SHA256, &text).as_ref()[0];
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).expect("invariant: the key has 32 bytes");
        Self { id, key: LessSafeKey::new(key) }
    }

    fn open(
        &self,
        version: Version,
        upstream: &str,
        nonce: [u8; NONCE_LEN],
        sealed: &[u8],
    ) -> Option<Opened> {
        let mut buffer = [0; MAX_LEN];
        let buffer = &mut buffer[..sealed.len()];
        buffer.copy_from_slice(sealed);
        let aad = Aad::from(associated_data(version, upstream));
        let plain = self.key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, buffer).ok()?;
        read(version, plain)
    }
}

/// Reads what was sealed.
fn read(version: Version, plain: &[u8]) -> Option<Opened> {
    let time = |bytes: &[u8; 4]| Timestamp(u32::from_be_bytes(*bytes));
    let (issued, rest) = plain.split_first_chunk()?;
    let (last_seen, rest) = rest.split_first_chunk()?;
    let (bound, key, early, backend) = match version {
        Version::One => (issued, None, false, rest),
        Version::Two => {
            let (bound, rest) = rest.split_first_chunk()?;
            let ([named, hash @ ..], backend) = rest.split_first_chunk::<9>()?;
            let key = (*named == 1).then(|| KeyHash(u64::from_be_bytes(*hash)));
            (bound, key, *named == 2, backend)
        }
    };
    let backend = std::str::from_utf8(backend).ok()?.parse().ok()?;
    Some(Opened { backend, key, early, issued: time(issued), bound: time(bound), last_seen: time(last_seen) })
}

/// The version of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One = 1,
    Two = 2,
}

impl Version {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::One),
            2 => Some(Self::Two),
            _ => None,
        }
    }

    /// Returns the length of everything except the backend's id, which has at least one byte.
    const fn shortest(self) -> usize {
        let content = match self {
            Self::One => 8,
            Self::Two => 21,
        };
        2 + NONCE_LEN + content + TAG_LEN
    }
}

/// Returns the purpose, the version, and the upstream's name preceded by its length.
fn associated_data(version: Version, upstream: &str) -> Vec<u8> {
    let mut data = Vec::with_capacity(24 + upstream.len());
    data.extend_from_slice(b"homing cookie\0");
    data.push(version as u8);
    data.extend_from_slice(&(upstream.len() as u64).to_be_bytes());
    data.extend_from_slice(upstream.as_bytes());
    data
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Continuing with a predictable nonce or key would be worse.
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random number generator works");
    bytes
}

const TAG_LEN: usize = 16;
const MAX_LEN: usize = Version::Two.shortest() + BackendId::MAX_LEN;
/// The length of `MAX_LEN` bytes in base64.
const MAX_TEXT: usize = (MAX_LEN * 4).div_ceil(3);

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [1; 32];
    const OTHER: [u8; 32] = [2; 32];

    fn binding() -> Opened {
        Opened {
            backend: "10.0.1.11:8080".parse().unwrap(),
            key: Some(KeyHash(0x0123_4567_89ab_cdef)),
            early: false,
            issued: Timestamp(1_700_000_000),
            bound: Timestamp(1_700_000_300),
            last_seen: Timestamp(1_700_000_600),
        }
    }

    fn seal(ring: &KeyRing) -> String {
        ring.seal("shop", &binding())
    }

    #[test]
    fn sealed_value_opens() {
        let ring = KeyRing::new(&[KEY]);
        assert_eq!(ring.open("shop", seal(&ring).as_bytes()), Ok(binding()));
    }

    #[test]
    fn shortest_and_longest_backend_ids_fit() {
        let ring = KeyRing::new(&[KEY]);
        for len in [1, BackendId::MAX_LEN] {
            let binding = Opened { backend: "x".repeat(len).parse().unwrap(), ..binding() };
            let value = ring.seal("shop", &binding);
            assert_eq!(ring.open("shop", value.as_bytes()), Ok(binding));
        }
    }

    #[test]
    fn value_is_opaque_and_never_repeats() {
        let ring = KeyRing::new(&[KEY]);
        let (one, two) = (seal(&ring), seal(&ring));
        assert_ne!(one, two);
        assert!(one.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        let raw = URL_SAFE_NO_PAD.decode(&one).unwrap();
        assert!(!raw.windows(8).any(|window| window == b"10.0.1.1"));
    }

    #[test]
    fn any_bit_flip_fails() {
        let ring = KeyRing::new(&[KEY, OTHER]);
        let raw = URL_SAFE_NO_PAD.decode(seal(&ring)).unwrap();
        for bit in 0..raw.len() * 8 {
            let mut changed = raw.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.open("shop", URL_SAFE_NO_PAD.encode(changed).as_bytes()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn any_changed_character_fails() {
        // Includes the last one, whose spare bits base64 decoders may ignore.
        let ring = KeyRing::new(&[KEY]);
        for len in 1..4 {
            let value = ring.seal("shop", &Opened { backend: "x".repeat(len).parse().unwrap(), ..binding() });
            for at in 0..value.len() {
                for other in 0..=255 {
                    let mut changed = value.clone().into_bytes();
                    if changed[at] != other {
                        changed[at] = other;
                        assert!(ring.open("shop", &changed).is_err());
                    }
                }
            }
        }
    }

    #[test]
    fn any_truncation_or_extension_fails() {
        let ring = KeyRing::new(&[KEY]);
        let value = seal(&ring);
        for len in 0..value.len() {
            assert!(ring.open("shop", &value.as_bytes()[..len]).is_err());
        }
        for more in ["A", "AA", "AAAA", "=", "==", &"A".repeat(1000)] {
            assert!(ring.open("shop", format!("{value}{more}").as_bytes()).is_err());
        }
    }

    #[test]
    fn other_upstreams_cannot_open_it() {
        let ring = KeyRing::new(&[KEY]);
        for other in ["sho", "shoq", "shopp", ""] {
            assert_eq!(ring.open(other, seal(&ring).as_bytes()), Err(OpenError::Unauthentic));
        }
    }

    #[test]
    fn rotation_keeps_sessions() {
        let value = seal(&KeyRing::new(&[KEY]));
        let rotated = KeyRing::new(&[OTHER, KEY]);
        assert_eq!(rotated.open("shop", value.as_bytes()), Ok(binding()));
        let sealed_anew = seal(&rotated);
        assert_eq!(KeyRing::new(&[OTHER]).open("shop", sealed_anew.as_bytes()), Ok(binding()));
        assert_eq!(KeyRing::new(&[OTHER]).open("shop", value.as_bytes()), Err(OpenError::UnknownKey));
    }

    #[test]
    fn keys_with_colliding_ids_all_open() {
        let twin = (3..=255u8)
            .flat_map(|a| (0..8u8).map(move |b| [[a; 31].as_slice(), &[b]].concat().try_into().unwrap()))
            .find(|key: &[u8; 32]| Key::new(key).id == Key::new(&KEY).id)
            .unwrap();
        let ring = KeyRing::new(&[twin, KEY]);
        assert_eq!(ring.open("shop", seal(&KeyRing::new(&[KEY])).as_bytes()), Ok(binding()));
        assert_eq!(
            KeyRing::new(&[twin]).open("shop", seal(&KeyRing::new(&[KEY])).as_bytes()),
            Err(OpenError::Unauthentic)
        );
    }

    #[test]
    fn ephemeral_rings_cannot_open_each_others_cookies() {
        let (one, two) = (KeyRing::ephemeral(), KeyRing::new(&[]));
        assert_eq!(one.open("shop", seal(&one).as_bytes()), Ok(binding()));
        assert!(two.open("shop", seal(&one).as_bytes()).is_err());
    }

    #[test]
    fn cookie_that_names_no_key_opens_without_one() {
        let ring = KeyRing::new(&[KEY]);
        for early in [false, true] {
            let general = Opened { key: None, early, ..binding() };
            assert_eq!(ring.open("shop", ring.seal("shop", &general).as_bytes()), Ok(general));
        }
    }

    #[test]
    fn version_2_layout_is_stable() {
        let ring = KeyRing::new(&[std::array::from_fn(|n| u8::try_from(n).unwrap())]);
        let value = ring.seal_with_nonce("shop", &binding(), *b"nonce-nonce-");
        assert_eq!(value, GOLDEN);
        assert_eq!(ring.open("shop", GOLDEN.as_bytes()), Ok(binding()));
    }

    #[test]
    fn version_1_still_opens() {
        let ring = KeyRing::new(&[std::array::from_fn(|n| u8::try_from(n).unwrap())]);
        let opened = Opened { key: None, bound: binding().issued, ..binding() };
        assert_eq!(ring.open("shop", GOLDEN_1.as_bytes()), Ok(opened));
    }

    /// Sealed by another implementation (OpenSSL's AES-256-GCM-SIV).
    const GOLDEN: &str =
        "Ar5ub25jZS1ub25jZS3j_8Ylz9Cc3Sz4ndaH69LqP1kTgBkWPjBO2eRdnJoyOadKPiQ1sgswk9yoKbuziBJYY40";
    const GOLDEN_1: &str = "Ab5ub25jZS1ub25jZS31IWES080bRDZLFnaJcVvmI4n0-qmkOojXCJ68hmHFFxOQfbJFJQ";
}
