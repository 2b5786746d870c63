//! What the table knows of an entry besides its backend.

use crate::affinity::name::{Owner, Scope};

/// How far an entry is to be trusted, and what belongs to that. It is packed into 32 bits: the class
/// (2), whether it is unused (1), and the owner or the scope (29).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag(u32);

/// The class of an entry. Each shard keeps the order of use of each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A client sent the id; no backend has set it. Clients can make up any number of these.
    Unminted = 0,
    /// A backend set the id.
    Minted = 1,
    /// A backend set another id in its place. It is gone soon.
    Retired = 2,
}

impl Class {
    pub(super) const ALL: [Self; 3] = [Self::Unminted, Self::Minted, Self::Retired];
}

impl Tag {
    /// Of an id that another one has replaced.
    pub(super) const RETIRED: Self = Self((Class::Retired as u32) << CLASS_SHIFT);
    /// Of a place without an entry.
    pub(super) const VACANT: Self = Self(3 << CLASS_SHIFT);

    /// Returns the tag of an id that a client of this group sent.
    pub fn unminted(owner: Owner) -> Self {
        Self(u32::from(owner.0))
    }

    /// Returns the tag of an id that a backend set in this scope.
    pub fn minted(scope: Scope) -> Self {
        Self((Class::Minted as u32) << CLASS_SHIFT | scope.bits())
    }

    /// Reads saved bits; `None` if there is no such tag.
    pub(super) fn of_bits(bits: u32) -> Option<Self> {
        (bits >> CLASS_SHIFT <= Class::Retired as u32).then_some(Self(bits))
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// Returns the class of the entry; `None` if there is none.
    pub(super) fn class(self) -> Option<Class> {
        Class::ALL.get((self.0 >> CLASS_SHIFT) as usize).copied()
    }

    /// Returns the group of the client that sent the id.
    pub(super) fn owner(self) -> Option<Owner> {
        let [low, high, ..] = self.0.to_le_bytes();
        (self.class() == Some(Class::Unminted)).then_some(Owner(u16::from_le_bytes([low, high])))
    }

    /// Returns the scope in which a backend set the id; `None` if none did.
    pub(super) fn scope(self) -> Option<Scope> {
        (self.class() == Some(Class::Minted)).then_some(Scope::of_bits(self.0))
    }

    /// Returns whether the id was set in place of another, and not sent back yet.
    pub(super) fn is_unused(self) -> bool {
        self.0 & UNUSED != 0
    }

    pub(super) fn unused(self) -> Self {
        Self(self.0 | UNUSED)
    }

    pub(super) fn used(self) -> Self {
        Self(self.0 & !UNUSED)
    }
}

const CLASS_SHIFT: u32 = Scope::BITS + 1;
const UNUSED: u32 = 1 << Scope::BITS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_what_they_are_made_of() {
        let scope = Scope::of_bits(u32::MAX);
        let minted = Tag::minted(scope);
        assert_eq!(
            (minted.class(), minted.scope(), minted.owner()),
            (Some(Class::Minted), Some(scope), None)
        );
        let unused = minted.unused();
        assert!(unused.is_unused() && !minted.is_unused() && unused.used() == minted);
        assert_eq!(unused.scope(), Some(scope));
        let unminted = Tag::unminted(Owner(0xabcd));
        assert_eq!((unminted.owner(), unminted.scope()), (Some(Owner(0xabcd)), None));
        assert_eq!(Tag::RETIRED.class(), Some(Class::Retired));
        assert_eq!(Tag::VACANT.class(), None);
        assert_eq!(Tag::of_bits(Tag::VACANT.bits()), None);
        for tag in [minted, unused, unminted, Tag::RETIRED] {
            assert_eq!(Tag::of_bits(tag.bits()), Some(tag));
        }
    }
}
