//! Pure functions that build the published state of an upstream from its control state.

use std::sync::Arc;
use std::time::Duration;

use ahash::HashMap;

use super::backend::BackendControl;
use crate::affinity::ring::Ring;
use crate::affinity::{Cluster, Member, Slot};
use crate::model::Upstream;
use crate::model::line::Line;
use crate::model::live::BackendLive;
use crate::model::snapshot::{Memory, UpstreamState};

/// Builds the state of an upstream that workers see.
pub(super) fn build_state(
    config: &Arc<Upstream>,
    ring: &Arc<Ring>,
    memory: &Memory,
    backends: &[BackendControl],
    live: &HashMap<Slot, Arc<BackendLive>>,
    line: &Arc<Line>,
    now: Duration,
) -> Arc<UpstreamState> {
    let members = backends
        .iter()
        .zip(&config.backends)
        .enumerate()
        .map(|(index, (backend, rules))| Member {
            id: rules.id.clone(),
            slot: backend.slot,
            weight: rules.weight,
            admin: backend.admin(rules),
            health: backend.health.health(),
            shunned: backend.health.is_shunned(),
            active_points: backend.active_points(ring.points_of(index_u16(index)), now),
        })
        .collect();
    Arc::new(UpstreamState {
        config: Arc::clone(config),
        cluster: Cluster::new(Arc::clone(ring), members),
        memory: memory.clone(),
        line: Arc::clone(line),
        live: backends.iter().map(|b| Arc::clone(&live[&b.slot])).collect(),
        standings: backends.iter().map(|b| b.health.standing()).collect(),
    })
}

/// Converts a member's index to the ring's type. Each backend has its own slot, which is a `u16`,
/// so there are no larger indices.
pub(super) fn index_u16(index: usize) -> u16 {
    debug_assert!(u16::try_from(index).is_ok(), "more backends than slots");
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// Builds the ring of an upstream.
pub(super) fn build_ring(config: &Upstream) -> Arc<Ring> {
    let backends: Vec<_> = config.backends.iter().map(|b| (b.id.clone(), b.weight)).collect();
    Arc::new(Ring::build(config.affinity.seed, config.affinity.vnodes, &backends))
}

/// Returns whether [`build_ring`] would build the same ring for both.
pub(super) fn has_same_ring(a: &Upstream, b: &Upstream) -> bool {
    let points = |u: &Upstream| (u.affinity.seed, u.affinity.vnodes);
    points(a) == points(b)
        && a.backends.iter().map(|b| (&b.id, b.weight)).eq(b.backends.iter().map(|b| (&b.id, b.weight)))
}
