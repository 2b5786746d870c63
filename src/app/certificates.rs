//! Loads certificates and private keys, keeps them across reloads, and watches their files.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::AppError;
use crate::control::ControlHandle;
use crate::model::{Config, Listener};
use crate::tls::{self, Refreshed};

/// How often the files are checked for changes.
const WATCH: Duration = Duration::from_secs(1);

/// Loads the certificates that were not loaded with the configuration.
pub(super) fn load(config: &Config) -> Result<(), AppError> {
    let refused = |problems: Vec<tls::Problem>| {
        let messages: Vec<_> = problems.iter().map(ToString::to_string).collect();
        AppError::Tls(messages.join("; "))
    };
    for server in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        if server.live().is_none() {
            server.load(&tls::read).map_err(refused)?;
        }
    }
    for client in config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()) {
        if client.config().is_none() {
            client.load(&tls::read).map_err(refused)?;
        }
    }
    Ok(())
}

/// Reuses the old TLS state of upstreams and listeners whose TLS settings have
/// not changed, so that their connections and TLS sessions carry over.
pub(super) fn keep(config: &mut Config, old: &Config) {
    for upstream in &mut config.upstreams {
        let before = old.upstreams.iter().find(|old| old.name == upstream.name);
        if let Some(before) = before.filter(|before| before.tls.is_some() && before.tls == upstream.tls) {
            Arc::make_mut(upstream).tls.clone_from(&before.tls);
        }
    }
    for listener in &mut config.listeners {
        let same = |old: &&Listener| old.bind == listener.bind && old.tls == listener.tls;
        if let Some(before) = old.listeners.iter().find(same) {
            listener.tls.clone_from(&before.tls);
        }
    }
}

/// Reloads certificates and private keys when their files change.
pub(super) async fn watch(control: ControlHandle) {
    let mut looks = tokio::time::interval(WATCH);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let config = Arc::clone(&control.snapshot().config);
        // The disk may hang; nothing else must wait for it.
        if tokio::task::spawn_blocking(move || refresh(&config)).await.is_err() {
            tracing::error!("certificate watcher failed");
        }
    }
}

fn refresh(config: &Config) {
    for listener in &config.listeners {
        if let Some(server) = &listener.tls {
            report(&format!("listener {}", listener.bind), server.refresh());
        }
    }
    for upstream in &config.upstreams {
        if let Some(client) = &upstream.tls {
            report(&format!("upstream {}", upstream.name), client.refresh());
        }
    }
}

fn report(user: &str, refreshed: Refreshed) {
    match refreshed {
        Refreshed::Unchanged => {}
        Refreshed::Replaced(warnings) => {
            tracing::info!(of = user, "certificates reloaded");
            for warning in warnings {
                tracing::warn!(of = user, "{warning}");
            }
        }
        Refreshed::Failed(errors) => {
            for error in errors {
                tracing::error!(of = user, "cannot reload certificates; the old ones stay in use: {error}");
            }
        }
    }
}
