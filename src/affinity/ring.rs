//! The hash ring with virtual nodes.
//!
//! The ring has 2^64 positions. Every backend has `weight × vnodes` points on it; a key belongs to
//! the first point at or after its own position. A ring depends only on the seed, `vnodes` and the
//! set of (id, weight) pairs, never on addresses, the order of backends, their health, or how many
//! others there are. A change to one backend's points therefore moves only the keys next to them.
//! If a backend is skipped, its keys go to the backend that would own them if it were not on the
//! ring.

mod member_set;

use std::fmt;
use std::iter::Chain;
use std::slice;

use aws_lc_rs::digest;

use self::member_set::MemberSet;
use super::hash::point_hash;
use super::{BackendId, KeyHash, Seed, Weight};

/// The version of the point layout, part of the digest. Any change to where keys land moves
/// sessions and must raise it.
const VERSION: u8 = 1;

/// An immutable hash ring. Members are numbered in the order given.
pub struct Ring {
    /// Sorted by hash, then id. Hash and owner are adjacent, so that a lookup touches one cache
    /// line here and one in `starts`.
    points: Box<[Point]>,
    /// Indexed by a hash's top bits: the first point with these top bits or higher ones. There is
    /// about one entry per point, so that a lookup compares one or two hashes.
    starts: Box<[u32]>,
    /// The number of bits of a hash below its top bits.
    shift: u32,
    points_of: Box<[u32]>,
    digest: u64,
}

/// One virtual node.
#[derive(Debug, Clone, Copy)]
struct Point {
    hash: u64,
    /// Its number among its member's points.
    replica: u32,
    member: u16,
}

impl Ring {
    /// The maximum number of points over all members: the sum of `weight × vnodes`. At 16 bytes per
    /// point and 4 of index this is 320 MiB.
    pub const MAX_POINTS: u32 = 1 << 24;

    /// The maximum number of members.
    pub const MAX_MEMBERS: usize = u16::MAX as usize;

    /// Builds the ring. `backends[i]` becomes member `i`; the mapping of keys to ids does not
    /// depend on the order. Ids must be distinct. `vnodes` is the number of points per unit of
    /// weight; 0 counts as 1.
    ///
    /// # Panics
    /// Above [`Ring::MAX_POINTS`] or [`Ring::MAX_MEMBERS`]. The configuration is rejected before
    /// that.
    pub fn build(seed: Seed, vnodes: u32, backends: &[(BackendId, Weight)]) -> Self {
        assert!(backends.len() <= Self::MAX_MEMBERS, "too many members for a ring");
        let vnodes = vnodes.max(1);
        let points_of: Box<[u32]> =
            backends.iter().map(|(_, weight)| vnodes.saturating_mul(u32::from(weight.get()))).collect();
        let total = points_of.iter().map(|&n| u64::from(n)).sum::<u64>();
        assert!(total <= u64::from(Self::MAX_POINTS), "too many points for a ring");

        let mut by_id: Vec<u16> = (0..).take(backends.len()).collect();
        by_id.sort_unstable_by_key(|&member| &backends[usize::from(member)].0);
        debug_assert!(
            by_id.windows(2).all(|w| backends[usize::from(w[0])].0 != backends[usize::from(w[1])].0),
            "ids are distinct"
        );

        let points = lay_points(&by_id, &points_of, |member, replica| {
            point_hash(seed, &backends[usize::from(member)].0, replica)
        });
        let bits = points.len().next_power_of_two().trailing_zeros().max(1);
        let shift = u64::BITS - bits;
        Self {
            starts: starts(&points, bits, shift),
            points: points.into_boxed_slice(),
            shift,
            digest: digest(seed, vnodes, by_id.iter().map(|&member| &backends[usize::from(member)])),
            points_of,
        }
    }

    /// Returns the number of members.
    pub fn members(&self) -> usize {
        self.points_of.len()
    }

    /// Returns the number of points of member `index` (weight × vnodes); 0 if there is no such
    /// member.
    pub fn points_of(&self, index: u16) -> u32 {
        self.points_of.get(usize::from(index)).copied().unwrap_or(0)
    }

    /// Returns the member that the ring gives `key`, regardless of its state; `None` if the ring
    /// has no members.
    pub fn home(&self, key: KeyHash) -> Option<u16> {
        Some(self.home_point(key)?.0)
    }

    /// Returns the first member on the walk from `key` that `accept` takes. `accept` gets the
    /// member's index and the replica number of the point.
    ///
    /// `accept` may take a member at low replica numbers and refuse it at higher ones (slow start).
    /// A member refused at replica 0 is refused everywhere and is not tried again. The walk ends
    /// when all members are refused.
    pub fn first(&self, key: KeyHash, mut accept: impl FnMut(u16, u32) -> bool) -> Option<u16> {
        let (member, replica) = self.home_point(key)?;
        if accept(member, replica) { Some(member) } else { self.first_after_refusal(key, accept) }
    }

    /// Returns the members in ring order from `key`, each once.
    pub fn walk(&self, key: KeyHash) -> Walk<'_> {
        let seen = MemberSet::for_members(self.members());
        Walk { points: self.points_from(key), seen, left: self.members() }
    }

    /// Returns a digest of the layout version, seed, vnodes, ids and weights. Equal digests mean
    /// equal rings. It does not reveal the seed or depend on the order of backends.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Returns each member's share of all keys, by index. The shares are exact and sum to 1 (except
    /// for rounding).
    pub fn shares(&self) -> Vec<f64> {
        let mut arcs = vec![0u128; self.members()];
        let mut before = self.points.last().map_or(0, |last| last.hash);
        for point in &self.points {
            arcs[usize::from(point.member)] += u128::from(point.hash.wrapping_sub(before));
            before = point.hash;
        }
        if let [only] = &*self.points {
            arcs[usize::from(only.member)] = 1 << u64::BITS;
        }
        #[expect(clippy::cast_precision_loss, reason = "a share shown to people")]
        arcs.into_iter().map(|arc| arc as f64 / 2f64.powi(64)).collect()
    }

    /// Returns the member and replica of the point that `key` belongs to.
    pub(super) fn home_point(&self, key: KeyHash) -> Option<(u16, u32)> {
        let point = self.points.get(self.position(key)).or_else(|| self.points.first())?;
        Some((point.member, point.replica))
    }

    /// Returns the member and replica of every point, in ring order from `key`.
    pub(super) fn points_met(&self, key: KeyHash) -> impl Iterator<Item = (u16, u32)> {
        self.points_from(key).map(|point| (point.member, point.replica))
    }

    #[inline(never)]
    fn first_after_refusal(&self, key: KeyHash, mut accept: impl FnMut(u16, u32) -> bool) -> Option<u16> {
        let mut refused = MemberSet::for_members(self.members());
        let mut left = self.members();
        for &Point { replica, member, .. } in self.points_from(key) {
            if refused.contains(member) {
                continue;
            }
            if accept(member, replica) {
                return Some(member);
            }
            if replica == 0 || !accept(member, 0) {
                refused.insert(member);
                left -= 1;
                if left == 0 {
                    return None;
                }
            }
        }
        None
    }

    fn points_from(&self, key: KeyHash) -> Chain<slice::Iter<'_, Point>, slice::Iter<'_, Point>> {
        let (wrapped, ahead) = self.points.split_at(self.position(key));
        ahead.iter().chain(wrapped)
    }

    /// Returns the index of the first point at or after `key`; the number of points if there is
    /// none before the ring wraps around.
    fn position(&self, key: KeyHash) -> usize {
        let start = self.starts[top_bits(key.0, self.shift)] as usize;
        let ahead = &self.points[start..];
        start + ahead.iter().position(|point| point.hash >= key.0).unwrap_or(ahead.len())
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the points: there are thousands.
        f.debug_struct("Ring")
            .field("members", &self.members())
            .field("points", &self.points.len())
            .field("digest", &format_args!("{:016x}", self.digest))
            .finish_non_exhaustive()
    }
}

/// The members in ring order from a key, each once; see [`Ring::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    points: Chain<slice::Iter<'a, Point>, slice::Iter<'a, Point>>,
    seen: MemberSet,
    left: usize,
}

impl Iterator for Walk<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.left == 0 {
            return None;
        }
        let member =
            self.points.by_ref().map(|point| point.member).find(|&member| self.seen.insert(member))?;
        self.left -= 1;
        Some(member)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Walk<'_> {}

/// Returns all points, sorted by hash. They are generated in order of ids and sorted stably: the
/// lower id wins among equal hashes, regardless of the order of members.
fn lay_points(by_id: &[u16], points_of: &[u32], hash: impl Fn(u16, u32) -> u64) -> Vec<Point> {
    let mut points: Vec<Point> = by_id
        .iter()
        .flat_map(|&member| (0..points_of[usize::from(member)]).map(move |replica| (member, replica)))
        .map(|(member, replica)| Point { hash: hash(member, replica), replica, member })
        .collect();
    points.sort_by_key(|point| point.hash);
    points
}

/// Returns, for each value of a hash's top bits, the first point not below it.
fn starts(points: &[Point], bits: u32, shift: u32) -> Box<[u32]> {
    let mut at = 0;
    (0..1usize << bits)
        .map(|bucket| {
            while points.get(at as usize).is_some_and(|point| top_bits(point.hash, shift) < bucket) {
                at += 1;
            }
            at
        })
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "at most 24 bits are left")]
fn top_bits(hash: u64, shift: u32) -> usize {
    (hash >> shift) as usize
}

fn digest<'a>(seed: Seed, vnodes: u32, sorted: impl Iterator<Item = &'a (BackendId, Weight)>) -> u64 {
    // The digest is public, so it must not reveal the seed: XXH3 can be inverted, SHA-256 cannot.
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"homing ring");
    context.update(&[VERSION]);
    context.update(&seed.0.to_le_bytes());
    context.update(&vnodes.to_le_bytes());
    for (id, weight) in sorted {
        context.update(&weight.get().to_le_bytes());
        context.update(id.as_str().as_bytes());
        // Terminates the id; no id contains this byte.
        context.update(&[0]);
    }
    let hash = context.finish();
    hash.as_ref().iter().take(size_of::<u64>()).fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests;
