//! The stable hash: the same bytes give the same value on every machine and in every build,
//! forever.
//!
//! It is XXH3-64 with a secret seed. In-memory maps use aHash, whose output is not stable and never
//! reaches the ring.

use std::fmt;

use arrayvec::ArrayVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::BackendId;

/// The ring's seed. Proxies (and backends) that share it agree on every home; clients that do not
/// know it cannot target a backend.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Seed(pub u64);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(…)")
    }
}

/// The hash of a session's key: its position on the ring. In the table the session has another
/// [name](super::name), because keys with a given position can be made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// Hashes a session id. The same id is the same session whether it comes from a cookie, a
    /// header, a query or a path parameter.
    pub fn of_id(seed: Seed, id: &[u8]) -> Self {
        Self(domain_hash(seed, Domain::Id, id))
    }

    /// Hashes a client address (16 bytes, already masked; IPv4 is mapped).
    pub fn of_address(seed: Seed, address: [u8; 16]) -> Self {
        Self(domain_hash(seed, Domain::Address, &address))
    }
}

/// Hashes the `replica`th point of `id` on the ring.
///
/// The id, preceded by its length, and the replica form one message. No other id and replica give
/// the same bytes, and there are no two hashes to combine.
pub(crate) fn point_hash(seed: Seed, id: &BackendId, replica: u32) -> u64 {
    let id = id.as_str().as_bytes();
    let mut message = ArrayVec::<u8, { 1 + BackendId::MAX_LEN + size_of::<u32>() }>::new();
    // An id has at most 64 bytes, so its length and the message fit.
    message.push(u8::try_from(id.len()).unwrap_or(u8::MAX));
    message.extend(id.iter().copied());
    message.extend(replica.to_le_bytes());
    domain_hash(seed, Domain::Point, &message)
}

/// Separates ids, addresses and points: the same bytes in another role have an unrelated hash.
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
