//! The memory budget of a worker: how much the connections and streams that wait may hold.
//!
//! Each of them states what it holds when it starts to wait. That is an estimate of buffers and
//! state, not what the allocator uses.

use std::cell::{Cell, RefCell};
use std::collections::BinaryHeap;

use ahash::AHashMap;

/// What connections and streams hold, by index of the worker's deadlines.
#[derive(Debug)]
pub(super) struct Budget {
    /// The most that all may hold, in bytes.
    limit: Cell<usize>,
    used: Cell<usize>,
    charges: RefCell<Vec<u32>>,
}

/// A wait that may be cut short: its index, its client, and what it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) index: usize,
    pub(super) client: u64,
    pub(super) bytes: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { limit: Cell::new(usize::MAX), used: Cell::new(0), charges: RefCell::default() }
    }
}

impl Budget {
    pub(super) fn set_limit(&self, bytes: usize) {
        self.limit.set(bytes);
    }

    /// Returns what all hold, in bytes.
    pub(super) fn used(&self) -> usize {
        self.used.get()
    }

    /// Sets what a connection holds. Returns true if that exceeds the budget.
    pub(super) fn charge(&self, index: usize, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut charges = self.charges.borrow_mut();
        if charges.len() <= index {
            charges.resize(index + 1, 0);
        }
        let before = std::mem::replace(&mut charges[index], bytes);
        let used = self.used.get().saturating_add(bytes as usize).saturating_sub(before as usize);
        self.used.set(used);
        bytes > before && used > self.limit.get()
    }

    /// Returns what a connection holds.
    pub(super) fn held_by(&self, index: usize) -> u32 {
        self.charges.borrow().get(index).copied().unwrap_or(0)
    }

    /// Returns how much must be freed to get an eighth below the limit. Freeing more than needed
    /// makes the next search later.
    pub(super) fn excess(&self) -> usize {
        let goal = self.limit.get() - self.limit.get() / 8;
        self.used.get().saturating_sub(goal)
    }
}

/// Picks waits that free `bytes`: again and again the largest of the client that holds the most.
pub(super) fn greediest(holders: impl Iterator<Item = Holder>, bytes: usize) -> Vec<usize> {
    let mut clients = AHashMap::<u64, (usize, Vec<(u32, usize)>)>::new();
    for Holder { index, client, bytes } in holders {
        let (sum, list) = clients.entry(client).or_default();
        *sum += bytes as usize;
        list.push((bytes, index));
    }
    clients.values_mut().for_each(|(_, list)| list.sort_unstable());
    let mut heap: BinaryHeap<(usize, u64)> =
        clients.iter().map(|(client, (sum, _))| (*sum, *client)).collect();
    let (mut picked, mut freed) = (Vec::new(), 0);
    while freed < bytes {
        let Some((sum, client)) = heap.pop() else { break };
        let Some((held, index)) = clients.get_mut(&client).and_then(|(_, list)| list.pop()) else { continue };
        picked.push(index);
        freed += held as usize;
        heap.push((sum - held as usize, client));
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(list: &[(u64, u32)]) -> impl Iterator<Item = Holder> {
        list.iter().enumerate().map(|(index, &(client, bytes))| Holder { index, client, bytes })
    }

    #[test]
    fn greediest_clients_free_the_most_until_it_is_enough() {
        let list = [(1, 10), (2, 40), (2, 60), (3, 90), (2, 50)];
        assert_eq!(greediest(holders(&list), 1), [2]);
        // Client 2 holds 150, then 90 like client 3.
        let picked = greediest(holders(&list), 150);
        assert!(picked.starts_with(&[2]) && picked.contains(&3) && !picked.contains(&0), "{picked:?}");
        assert_eq!(greediest(holders(&list), usize::MAX).len(), 5);
    }

    #[test]
    fn charges_replace_each_other() {
        let budget = Budget::default();
        budget.set_limit(800);
        assert!(!budget.charge(3, 500) && !budget.charge(0, 300));
        assert!(budget.charge(3, 501));
        assert_eq!((budget.used(), budget.excess()), (801, 101));
        assert!(!budget.charge(3, 500), "less than before cannot exceed the budget");
        assert!(!budget.charge(3, 0) && !budget.charge(0, 0));
        assert_eq!((budget.used(), budget.excess()), (0, 0));
    }
}
