//! `homing run`: the proxy, until it is told to stop.

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

/// Reads the configuration and starts the proxy; `None` if the configuration
/// has problems, which are then on the terminal.
pub(super) fn start(file: &Path) -> Result<Option<Running>, Error> {
    let Some(loaded) = load(file)? else { return Ok(None) };
    raise_file_limit(&loaded.config);
    for warning in &loaded.warnings {
        writeln!(io::stderr(), "{}", warning.render(io::stderr().is_terminal()))?;
    }
    Ok(Some(app::start(loaded.config, Some(file))?))
}

/// Reads the configuration; `None` if it has problems, which are then on the
/// terminal.
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

/// Does as signals say, until one says stop: SIGTERM and SIGINT end well (a
/// second one at once), SIGHUP reads the configuration again. `ready` is called
/// once they are heard: who is told before might be killed by its first.
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
        tracing::info!(grace_seconds = grace.as_secs(), "stopping; once more to stop at once");
        if !running.shutdown(grace, stop.recv()).await {
            tracing::warn!("stopped before everything in flight had ended");
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn reload(running: &Running) {
    if let Err(error) = running.reopen_log() {
        tracing::error!(%error, "the access log could not be opened again");
    }
    match running.reload_file().await {
        Ok(changes) => tracing::info!(%changes, "reloaded"),
        Err(error) => {
            // Diagnostics have lines of their own.
            tracing::error!("not reloaded, the old configuration stays\n{}", error_chain(&error));
        }
    }
}

/// A signal that says stop.
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

/// How many descriptors this process may take; `None`: any number.
pub(super) fn file_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum
}

/// Connections need descriptors: takes as many as the system gives.
fn raise_file_limit(config: &Config) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays");
    }
    let limit = getrlimit(Resource::Nofile).current;
    tracing::info!(limit, "open files");
    if let Some(warning) = super::check::too_few_files(config, limit) {
        tracing::warn!("{warning}");
    }
}
