//! Assigns slots to backend ids. A slot that anything still refers to is never reassigned to another id.
//!
//! The registry survives reloads and even the removal of upstreams, so a binding or a late report
//! always refers to the same backend as when it was made. Slots of removed backends are given back only
//! when there are no others left: by then, whatever referred to nearly all of them is long gone.

use std::sync::Arc;

use ahash::HashMap;
use parking_lot::RwLock;

use crate::affinity::{BackendId, Slot};

/// The slots of all upstreams by upstream name.
#[derive(Debug, Default)]
pub struct SlotRegistry {
    upstreams: RwLock<HashMap<Arc<str>, Arc<Slots>>>,
}

impl SlotRegistry {
    /// Returns the slots of `upstream`. Creates an empty set for a new name.
    pub(super) fn of(&self, upstream: &Arc<str>) -> Arc<Slots> {
        Arc::clone(self.upstreams.write().entry(Arc::clone(upstream)).or_default())
    }

    /// Returns the slots of `upstream` if it was ever configured.
    pub fn get(&self, upstream: &str) -> Option<Arc<Slots>> {
        self.upstreams.read().get(upstream).cloned()
    }
}

/// The slots of one upstream. They are dense and start at 0, in the order in which ids first appear.
#[derive(Debug, Default)]
pub struct Slots {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// `None`: the slot was given back.
    ids: Vec<Option<BackendId>>,
    by_id: HashMap<BackendId, Slot>,
    /// Slots that were given back.
    free: Vec<Slot>,
}

impl Slots {
    /// Returns the slot of `id` and assigns one if it has none. Returns `None` when all 65,536 slots
    /// are taken.
    pub fn slot_of(&self, id: &BackendId) -> Option<Slot> {
        if let Some(slot) = self.inner.read().by_id.get(id) {
            return Some(*slot);
        }
        let mut inner = self.inner.write();
        // Another thread may have assigned it between the two locks.
        if let Some(slot) = inner.by_id.get(id) {
            return Some(*slot);
        }
        let slot = if let Some(slot) = inner.free.pop() {
            slot
        } else {
            let slot = Slot(u16::try_from(inner.ids.len()).ok()?);
            inner.ids.push(None);
            slot
        };
        inner.ids[usize::from(slot.0)] = Some(id.clone());
        inner.by_id.insert(id.clone(), slot);
        Some(slot)
    }

    /// Takes back the slots that nothing refers to. Returns them.
    pub(super) fn take_back(&self, in_use: impl Fn(Slot, &BackendId) -> bool) -> Vec<Slot> {
        let mut inner = self.inner.write();
        let unused: Vec<_> =
            inner.by_id.iter().filter(|(id, slot)| !in_use(**slot, id)).map(|(_, slot)| *slot).collect();
        for slot in &unused {
            if let Some(id) = inner.ids[usize::from(slot.0)].take() {
                inner.by_id.remove(&id);
            }
        }
        inner.free.extend(&unused);
        unused
    }

    /// Returns the id that has `slot`, even if it is no longer configured.
    pub fn id_of(&self, slot: Slot) -> Option<BackendId> {
        self.inner.read().ids.get(usize::from(slot.0)).cloned().flatten()
    }
}

/// There are more backends than slots. Removed backends count while they have sessions or requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("upstream `{upstream}` has more than 65536 backends, counting removed ones that still have sessions")]
pub struct TooManyBackends {
    /// The upstream.
    pub upstream: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_dense_stable_and_never_shared() {
        let slots = Slots::default();
        let ids: Vec<BackendId> = (0..100).map(|i| format!("b{i}").parse().unwrap()).collect();
        for (i, id) in (0u16..).zip(&ids) {
            assert_eq!(slots.slot_of(id), Some(Slot(i)));
        }
        for (i, id) in (0u16..).zip(&ids) {
            assert_eq!(slots.slot_of(id), Some(Slot(i)));
            assert_eq!(slots.id_of(Slot(i)).as_ref(), Some(id));
        }
        assert_eq!(slots.id_of(Slot(100)), None);
    }

    #[test]
    fn only_unused_slots_are_taken_back() {
        let slots = Slots::default();
        let id = |n: u32| -> BackendId { format!("b{n}").parse().unwrap() };
        for n in 0..4 {
            slots.slot_of(&id(n));
        }
        let back = slots.take_back(|slot, backend| slot == Slot(0) || *backend == id(2));
        assert_eq!(back.len(), 2);
        assert_eq!(
            (slots.id_of(Slot(0)), slots.id_of(Slot(1)), slots.id_of(Slot(3))),
            (Some(id(0)), None, None)
        );
        let again: Vec<_> = [7, 8, 9].map(|n| slots.slot_of(&id(n)).unwrap().0).into();
        assert!(again[..2].contains(&1) && again[..2].contains(&3) && again[2] == 4, "{again:?}");
        assert_eq!(slots.slot_of(&id(2)), Some(Slot(2)));
    }

    #[test]
    fn exhausted_slots_are_not_reused() {
        let slots = Slots::default();
        for i in 0..=u32::from(u16::MAX) {
            assert!(slots.slot_of(&format!("b{i}").parse().unwrap()).is_some());
        }
        assert_eq!(slots.slot_of(&"one-more".parse().unwrap()), None);
        assert_eq!(slots.slot_of(&"b7".parse().unwrap()), Some(Slot(7)));
    }

    #[test]
    fn removed_upstream_keeps_its_slots() {
        let registry = SlotRegistry::default();
        assert!(registry.get("web").is_none());
        let web = registry.of(&Arc::from("web"));
        web.slot_of(&"a".parse().unwrap());
        drop(web);
        let again = registry.of(&Arc::from("web"));
        assert_eq!(again.slot_of(&"b".parse().unwrap()), Some(Slot(1)));
    }
}
