//! Random clusters, and the queries made of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use homing::affinity::pick::{
    Binding, Decision, Failover, Idle, Loads, Policy, Query, Reason, Tried, Verdict, pick,
};
use homing::affinity::ring::Ring;
use homing::affinity::{AdminState, BackendId, Cluster, Health, KeyHash, Member, Seed, Slot, Weight};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// How many backends may exist. A backend's number gives its id and its slot, which stay the same
/// through reloads.
const POOL: u16 = 20;

/// One backend of a [`World`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) number: u16,
    pub(crate) weight: u16,
    pub(crate) admin: AdminState,
    pub(crate) health: Health,
    pub(crate) shunned: bool,
    /// Active points, in per mille of all its points.
    pub(crate) active: u32,
}

/// A cluster before it is built. The order of its nodes must not matter.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) vnodes: u32,
    pub(crate) nodes: Vec<Node>,
}

impl World {
    pub(crate) fn backends(&self) -> Vec<(BackendId, Weight)> {
        self.nodes.iter().map(|node| (id(node.number), Weight::new(node.weight).unwrap())).collect()
    }

    pub(crate) fn ring(&self) -> Ring {
        Ring::build(Seed(self.seed), self.vnodes, &self.backends())
    }

    pub(crate) fn cluster(&self) -> Cluster {
        let member = |node: &Node| Member {
            id: id(node.number),
            slot: Slot(node.number),
            weight: Weight::new(node.weight).unwrap(),
            admin: node.admin,
            health: node.health,
            shunned: node.shunned,
            active_points: u32::from(node.weight) * self.vnodes * node.active / 1000,
        };
        Cluster::new(Arc::new(self.ring()), self.nodes.iter().map(member).collect())
    }

    /// Makes every backend ready, up and fully active.
    pub(crate) fn healthy(mut self) -> Self {
        for node in &mut self.nodes {
            (node.admin, node.health, node.active) = (AdminState::Ready, Health::Up, 1000);
            node.shunned = false;
        }
        self
    }

    /// Ends every slow start.
    pub(crate) fn started(mut self) -> Self {
        for node in &mut self.nodes {
            node.active = 1000;
        }
        self
    }

    pub(crate) fn node_mut(&mut self, number: u16) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.number == number)
    }
}

pub(crate) fn id(number: u16) -> BackendId {
    format!("node{number}").parse().unwrap()
}

/// Returns a member's number, which is the same in every cluster; its index is not.
pub(crate) fn number(cluster: &Cluster, member: u16) -> u16 {
    cluster.members()[usize::from(member)].slot.0
}

/// Loads by backend number, so that they do not depend on the order of backends.
#[derive(Debug, Clone)]
pub(crate) struct LoadTable {
    pub(crate) in_flight: BTreeMap<u16, u32>,
    pub(crate) saturated: Vec<u16>,
}

impl LoadTable {
    pub(crate) fn on<'a>(&'a self, cluster: &'a Cluster) -> LoadsOn<'a> {
        LoadsOn { table: self, cluster }
    }
}

pub(crate) struct LoadsOn<'a> {
    table: &'a LoadTable,
    cluster: &'a Cluster,
}

impl Loads for LoadsOn<'_> {
    fn in_flight(&self, index: u16) -> u32 {
        self.table.in_flight.get(&number(self.cluster, index)).copied().unwrap_or(0)
    }

    fn saturated(&self, index: u16) -> bool {
        self.table.saturated.contains(&number(self.cluster, index))
    }
}

/// 1 to 12 backends in any order and state.
pub(crate) fn world() -> impl Strategy<Value = World> {
    let numbers = subsequence((0..POOL).collect::<Vec<_>>(), 1..=12).prop_shuffle();
    let nodes = numbers.prop_flat_map(|numbers| numbers.into_iter().map(node).collect::<Vec<_>>());
    (any::<u64>(), prop_oneof![8 => 16..=64u32, 1 => Just(256)], nodes)
        .prop_map(|(seed, vnodes, nodes)| World { seed, vnodes, nodes })
}

/// A backend in any state.
pub(crate) fn node(number: u16) -> impl Strategy<Value = Node> {
    let active = prop_oneof![3 => Just(1000u32), 1 => 0..1000u32];
    (1..=8u16, admin(), health(), prop::bool::weighted(0.2), active).prop_map(
        move |(weight, admin, health, shunned, active)| Node {
            number,
            weight,
            admin,
            health,
            shunned,
            active,
        },
    )
}

pub(crate) fn admin() -> impl Strategy<Value = AdminState> {
    prop_oneof![4 => Just(AdminState::Ready), 1 => Just(AdminState::Drain), 1 => Just(AdminState::Maint)]
}

pub(crate) fn health() -> impl Strategy<Value = Health> {
    prop_oneof![3 => Just(Health::Up), 1 => Just(Health::Down)]
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let failover = select(vec![Failover::Sticky, Failover::Temporary, Failover::None]);
    let balance = select(vec![None, Some(100), Some(110), Some(125), Some(200)]);
    (failover, balance, any::<bool>()).prop_map(|(failover, balance_percent, checked)| Policy {
        failover,
        balance_percent,
        checked,
    })
}

pub(crate) fn loads() -> impl Strategy<Value = LoadTable> {
    let in_flight = prop::collection::vec(prop_oneof![0..4u32, 0..60u32], usize::from(POOL));
    let saturated =
        prop_oneof![Just(vec![]), subsequence((0..POOL).collect::<Vec<_>>(), 0..=usize::from(POOL))];
    (in_flight, saturated)
        .prop_map(|(in_flight, saturated)| LoadTable { in_flight: (0..).zip(in_flight).collect(), saturated })
}

pub(crate) fn binding() -> impl Strategy<Value = Binding> {
    prop_oneof![
        2 => Just(Binding::RingOnly),
        2 => Just(Binding::Absent),
        4 => (0..POOL).prop_map(|number| Binding::To(Slot(number))),
        1 => Just(Binding::Unknown),
        1 => Just(Binding::Expired),
        1 => Just(Binding::Forged),
    ]
}

/// Numbers of the backends that were tried.
pub(crate) fn tried() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![3 => Just(vec![]), 1 => subsequence((0..POOL).collect::<Vec<_>>(), 0..=6)]
}

pub(crate) fn tried_in(cluster: &Cluster, numbers: &[u16]) -> Tried {
    let mut tried = Tried::default();
    for index in numbers.iter().filter_map(|&number| cluster.index_of(Slot(number))) {
        tried.insert(index);
    }
    tried
}

/// Returns keys that are spread evenly over the ring.
pub(crate) fn keys(count: u64, salt: u64) -> impl Iterator<Item = KeyHash> {
    (0..count).map(move |n| KeyHash::of_id(Seed(salt ^ 0x5eed), &n.to_le_bytes()))
}

pub(crate) const STICKY: Policy =
    Policy { failover: Failover::Sticky, balance_percent: None, checked: false };

/// Picks with idle backends and none tried.
pub(crate) fn ask(cluster: &Cluster, policy: Policy, key: KeyHash, binding: Binding) -> Decision {
    ask_under(cluster, policy, &Idle, key, binding)
}

/// Picks under these loads, with no backend tried.
pub(crate) fn ask_under(
    cluster: &Cluster,
    policy: Policy,
    loads: &impl Loads,
    key: KeyHash,
    binding: Binding,
) -> Decision {
    let tried = Tried::default();
    pick(
        cluster,
        policy,
        loads,
        &Query { key: Some(key), binding, tried: &tried, may_hold: false, random: 0 },
    )
}

/// Returns the number of the backend that the ring alone gives for `key`.
pub(crate) fn by_ring(cluster: &Cluster, key: KeyHash) -> Option<u16> {
    match ask(cluster, STICKY, key, Binding::RingOnly) {
        Decision::Send(verdict) => Some(number(cluster, verdict.member)),
        Decision::Unavailable(_) => None,
        Decision::Hold(_) => panic!("the request was held, though it may not be"),
    }
}

/// A decision with backends by number, comparable between clusters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ByNumber {
    Send(u16, Verdict),
    Hold(u16),
    Unavailable(Option<Reason>),
}

pub(crate) fn by_number(cluster: &Cluster, decision: Decision) -> ByNumber {
    match decision {
        Decision::Send(verdict) => {
            ByNumber::Send(number(cluster, verdict.member), Verdict { member: 0, ..verdict })
        }
        Decision::Hold(member) => ByNumber::Hold(number(cluster, member)),
        Decision::Unavailable(reason) => ByNumber::Unavailable(reason),
    }
}

/// Returns the verdict, if the decision is to send.
pub(crate) fn verdict(decision: Decision) -> Option<Verdict> {
    match decision {
        Decision::Send(verdict) => Some(verdict),
        _ => None,
    }
}
