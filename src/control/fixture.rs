//! Configurations for the tests of this module.

use std::sync::Arc;
use std::time::Duration;

use crate::fixture;
use crate::model::{Backend, Config, HealthCheck, PassiveCheck, Upstream};

pub(super) const S: Duration = Duration::from_secs(1);

/// Returns the default settings with these upstreams, sorted by name.
pub(super) fn config(upstreams: Vec<Upstream>) -> Arc<Config> {
    Arc::new(fixture::config(upstreams))
}

/// Returns an upstream with these backends, sorted by id: no checks, no memory, 100 points each.
pub(super) fn upstream(name: &str, ids: &[&str]) -> Upstream {
    let settings = "health_check = false\npassive = false\n\
                    affinity = { remember = \"none\", ring = { vnodes = 100 } }";
    fixture::upstream(name, ids, settings)
}

pub(super) fn backend(id: &str) -> Backend {
    upstream("web", &[id]).backends.remove(0)
}

/// Rise 2, fall 3.
pub(super) fn tcp_check() -> HealthCheck {
    let settings = "health_check = { interval = \"2s\", fast_interval = \"500ms\", rise = 2, fall = 3 }";
    fixture::upstream("web", &["a"], settings).health_check.expect("configured")
}

/// Three failures or five 5xx in 10 s; 15 s, at most 60 s.
pub(super) fn passive() -> PassiveCheck {
    let settings = "passive = { max_fails = 3, max_5xx = 5, window = \"10s\", penalty = \"15s\", \
                    max_penalty = \"60s\" }";
    fixture::upstream("web", &["a"], settings).passive.expect("configured")
}
