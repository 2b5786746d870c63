//! Snapshots and records for the tests of `telemetry` and `admin`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::Record;
use crate::affinity::pick::Outcome;
use crate::affinity::ring::Ring;
use crate::affinity::table::Table;
use crate::affinity::{BackendId, Cluster, Health, KeyHash, Member, Slot, Weight};
use crate::fixture;
use crate::model::Upstream;
use crate::model::live::BackendLive;
use crate::model::snapshot::{Memory, Snapshot, Standing, UpstreamState};

/// Returns an upstream without memory. Its backends are ready and up, with weights 1, 2, ….
pub(crate) fn upstream(name: &str, ids: &[&str]) -> UpstreamState {
    build(name, ids, "remember = \"none\"")
}

/// Like [`upstream`], with a table.
pub(crate) fn upstream_with_table(name: &str, ids: &[&str]) -> UpstreamState {
    build(name, ids, "remember = \"table\", table = { max_entries = 1000, ttl = \"30m\" }")
}

fn build(name: &str, ids: &[&str], memory: &str) -> UpstreamState {
    let affinity = format!("key = [\"cookie:SID\", \"ip\"], ring = {{ vnodes = 64 }}, {memory}");
    let mut config = fixture::upstream(name, ids, &format!("affinity = {{ {affinity} }}"));
    for (weight, backend) in (1..).zip(&mut config.backends) {
        backend.weight = Weight::new(weight).expect("a weight");
    }
    let weights: Vec<(BackendId, Weight)> =
        config.backends.iter().map(|backend| (backend.id.clone(), backend.weight)).collect();
    let ring = Arc::new(Ring::build(config.affinity.seed, config.affinity.vnodes, &weights));
    let members = config.backends.iter().zip(0u16..).map(|(backend, index)| Member {
        id: backend.id.clone(),
        slot: Slot(index),
        weight: backend.weight,
        admin: backend.admin,
        health: Health::Up,
        shunned: false,
        active_points: ring.points_of(index),
    });
    let cluster = Cluster::new(Arc::clone(&ring), members.collect());
    UpstreamState {
        cluster,
        memory: memory_of(&config),
        line: Arc::default(),
        live: ids.iter().map(|_| Arc::new(BackendLive::new(2))).collect(),
        standings: vec![Standing::default(); ids.len()],
        config: Arc::new(config),
    }
}

fn memory_of(config: &Upstream) -> Memory {
    let table = config.affinity.remember.table.as_ref();
    Memory { table: table.map(|table| Arc::new(Table::new(table.max_entries, 1_800))), ..Memory::default() }
}

/// Returns a copy of an upstream with changed members.
pub(crate) fn with_members(upstream: &UpstreamState, change: impl FnOnce(&mut [Member])) -> UpstreamState {
    let mut members = upstream.cluster.members().to_vec();
    change(&mut members);
    UpstreamState {
        config: Arc::clone(&upstream.config),
        cluster: Cluster::new(Arc::clone(upstream.cluster.ring()), members),
        memory: upstream.memory.clone(),
        line: Arc::default(),
        live: upstream.live.clone(),
        standings: upstream.standings.clone(),
    }
}

pub(crate) fn snapshot(generation: u64, upstreams: Vec<UpstreamState>) -> Snapshot {
    let config = fixture::config(upstreams.iter().map(|state| (*state.config).clone()).collect());
    Snapshot {
        tls: Arc::default(),
        began: std::time::SystemTime::UNIX_EPOCH,
        generation,
        config: Arc::new(config),
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
    }
}

/// Returns the record of a kept request that member 0 answered.
pub(crate) fn record(upstream: &UpstreamState) -> Record<'_> {
    Record {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        method: "GET",
        host: "shop.example.com",
        path: "/cart",
        version: "HTTP/1.1",
        status: 200,
        error: None,
        upstream: Some(upstream),
        member: Some(0),
        key_source: Some(0),
        layer: None,
        key: Some(KeyHash(0x2a)),
        from: None,
        outcome: Some(Outcome::Kept),
        reason: None,
        attempts: 1,
        duration: Duration::from_micros(1_500),
        first_byte: Some(Duration::from_micros(1_042)),
        backend_latency: None,
        connect: Duration::ZERO,
        bytes_in: 120,
        bytes_out: 3_400,
        tunnel: false,
    }
}

/// Returns the record of a request that no route matched.
pub(crate) fn unrouted() -> Record<'static> {
    Record {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        method: "GET",
        host: "",
        path: "/",
        version: "HTTP/1.1",
        status: 404,
        error: Some("no_route"),
        upstream: None,
        member: None,
        key_source: None,
        layer: None,
        key: None,
        from: None,
        outcome: None,
        reason: None,
        attempts: 0,
        duration: Duration::from_micros(20),
        first_byte: Some(Duration::from_micros(15)),
        backend_latency: None,
        connect: Duration::ZERO,
        bytes_in: 60,
        bytes_out: 90,
        tunnel: false,
    }
}
