//! Random changes to a running cluster.

use homing::affinity::{AdminState, Health};
use proptest::prelude::*;

use crate::world::{Node, World, admin, health, node};

/// One change to a cluster.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Add(Node),
    Remove(u16),
    Reweight(u16, u16),
    Health(u16, Health),
    Shunned(u16, bool),
    Admin(u16, AdminState),
    Active(u16, u32),
    Reverse,
}

impl Change {
    pub(crate) fn apply(&self, world: &mut World) {
        match self {
            Self::Add(node) if world.node_mut(node.number).is_none() => world.nodes.push(node.clone()),
            Self::Add(node) => *world.node_mut(node.number).unwrap() = node.clone(),
            Self::Remove(number) if world.nodes.len() > 1 => {
                world.nodes.retain(|node| node.number != *number);
            }
            Self::Remove(_) => {}
            Self::Reweight(number, weight) => on(world, *number, |node| node.weight = *weight),
            Self::Health(number, health) => on(world, *number, |node| node.health = *health),
            Self::Shunned(number, shunned) => on(world, *number, |node| node.shunned = *shunned),
            Self::Admin(number, admin) => on(world, *number, |node| node.admin = *admin),
            Self::Active(number, active) => on(world, *number, |node| node.active = *active),
            Self::Reverse => world.nodes.reverse(),
        }
    }

    /// Returns the one backend that it changes, if any.
    pub(crate) fn subject(&self) -> Option<u16> {
        match self {
            Self::Add(node) => Some(node.number),
            Self::Remove(n)
            | Self::Reweight(n, _)
            | Self::Health(n, _)
            | Self::Shunned(n, _)
            | Self::Admin(n, _)
            | Self::Active(n, _) => Some(*n),
            Self::Reverse => None,
        }
    }
}

/// Changes one backend of a world, if it exists.
pub(crate) fn on(world: &mut World, number: u16, change: impl FnOnce(&mut Node)) {
    if let Some(node) = world.node_mut(number) {
        change(node);
    }
}

/// Any change, to any backend.
pub(crate) fn change() -> impl Strategy<Value = Change> {
    let number = 0..20u16;
    prop_oneof![
        number.clone().prop_flat_map(node).prop_map(Change::Add),
        number.clone().prop_map(Change::Remove),
        (number.clone(), 1..=8u16).prop_map(|(n, weight)| Change::Reweight(n, weight)),
        (number.clone(), health()).prop_map(|(n, health)| Change::Health(n, health)),
        (number.clone(), any::<bool>()).prop_map(|(n, shunned)| Change::Shunned(n, shunned)),
        (number.clone(), admin()).prop_map(|(n, admin)| Change::Admin(n, admin)),
        (number, 0..=1000u32).prop_map(|(n, active)| Change::Active(n, active)),
        Just(Change::Reverse),
    ]
}

/// Redirects a change to a backend of the world, unless it adds a backend or reorders them.
pub(crate) fn change_of(world: &World, change: Change, to: prop::sample::Index) -> Change {
    let number = to.get(&world.nodes).number;
    match change {
        Change::Remove(_) => Change::Remove(number),
        Change::Reweight(_, weight) => Change::Reweight(number, weight),
        Change::Health(_, health) => Change::Health(number, health),
        Change::Shunned(_, shunned) => Change::Shunned(number, shunned),
        Change::Admin(_, admin) => Change::Admin(number, admin),
        Change::Active(_, active) => Change::Active(number, active),
        other => other,
    }
}
