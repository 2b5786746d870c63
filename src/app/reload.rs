//! Reloading: all that can fail comes first, then one snapshot is published.

use std::time::SystemTime;

use super::certificates;
use super::error::AppError;
use super::shared::Shared;
use crate::admin::LastReload;
use crate::control::ReloadSummary;
use crate::model::Config;
use crate::{config, error_chain};

impl Shared {
    pub(super) async fn reload(&self, new: Config) -> Result<ReloadSummary, AppError> {
        let _one_at_a_time = self.reloading.acquire().await;
        let old = self.control.snapshot();
        warn_of_restart(&old.config, &new);
        let mut tls = certificates::load(&new)?;
        tls.continue_from(&new, &old.tls, &old.config);
        let mut bound = new.clone();
        // The number of workers changes with a restart only.
        bound.server.workers = old.config.server.workers;
        let changes = self.listeners.changes(&bound)?;
        let resolve_every = new.server.resolve_every;
        let summary = self.control.reload(new, tls).await?;
        self.names.set_interval(resolve_every);
        self.listeners.apply(&self.workers, changes, &self.control.snapshot());
        // From here on, no worker accepts a connection with the old configuration.
        self.workers.settle().await;
        Ok(summary)
    }

    /// Reloads the configuration file, and logs and notes the outcome, whoever asked for it.
    pub(super) async fn reload_file(&self) -> Result<String, AppError> {
        let result = self.try_reload_file().await;
        let outcome = match &result {
            Ok(changes) => {
                tracing::info!(%changes, "configuration reloaded");
                Ok(changes.clone())
            }
            Err(error) => {
                let why = error_chain(error);
                // Diagnostics span several lines.
                tracing::error!("reload failed; the old configuration stays in effect\n{why}");
                Err(why)
            }
        };
        let at = SystemTime::now();
        self.metrics.note_reload(outcome.is_ok(), at);
        *self.last_reload.lock() = Some(LastReload { at, outcome });
        result
    }

    async fn try_reload_file(&self) -> Result<String, AppError> {
        let file = self.file.as_deref().ok_or(AppError::NoFile)?;
        let loaded = config::load(file).map_err(|error| AppError::Config(error_chain(&error)))?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        let summary = self.reload(loaded.config).await?;
        Ok(summary.to_string())
    }
}

fn warn_of_restart(old: &Config, new: &Config) {
    for (what, changed) in [
        ("server.workers", old.server.workers != new.server.workers),
        ("server.admin", old.server.admin != new.server.admin),
        ("access_log", old.access_log != new.access_log),
    ] {
        if changed {
            tracing::warn!("{what} has changed; restart to apply");
        }
    }
}
