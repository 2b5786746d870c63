//! Configurations for the tests of this module.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::affinity::client_ip::{ClientIpPolicy, Mask};
use crate::affinity::pick::Failover;
use crate::affinity::{AdminState, Health, Seed, Weight};
use crate::model::{
    AccessLog, Address, Affinity, Backend, Config, Forwarding, HealthCheck, Limits, LogFormat, LogOutput,
    PassiveCheck, Pool, Probe, Protocol, Remember, Retry, Server, Timeouts, Upstream, UpstreamTimeouts,
};

pub(super) const S: Duration = Duration::from_secs(1);

const TIMEOUTS: UpstreamTimeouts = UpstreamTimeouts {
    connect: S,
    response_head: S,
    body_idle: S,
    min_body_rate: None,
    body_rate_window: S,
    tunnel_idle: S,
};

/// A configuration of these upstreams, which must be sorted by name.
pub(super) fn config(upstreams: Vec<Upstream>) -> Arc<Config> {
    assert!(upstreams.is_sorted_by(|a, b| a.name < b.name));
    Arc::new(Config {
        server: Server {
            workers: NonZeroUsize::MIN,
            shutdown_grace: S,
            admin: None,
            cancel_on_client_close: false,
        },
        client_ip: ClientIpPolicy { trusted: Vec::new(), from: Vec::new(), mask: Mask { v4: 32, v6: 64 } },
        timeouts: Timeouts {
            request_head: S,
            keep_alive: S,
            proxy_protocol: S,
            tls_handshake: S,
            upstream: TIMEOUTS,
        },
        limits: Limits {
            head_bytes: 1,
            fields: 1,
            uri_bytes: 1,
            body_bytes: None,
            connections: 1,
            streams: 1,
            stream_window: 1,
            connections_per_client: None,
            handshakes: 1,
        },
        forwarding: Forwarding { x_forwarded: false, forwarded: false, via: None, underscores: false },
        access_log: AccessLog { format: LogFormat::Off, output: LogOutput::Stdout, queue: 1 },
        listeners: Vec::new(),
        routes: Vec::new(),
        upstreams: upstreams.into_iter().map(Arc::new).collect(),
    })
}

/// An upstream of these backends, which must be sorted: no checks of any kind,
/// no slow start, nothing remembered.
pub(super) fn upstream(name: &str, ids: &[&str]) -> Upstream {
    assert!(ids.is_sorted());
    Upstream {
        name: name.into(),
        backends: ids.iter().map(|id| backend(id)).collect(),
        affinity: Affinity {
            key: Vec::new(),
            remember: Remember::None,
            failover: Failover::Sticky,
            hold: Duration::ZERO,
            announce: false,
            report: false,
            vnodes: 100,
            balance_percent: None,
            seed: Seed(7),
        },
        health_check: None,
        passive: None,
        slow_start: Duration::ZERO,
        initial_health: Health::Up,
        pool: Pool { max_idle: 1, idle_timeout: S },
        retry: Retry { attempts: 1, budget_percent: 0, min_per_second: 0, retry_after: S },
        timeouts: TIMEOUTS,
        proxy_protocol: None,
        tls: None,
        protocol: Protocol::H1,
    }
}

pub(super) fn backend(id: &str) -> Backend {
    Backend {
        id: id.parse().unwrap(),
        address: Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))),
        weight: Weight::ONE,
        admin: AdminState::Ready,
        max_connections: None,
    }
}

/// Rise 2, fall 3.
pub(super) fn tcp_check() -> HealthCheck {
    HealthCheck { probe: Probe::Tcp, interval: 2 * S, fast_interval: S / 2, timeout: S, rise: 2, fall: 3 }
}

/// Three failures or five 5xx in 10 s; 15 s, at most 60 s.
pub(super) fn passive() -> PassiveCheck {
    PassiveCheck { max_fails: 3, max_5xx: Some(5), window: 10 * S, penalty: 15 * S, max_penalty: 60 * S }
}
