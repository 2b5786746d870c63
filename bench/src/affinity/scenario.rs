//! What happens to a cluster in a week, each on its own.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::crowd::Ledger;
use crate::interrupt::pause;
use crate::proxies::{Backend, Proxy};
use crate::stateful_backend::Farm;

/// Backends at the start; one more is there to be added.
pub const BACKENDS: u8 = 5;

/// The backend that things happen to.
pub const VICTIM: usize = 1;

/// The backend that is added.
pub const ADDED: usize = BACKENDS as usize;

/// For health checks and reloads to take effect.
const EFFECT: Duration = Duration::from_millis(700);

/// For a backend that came back to be trusted again (nginx: `fail_timeout` and
/// a little).
const TRUST: Duration = Duration::from_millis(1400);

/// How long a backend is away that is restarted.
const RESTART: Duration = Duration::from_millis(300);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Nothing: sessions begin and go on.
    Steady,
    /// A backend dies and stays away.
    Stop,
    /// A backend dies and comes back, without its sessions.
    Restart,
    /// A backend dies and comes back three times.
    Flap,
    /// A backend is added.
    Add,
    /// A backend is taken out of the file.
    Remove,
    /// A backend is to keep its sessions and get no new ones.
    Drain,
    /// The proxy reads the same file again, twice.
    Reload,
    /// The proxy is stopped and started.
    RestartProxy,
    /// Each session's requests go to two proxies in turn.
    TwoProxies,
}

impl Scenario {
    /// What it is, for the reader of a table.
    pub fn description(self) -> &'static str {
        match self {
            Self::Steady => "nothing happens",
            Self::Stop => "a backend dies",
            Self::Restart => "a backend restarts",
            Self::Flap => "a backend flaps, 3 times",
            Self::Add => "a backend is added",
            Self::Remove => "a backend is removed",
            Self::Drain => "a backend is drained",
            Self::Reload => "the proxy reloads, twice",
            Self::RestartProxy => "the proxy restarts",
            Self::TwoProxies => "two proxies, in turn",
        }
    }

    /// Do breaks count from a session's first request, or once it is established?
    pub fn counts_from_the_start(self) -> bool {
        matches!(self, Self::Steady | Self::TwoProxies)
    }

    /// Is the proxy reloaded, whatever it is?
    pub fn reloads(self) -> bool {
        matches!(self, Self::Add | Self::Remove | Self::Reload)
    }

    /// Lets it happen.
    pub fn happen(self, farm: &mut Farm, proxies: &mut [Proxy<'_>], ledger: &Ledger) -> Result<()> {
        let proxy = proxies.first_mut().context("no proxy")?;
        match self {
            Self::Steady | Self::TwoProxies => Ok(()),
            Self::Stop => {
                kill(farm, ledger);
                pause(EFFECT)
            }
            Self::Restart => {
                die_and_come_back(farm, ledger)?;
                pause(TRUST)
            }
            Self::Flap => {
                for _ in 0..3 {
                    die_and_come_back(farm, ledger)?;
                    pause(RESTART)?;
                }
                pause(TRUST)
            }
            Self::Add => {
                farm.start(ADDED)?;
                let added = backend(farm, ADDED);
                proxy.reload(|backends| backends.push(added))?;
                pause(EFFECT)
            }
            Self::Remove => {
                farm.withdraw(VICTIM);
                ledger.excuse_sessions_of(VICTIM);
                let id = id(VICTIM);
                proxy.reload(|backends| backends.retain(|backend| backend.id != id))?;
                pause(EFFECT)
            }
            Self::Drain => {
                proxy.drain(&id(VICTIM))?;
                pause(EFFECT)
            }
            Self::Reload => {
                for _ in 0..2 {
                    proxy.reload(|_| ())?;
                    pause(EFFECT)?;
                }
                Ok(())
            }
            Self::RestartProxy => {
                proxy.restart()?;
                pause(EFFECT)
            }
        }
    }

    /// The backend that new sessions are watched for.
    pub fn watched(self) -> Option<usize> {
        match self {
            Self::Drain | Self::Remove => Some(VICTIM),
            Self::Add => Some(ADDED),
            _ => None,
        }
    }
}

/// A backend as the operator writes it down.
pub fn backend(farm: &Farm, backend: usize) -> Backend {
    Backend { id: id(backend), address: farm.address(backend), drain: false }
}

fn id(backend: usize) -> String {
    format!("b{}", backend + 1)
}

fn kill(farm: &mut Farm, ledger: &Ledger) {
    farm.kill(VICTIM);
    ledger.excuse_sessions_of(VICTIM);
}

fn die_and_come_back(farm: &mut Farm, ledger: &Ledger) -> Result<()> {
    kill(farm, ledger);
    pause(RESTART)?;
    farm.start(VICTIM)
}
