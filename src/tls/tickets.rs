//! Session tickets that a fleet of proxies can share.
//!
//! | bytes | content |
//! |---|---|
//! | 1 | version, 1 |
//! | 4 | key id |
//! | 12 | random nonce |
//! | 8 + n | encrypted: creation time in seconds since the epoch, rustls' state |
//! | 16 | tag |
//!
//! Tickets are encrypted with AES-256-GCM-SIV (RFC 8452), because proxies choose
//! nonces independently. The associated data is the version and a context, a digest of
//! what the listener requires of clients. Clients present no certificate when they
//! resume a session, so a ticket of a listener without client authentication must not
//! open at a listener with it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::server::ProducesTickets;

/// Lifetime of a ticket, regardless of its key.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Maximum clock skew within a fleet.
const SKEW: Duration = Duration::from_secs(300);

const VERSION: u8 = 1;
const HEADER: usize = 1 + 4;
const TIME: usize = 8;

/// The ticket keys of a file. The first one seals, all open.
pub(super) struct SharedTickets {
    keys: Vec<Key>,
    context: [u8; 32],
}

struct Key {
    id: [u8; 4],
    key: LessSafeKey,
}

impl Key {
    fn new(secret: &[u8; 32]) -> Option<Self> {
        // The same file may also hold the cookie keys; derive a separate key.
        let mut material = b"homing tls ticket\0".to_vec();
        material.extend(secret);
        let derived = digest(&SHA256, &material);
        let id = digest(&SHA256, derived.as_ref());
        let key = UnboundKey::new(&AES_256_GCM_SIV, derived.as_ref()).ok()?;
        Some(Self { id: id.as_ref().first_chunk().copied()?, key: LessSafeKey::new(key) })
    }
}

impl SharedTickets {
    /// Derives the keys. Returns `None` if there are none.
    pub(super) fn new(secrets: &[[u8; 32]], context: [u8; 32]) -> Option<Self> {
        let keys = secrets.iter().map(Key::new).collect::<Option<Vec<_>>>()?;
        (!keys.is_empty()).then_some(Self { keys, context })
    }

    fn aad(&self) -> Aad<Vec<u8>> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.context);
        Aad::from(bytes)
    }

    fn seal(&self, plain: &[u8], now: Duration) -> Option<Vec<u8>> {
        let key = self.keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = now.as_secs().to_be_bytes().to_vec();
        sealed.extend(plain);
        key.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), self.aad(), &mut sealed)
            .ok()?;
        let mut ticket = vec![VERSION];
        ticket.extend(key.id);
        ticket.extend(nonce);
        ticket.append(&mut sealed);
        Some(ticket)
    }

    fn open(&self, ticket: &[u8], now: Duration) -> Option<Vec<u8>> {
        let (header, rest) = ticket.split_first_chunk::<HEADER>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        if header[0] != VERSION {
            return None;
        }
        let mut sealed = sealed.to_vec();
        let key = self.keys.iter().find(|key| key.id == header[1..])?;
        let plain =
            key.key.open_in_place(Nonce::assume_unique_for_key(*nonce), self.aad(), &mut sealed).ok()?;
        let (made, state) = plain.split_first_chunk::<TIME>()?;
        let made = Duration::from_secs(u64::from_be_bytes(*made));
        let fresh = now < made.checked_add(LIFETIME)? && made < now + SKEW;
        fresh.then(|| state.to_vec())
    }
}

impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, now())
    }
}

impl fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedTickets({} keys)", self.keys.len())
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn tickets(secrets: &[u8], context: u8) -> SharedTickets {
        let secrets: Vec<_> = secrets.iter().map(|&byte| [byte; 32]).collect();
        SharedTickets::new(&secrets, [context; 32]).unwrap()
    }

    #[test]
    fn first_key_seals_and_all_keys_open() {
        let old = tickets(&[1], 0).seal(b"state", NOW).unwrap();
        let rotated = tickets(&[2, 1], 0);
        assert_eq!(rotated.open(&old, NOW).as_deref(), Some(&b"state"[..]));
        let new = rotated.seal(b"state", NOW).unwrap();
        assert_eq!(tickets(&[2], 0).open(&new, NOW).as_deref(), Some(&b"state"[..]));
        assert_eq!(tickets(&[1], 0).open(&new, NOW), None);
        assert_ne!(rotated.seal(b"state", NOW), Some(new), "each ticket has its own nonce");
        assert!(SharedTickets::new(&[], [0; 32]).is_none());
    }

    #[test]
    fn ticket_opens_only_in_the_same_context() {
        let ticket = tickets(&[1], 0).seal(b"state", NOW).unwrap();
        assert_eq!(tickets(&[1], 1).open(&ticket, NOW), None);
    }

    #[test]
    fn ticket_expires_even_if_its_key_is_kept() {
        let tickets = tickets(&[1], 0);
        let ticket = tickets.seal(b"state", NOW).unwrap();
        assert!(tickets.open(&ticket, NOW + LIFETIME.saturating_sub(Duration::from_secs(1))).is_some());
        assert!(tickets.open(&ticket, NOW + LIFETIME).is_none());
        assert!(
            tickets.open(&ticket, NOW.saturating_sub(Duration::from_secs(299))).is_some(),
            "clock skew is tolerated"
        );
        assert!(tickets.open(&ticket, NOW.saturating_sub(SKEW)).is_none());
    }

    #[test]
    fn modified_or_truncated_tickets_do_not_open() {
        let tickets = tickets(&[1], 0);
        let ticket = tickets.seal(b"state", NOW).unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.open(&changed, NOW), None, "byte {at}");
            assert_eq!(tickets.open(&ticket[..at], NOW), None, "truncated at {at}");
        }
    }
}
