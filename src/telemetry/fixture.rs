//! A snapshot and a record for the tests of `telemetry` and `admin`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::Record;
use crate::affinity::client_ip::{ClientIpPolicy, Mask};
use crate::affinity::key::KeySource;
use crate::affinity::pick::{Failover, Outcome};
use crate::affinity::ring::Ring;
use crate::affinity::table::Table;
use crate::affinity::{AdminState, BackendId, Cluster, Health, Member, Seed, Slot, Weight};
use crate::model::live::BackendLive;
use crate::model::snapshot::{Memory, Snapshot, UpstreamState};
use crate::model::{
    AccessLog, Address, Affinity, Backend, Config, Forwarding, Limits, Listener, LogFormat, LogOutput, Pool,
    Protocol, ProxyProtocol, Remember, Retry, Server, TableConfig, Timeouts, Upstream, UpstreamTimeouts,
};

pub(crate) fn id(text: &str) -> BackendId {
    text.parse().expect("a backend id")
}

/// An upstream whose bindings are nowhere, its backends ready and up, of weight
/// 1, 2, ….
pub(crate) fn upstream(name: &str, ids: &[&str]) -> UpstreamState {
    build(name, ids, Remember::None, Memory::None)
}

/// The same with a table.
pub(crate) fn upstream_with_table(name: &str, ids: &[&str]) -> UpstreamState {
    let config = TableConfig { max_entries: 1_000, ttl: Duration::from_secs(1_800), file: None };
    let table = Arc::new(Table::new(config.max_entries, 1_800));
    build(name, ids, Remember::Table(config), Memory::Table(table))
}

fn build(name: &str, ids: &[&str], remember: Remember, memory: Memory) -> UpstreamState {
    let vnodes = 64;
    let weight = |index: usize| u16::try_from(index + 1).ok().and_then(Weight::new).expect("a weight");
    let backends = ids.iter().enumerate().map(|(index, text)| Backend {
        id: id(text),
        address: Address::Ip(SocketAddr::from(([127, 0, 0, 1], 8001))),
        weight: weight(index),
        admin: AdminState::Ready,
        max_connections: None,
    });
    let backends: Vec<Backend> = backends.collect();
    let members = backends.iter().zip(0u16..).map(|(backend, index)| Member {
        id: backend.id.clone(),
        slot: Slot(index),
        weight: backend.weight,
        admin: AdminState::Ready,
        health: Health::Up,
        active_points: u32::from(backend.weight.get()) * vnodes,
    });
    let members: Vec<Member> = members.collect();
    let on_ring: Vec<_> = backends.iter().map(|backend| (backend.id.clone(), backend.weight)).collect();
    let ring = Ring::build(Seed(0), vnodes, &on_ring);
    let live = backends.iter().map(|_| Arc::new(BackendLive::new(2))).collect();
    let config = Upstream {
        name: Arc::from(name),
        backends,
        affinity: Affinity {
            key: vec![KeySource::Cookie("SID".to_owned()), KeySource::Ip],
            remember,
            failover: Failover::Sticky,
            hold: Duration::ZERO,
            announce: true,
            report: false,
            vnodes,
            balance_percent: Some(125),
            seed: Seed(0),
        },
        health_check: None,
        passive: None,
        slow_start: Duration::ZERO,
        initial_health: Health::Up,
        pool: Pool { max_idle: 8, idle_timeout: Duration::from_secs(60) },
        retry: Retry {
            attempts: 3,
            budget_percent: 20,
            min_per_second: 10,
            retry_after: Duration::from_secs(1),
        },
        timeouts: UPSTREAM_TIMEOUTS,
        proxy_protocol: None,
        tls: None,
        protocol: Protocol::H1,
    };
    UpstreamState { config: Arc::new(config), cluster: Cluster::new(Arc::new(ring), members), memory, live }
}

/// The same upstream with other members.
pub(crate) fn with_members(upstream: &UpstreamState, change: impl FnOnce(&mut [Member])) -> UpstreamState {
    let mut members = upstream.cluster.members().to_vec();
    change(&mut members);
    UpstreamState {
        config: Arc::clone(&upstream.config),
        cluster: Cluster::new(Arc::clone(upstream.cluster.ring()), members),
        memory: upstream.memory.clone(),
        live: upstream.live.clone(),
    }
}

pub(crate) fn snapshot(generation: u64, upstreams: Vec<UpstreamState>) -> Snapshot {
    let upstreams: Vec<_> = upstreams.into_iter().map(Arc::new).collect();
    let config = Config {
        server: Server {
            workers: NonZeroUsize::MIN,
            shutdown_grace: Duration::from_secs(30),
            admin: None,
            cancel_on_client_close: false,
        },
        client_ip: ClientIpPolicy { trusted: Vec::new(), from: Vec::new(), mask: Mask { v4: 32, v6: 64 } },
        timeouts: Timeouts {
            request_head: Duration::from_secs(10),
            keep_alive: Duration::from_secs(60),
            proxy_protocol: Duration::from_secs(5),
            tls_handshake: Duration::from_secs(10),
            upstream: UPSTREAM_TIMEOUTS,
        },
        limits: Limits {
            head_bytes: 32_768,
            fields: 100,
            uri_bytes: 8_192,
            body_bytes: None,
            connections: 10_000,
            streams: 128,
            stream_window: 1 << 18,
            connections_per_client: None,
            handshakes: 1,
        },
        forwarding: Forwarding { x_forwarded: true, forwarded: false, via: None, underscores: false },
        access_log: AccessLog { format: LogFormat::Off, output: LogOutput::Stdout, queue: 1_024 },
        listeners: vec![Listener {
            http2: true,
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)).into(),
            mode: 0o660,
            tls: None,
            proxy_protocol: ProxyProtocol::Off,
            redirect_https: None,
        }],
        routes: Vec::new(),
        upstreams: upstreams.iter().map(|upstream| Arc::clone(&upstream.config)).collect(),
    };
    Snapshot { generation, config: Arc::new(config), upstreams }
}

const UPSTREAM_TIMEOUTS: UpstreamTimeouts = UpstreamTimeouts {
    connect: Duration::from_secs(1),
    response_head: Duration::from_secs(30),
    body_idle: Duration::from_secs(30),
    min_body_rate: None,
    body_rate_window: Duration::from_secs(1),
    tunnel_idle: Duration::from_secs(3_600),
};

/// A kept request that member 0 answered.
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
        outcome: Some(Outcome::Kept),
        reason: None,
        attempts: 1,
        duration: Duration::from_micros(1_500),
        first_byte: Some(Duration::from_micros(1_042)),
        connect: Duration::ZERO,
        bytes_in: 120,
        bytes_out: 3_400,
        tunnel: false,
    }
}

/// A request that no route matched.
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
        outcome: None,
        reason: None,
        attempts: 0,
        duration: Duration::from_micros(20),
        first_byte: Some(Duration::from_micros(15)),
        connect: Duration::ZERO,
        bytes_in: 60,
        bytes_out: 90,
        tunnel: false,
    }
}
