//! Loads certificates and private keys, and watches their files.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::error::AppError;
use crate::control::ControlHandle;
use crate::model::Config;
use crate::model::live_tls::LiveTls;
use crate::model::snapshot::Snapshot;
use crate::tls::{self, Problem, Refreshed};

/// How often the files are checked for changes.
const WATCH: Duration = Duration::from_secs(1);

/// Loads all certificates and private keys.
pub(super) fn load(config: &Config) -> Result<LiveTls, AppError> {
    LiveTls::load(config, &tls::read).map_err(|problems: Vec<Problem>| {
        let messages: Vec<_> = problems.iter().map(ToString::to_string).collect();
        AppError::Tls(messages.join("; "))
    })
}

/// Reloads certificates and private keys when their files change.
pub(super) async fn watch(control: ControlHandle) {
    let mut ticks = tokio::time::interval(WATCH);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let snapshot = control.snapshot();
        // The disk may hang; nothing else must wait for it.
        if tokio::task::spawn_blocking(move || refresh(&snapshot)).await.is_err() {
            tracing::error!("certificate watcher failed");
        }
    }
}

fn refresh(snapshot: &Snapshot) {
    for (index, listener) in snapshot.config.listeners.iter().enumerate() {
        if let Some(server) = snapshot.tls.listener(index) {
            report(&format!("listener {}", listener.bind), server.refresh());
        }
    }
    for (index, upstream) in snapshot.config.upstreams.iter().enumerate() {
        if let Some(client) = snapshot.tls.upstream(index) {
            report(&format!("upstream {}", upstream.name), client.refresh());
        }
    }
}

fn report(user: &str, refreshed: Refreshed) {
    match refreshed {
        Refreshed::Unchanged => {}
        Refreshed::Replaced(warnings) => reloaded(user, &warnings),
        Refreshed::Partly(errors, warnings) => {
            for error in errors {
                tracing::error!(of = user, "cannot reload a certificate; what was in use stays: {error}");
            }
            reloaded(user, &warnings);
        }
        Refreshed::Failed(errors) => {
            for error in errors {
                tracing::error!(of = user, "cannot reload certificates; the old ones stay in use: {error}");
            }
        }
    }
}

fn reloaded(user: &str, warnings: &[Problem]) {
    tracing::info!(used_by = user, "certificates reloaded");
    for warning in warnings {
        tracing::warn!(used_by = user, "{warning}");
    }
}
