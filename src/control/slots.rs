//! Assigns slots to backend ids. A slot is never reassigned to another id.
//!
//! The registry survives reloads and even the removal of upstreams, so a binding or a late report
//! always refers to the same backend as when it was made.

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
    ids: Vec<BackendId>,
    by_id: HashMap<BackendId, Slot>,
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
        let slot = Slot(u16::try_from(inner.ids.len()).ok()?);
        inner.ids.push(id.clone());
        inner.by_id.insert(id.clone(), slot);
        Some(slot)
    }

    /// Returns the id that has `slot`, even if it is no longer configured.
    pub fn id_of(&self, slot: Slot) -> Option<BackendId> {
        self.inner.read().ids.get(usize::from(slot.0)).cloned()
    }
}

/// There are more backends than slots. All backends that were ever configured count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("upstream `{upstream}` has had more than 65536 different backends since startup")]
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
