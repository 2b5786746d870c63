//! The stable hash: the same bytes give the same value on every machine, in
//! every build, for ever. XXH3-64 with a secret seed; in-memory maps use aHash,
//! whose output is not stable and never reaches the ring.

use std::fmt;

use arrayvec::ArrayVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::BackendId;

/// The ring's seed. Proxies that share it (and the backends) agree on every
/// home; clients who do not know it cannot choose a victim.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Seed(pub u64);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(…)")
    }
}

/// The hash of a session's key: a position on the ring and the name of its
/// entry in the table. The key itself is kept nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// The hash of a session id, wherever it was found: the same id in a
    /// cookie, a header, a query or a path parameter is the same session.
    pub fn of_id(seed: Seed, id: &[u8]) -> Self {
        Self(domain_hash(seed, Domain::Id, id))
    }

    /// The hash of a client address (16 bytes, already masked; IPv4 is mapped).
    pub fn of_address(seed: Seed, address: [u8; 16]) -> Self {
        Self(domain_hash(seed, Domain::Address, &address))
    }
}

/// The hash of the `replica`th point of `id` on the ring.
///
/// One message of the id, with its length in front, and the replica: no id
/// and replica can spell another's, and nothing is left to how two hashes
/// would have to be combined.
pub(crate) fn point_hash(seed: Seed, id: &BackendId, replica: u32) -> u64 {
    let id = id.as_str().as_bytes();
    let mut message = ArrayVec::<u8, { 1 + BackendId::MAX_LEN + size_of::<u32>() }>::new();
    // An id is at most 64 bytes long, so the length fits and the buffer too.
    message.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
    message.extend(id.iter().copied());
    message.extend(replica.to_le_bytes());
    domain_hash(seed, Domain::Point, &message)
}

/// Keeps ids, addresses and points apart: the same bytes in another role hash
/// to something unrelated.
#[derive(Clone, Copy)]
enum Domain {
    Id = 1,
    Address = 2,
    Point = 3,
}

fn domain_hash(seed: Seed, domain: Domain, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, domain_seed(seed, domain))
}

fn domain_seed(seed: Seed, domain: Domain) -> u64 {
    seed.0 ^ (domain as u64).wrapping_mul(0xA076_1D64_78BD_642F)
}

#[cfg(test)]
mod tests;
