//! `homing run`: runs the proxy until a signal stops it.

use std::path::Path;
use std::process::ExitCode;

use super::signals::{Request, Signals};
use super::terminal::Terminal;
use super::{Error, status};
use crate::app::{self, Running};
use crate::config::{self, Loaded};
use crate::model::Config;

/// Runs the proxy with the configuration in `file`.
pub(super) fn run(file: &Path, terminal: Terminal) -> Result<ExitCode, Error> {
    until_stopped(|| {
        let Some(running) = start(file, terminal)? else { return Ok(None) };
        for address in running.addresses() {
            tracing::info!(%address, "listening");
        }
        if let Some(address) = running.admin_address() {
            tracing::info!(%address, "admin listening");
        }
        Ok(Some(running))
    })
}

/// Loads the configuration and starts the proxy. Prints diagnostics and returns `None`
/// if the configuration is invalid.
pub(super) fn start(file: &Path, terminal: Terminal) -> Result<Option<Running>, Error> {
    let Some(loaded) = load(file, terminal) else { return Ok(None) };
    raise_file_limit(&loaded.config);
    terminal.warnings(&loaded.warnings);
    Ok(Some(app::start(loaded.config, Some(file))?))
}

/// Loads the configuration. Prints diagnostics and returns `None` if it is invalid.
pub(super) fn load(file: &Path, terminal: Terminal) -> Option<Loaded> {
    match config::load(file) {
        Ok(loaded) => Some(loaded),
        Err(error) => {
            terminal.refused(file, &error);
            None
        }
    }
}

/// Starts the proxy and answers signals until one stops it. `start` returns `None` if the
/// configuration is invalid. Signals that arrive during the start take effect after it.
pub(super) fn until_stopped(
    start: impl FnOnce() -> Result<Option<Running>, Error>,
) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let Some(running) = start()? else { return Ok(ExitCode::from(status::INVALID)) };
        loop {
            match signals.next().await {
                Request::Stop => break,
                Request::Reload => {
                    reopen_log(&running);
                    // The outcome is logged where every reload is.
                    let _ = running.reload_file().await;
                }
                Request::Reopen => reopen_log(&running),
                Request::Upgrade => {
                    tracing::warn!("SIGUSR2 ignored: an upgrade needs a restart");
                }
            }
        }
        let grace = running.control().snapshot().config.server.shutdown_grace;
        tracing::info!(grace_seconds = grace.as_secs(), "shutting down; signal again to stop immediately");
        let ended = running.shutdown(grace, signals.stop()).await;
        if !ended.in_time {
            tracing::warn!("stopped with requests or tunnels still open");
        }
        Ok(ExitCode::from(if ended.saved { status::GOOD } else { status::UNSAVED }))
    })
}

fn reopen_log(running: &Running) {
    match running.reopen_log() {
        Ok(true) => tracing::info!("access log reopened"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "cannot reopen the access log; the old file stays in use"),
    }
}

/// Returns the maximum number of open files of this process, or `None` if unlimited.
pub(super) fn file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

/// Raises the limit of open files to the maximum, because every connection needs one.
fn raise_file_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the open file limit");
    }
    let limit = getrlimit(Resource::Nofile).current;
    tracing::info!(limit, "open file limit");
    if let Some(warning) = super::check::too_few_files(config, limit) {
        tracing::warn!("{warning}");
    }
}
