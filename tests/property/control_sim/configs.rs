//! Random configurations.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use homing::affinity::{AdminState, Health, Seed, Weight};
use homing::model::{
    Address, Backend, Config, HealthCheck, PassiveCheck, Probe, Remember, TableConfig, Upstream,
};

/// Names of upstreams.
pub(super) const NAMES: [&str; 3] = ["api", "shop", "web"];
/// Ids of backends in each upstream.
pub(super) const IDS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Maximum value of `rise`.
pub(super) const MAX_RISE: u32 = 3;
const S: Duration = Duration::from_secs(1);

/// A configuration with defaults and no memory.
const BASE: &str = r#"
    [[listener]]
    bind = "127.0.0.1:8080"

    [upstream.web]
    backends = ["127.0.0.1:8001"]
    affinity = { remember = "none", ring = { vnodes = 16 } }
"#;

fn base() -> Config {
    homing::config::parse(BASE, "base.toml").unwrap().config
}

/// Returns a random configuration.
pub(super) fn random_config(rng: &mut Rng) -> Arc<Config> {
    let mut upstreams: Vec<_> = some_of(&NAMES, rng).map(|name| random_upstream(name, rng)).collect();
    if upstreams.is_empty() {
        upstreams.push(random_upstream("web", rng));
    }
    let upstreams = upstreams.into_iter().map(Arc::new).collect();
    Arc::new(Config { upstreams, routes: Vec::new(), ..base() })
}

fn random_upstream(name: &str, rng: &mut Rng) -> Upstream {
    let mut backends: Vec<_> = some_of(&IDS, rng).map(|id| random_backend(id, rng)).collect();
    if backends.is_empty() {
        backends.push(random_backend("a", rng));
    }
    let mut upstream = Arc::unwrap_or_clone(base().upstreams.remove(0));
    upstream.affinity.remember = random_remember(rng);
    upstream.affinity.seed = Seed(rng.u64(..2));
    Upstream {
        name: name.into(),
        backends,
        health_check: random_check(rng),
        passive: random_passive(rng),
        slow_start: [Duration::ZERO, S, S * 10][rng.usize(..3)],
        initial_health: if rng.u32(..4) == 0 { Health::Down } else { Health::Up },
        ..upstream
    }
}

fn random_backend(id: &str, rng: &mut Rng) -> Backend {
    Backend {
        id: id.parse().unwrap(),
        address: Address::Ip(SocketAddr::from((Ipv4Addr::LOCALHOST, rng.u16(1..3)))),
        weight: Weight::new(rng.u16(1..3)).unwrap(),
        admin: match rng.u32(..8) {
            0 => AdminState::Drain,
            1 => AdminState::Maint,
            _ => AdminState::Ready,
        },
        max_connections: None,
    }
}

fn random_check(rng: &mut Rng) -> Option<HealthCheck> {
    (rng.u32(..3) > 0).then(|| HealthCheck {
        probe: if rng.bool() { Probe::Tcp } else { http_probe() },
        interval: S,
        fast_interval: S / 4,
        timeout: S,
        rise: rng.u32(1..=MAX_RISE),
        fall: rng.u32(1..=3),
    })
}

fn http_probe() -> Probe {
    Probe::Http {
        method: "GET".to_owned(),
        path: "/healthz".to_owned(),
        host: None,
        expect_status: vec![(200, 399)],
        drain_status: Vec::new(),
    }
}

fn random_passive(rng: &mut Rng) -> Option<PassiveCheck> {
    (rng.u32(..4) > 0).then(|| PassiveCheck {
        max_fails: rng.u32(1..=4),
        max_5xx: rng.bool().then(|| rng.u32(1..=4)),
        window: S * rng.u32(1..=6),
        penalty: S * rng.u32(1..=5),
        max_penalty: S * 30,
    })
}

fn random_remember(rng: &mut Rng) -> Remember {
    if rng.bool() {
        Remember::NONE
    } else {
        Remember::in_table(TableConfig {
            max_entries: rng.usize(1..100),
            ttl: S * rng.u32(1..100),
            file: None,
        })
    }
}

/// Returns a copy with a few random changes.
pub(super) fn mutated(config: &Config, rng: &mut Rng) -> Arc<Config> {
    let mut next = config.clone();
    match rng.u32(..10) {
        0 => next = (*random_config(rng)).clone(),
        1 => next.limits.connections = rng.usize(1..100),
        _ => {}
    }
    for upstream in &mut next.upstreams {
        let mut changed = (**upstream).clone();
        match rng.u32(..12) {
            0 => changed.affinity.seed = Seed(rng.u64(..2)),
            1 => changed.affinity.remember = random_remember(rng),
            2 => changed.health_check = random_check(rng),
            3 => changed.passive = random_passive(rng),
            4 => changed.slow_start = [Duration::ZERO, S, S * 10][rng.usize(..3)],
            5 => changed.backends = random_upstream("web", rng).backends,
            6 if changed.backends.len() > 1 => {
                drop(changed.backends.remove(rng.usize(..changed.backends.len())));
            }
            7 | 8 => {
                let backend = &mut changed.backends[rng.usize(..upstream.backends.len())];
                *backend = random_backend(backend.id.as_str(), rng);
            }
            _ => continue,
        }
        *upstream = Arc::new(changed);
    }
    Arc::new(next)
}

fn some_of(all: &'static [&str], rng: &mut Rng) -> impl Iterator<Item = &'static str> + use<> {
    let chosen: Vec<_> = all.iter().copied().filter(|_| rng.bool()).collect();
    chosen.into_iter()
}
