//! A set of member indices.

/// On the stack for up to 256 members, which covers nearly every upstream: a walk past a backend
/// that is down does not allocate.
#[derive(Debug, Clone)]
pub(super) struct MemberSet {
    few: [u64; FEW],
    many: Vec<u64>,
}

/// Words kept on the stack.
const FEW: usize = 4;

impl MemberSet {
    /// Creates an empty set for indices below `members`.
    pub(super) fn for_members(members: usize) -> Self {
        let words = members.div_ceil(64);
        Self { few: [0; FEW], many: if words > FEW { vec![0; words] } else { Vec::new() } }
    }

    /// Returns true if `member` is in the set.
    pub(super) fn contains(&self, member: u16) -> bool {
        let words = if self.many.is_empty() { &self.few[..] } else { &self.many };
        words[usize::from(member / 64)] & bit(member) != 0
    }

    /// Inserts `member`; returns true if it was absent.
    pub(super) fn insert(&mut self, member: u16) -> bool {
        let words = if self.many.is_empty() { &mut self.few[..] } else { &mut self.many };
        let word = &mut words[usize::from(member / 64)];
        let fresh = *word & bit(member) == 0;
        *word |= bit(member);
        fresh
    }
}

fn bit(member: u16) -> u64 {
    1 << (member % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_distinct_on_the_stack_and_beyond() {
        for members in [1, 64, 256, 257, 65_535] {
            let mut set = MemberSet::for_members(members);
            let last = u16::try_from(members - 1).unwrap();
            for member in [0, last / 2, last] {
                assert!(!set.contains(member) || member == 0 || member == last / 2, "{member} of {members}");
                let fresh = !set.contains(member);
                assert_eq!(set.insert(member), fresh);
                assert!(set.contains(member));
                assert!(!set.insert(member));
            }
            let inside = (0..=last).filter(|&member| set.contains(member)).count();
            assert_eq!(
                inside,
                [0, last / 2, last].into_iter().collect::<std::collections::BTreeSet<_>>().len()
            );
        }
    }
}
