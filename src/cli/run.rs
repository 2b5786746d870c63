//! `homing run`: runs the proxy until a signal stops it.

use std::io::{self, IsTerminal, Write as _};
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Error;
use crate::app::{self, Running};
use crate::config::{self, LoadError, Loaded};
use crate::error_chain;
use crate::model::Config;

/// Runs the proxy with the configuration in `file`.
pub(super) fn run(file: &Path) -> Result<ExitCode, Error> {
    let Some(running) = start(file)? else { return Ok(ExitCode::from(2)) };
    until_stopped(running, |running| {
        for address in running.addresses() {
            tracing::info!(%address, "listening");
        }
        if let Some(address) = running.admin_address() {
            tracing::info!(%address, "admin listening");
        }
        Ok(())
    })
}

/// Loads the configuration and starts the proxy. Prints diagnostics and returns `None`
/// if the configuration is invalid.
pub(super) fn start(file: &Path) -> Result<Option<Running>, Error> {
    let Some(loaded) = load(file)? else { return Ok(None) };
    raise_file_limit(&loaded.config);
    for warning in &loaded.warnings {
        writeln!(io::stderr(), "{}", warning.render(io::stderr().is_terminal()))?;
    }
    Ok(Some(app::start(loaded.config, Some(file))?))
}

/// Loads the configuration. Prints diagnostics and returns `None` if it is invalid.
pub(super) fn load(file: &Path) -> Result<Option<Loaded>, Error> {
    match config::load(file) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(LoadError::Invalid(problems)) => {
            writeln!(io::stderr(), "{}", problems.render(io::stderr().is_terminal()))?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Handles signals until one stops the proxy. SIGTERM and SIGINT shut down
/// gracefully; a second one stops immediately. SIGHUP reloads the configuration.
/// Calls `ready` once the handlers are installed: a signal sent earlier would kill the
/// process.
pub(super) fn until_stopped(
    running: Running,
    ready: impl FnOnce(&Running) -> Result<(), Error>,
) -> Result<ExitCode, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut stop, mut hangup) = (StopSignals::new()?, signal(SignalKind::hangup())?);
        ready(&running)?;
        loop {
            tokio::select! {
                _ = hangup.recv() => reload(&running).await,
                () = stop.recv() => break,
            }
        }
        let grace = running.control().snapshot().config.server.shutdown_grace;
        tracing::info!(grace_seconds = grace.as_secs(), "shutting down; signal again to stop immediately");
        if !running.shutdown(grace, stop.recv()).await {
            tracing::warn!("stopped with requests or tunnels still open");
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn reload(running: &Running) {
    if let Err(error) = running.reopen_log() {
        tracing::error!(%error, "cannot reopen the access log");
    }
    match running.reload_file().await {
        Ok(changes) => tracing::info!(%changes, "configuration reloaded"),
        Err(error) => {
            // Diagnostics span several lines.
            tracing::error!("reload failed; the old configuration stays in effect\n{}", error_chain(&error));
        }
    }
}

/// The signals that stop the process.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
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
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let limit = getrlimit(Resource::Nofile).current;
    tracing::info!(limit, "open file limit");
    if let Some(warning) = super::check::too_few_files(config, limit) {
        tracing::warn!("{warning}");
    }
}
