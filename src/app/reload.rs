//! Reloading: all that can fail comes first, then one snapshot is published.

use super::certificates;
use super::error::AppError;
use super::shared::Shared;
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
        Ok(summary)
    }

    pub(super) async fn reload_file(&self) -> Result<String, AppError> {
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
