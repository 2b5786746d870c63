//! The scenarios: typical operator actions and failures, one at a time.

use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::crowd::Ledger;
use crate::interrupt::pause;
use crate::proxies::{Backend, Proxy};
use crate::stateful_backend::Farm;

/// Number of backends at the start. One more is available to add.
pub const BACKENDS: u8 = 5;

/// The backend that is killed, removed or drained.
pub const VICTIM: usize = 1;

/// The backend that is added.
pub const ADDED: usize = BACKENDS as usize;

/// Time for health checks and reloads to take effect.
const EFFECT: Duration = Duration::from_millis(700);

/// Time until a backend that came back is used again (nginx: `fail_timeout` plus a margin).
const TRUST: Duration = Duration::from_millis(1400);

/// Downtime of a backend that restarts.
const RESTART: Duration = Duration::from_millis(300);

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Nothing happens; sessions start and continue.
    Steady,
    /// A backend is killed and stays down.
    Stop,
    /// A backend is killed and comes back without its sessions.
    Restart,
    /// A backend is killed and comes back, three times.
    Flap,
    /// A backend is added.
    Add,
    /// A backend is removed from the configuration.
    Remove,
    /// A backend is drained: it keeps its sessions and gets no new ones.
    Drain,
    /// The proxy reloads the same file, twice.
    Reload,
    /// The proxy is stopped and started again.
    RestartProxy,
    /// Two proxies take turns serving the requests of each session.
    TwoProxies,
}

impl Scenario {
    /// Returns the description for the table.
    pub fn description(self) -> &'static str {
        match self {
            Self::Steady => "nothing happens",
            Self::Stop => "a backend is killed",
            Self::Restart => "a backend restarts",
            Self::Flap => "a backend flaps three times",
            Self::Add => "a backend is added",
            Self::Remove => "a backend is removed",
            Self::Drain => "a backend is drained",
            Self::Reload => "the proxy reloads twice",
            Self::RestartProxy => "the proxy restarts",
            Self::TwoProxies => "two proxies take turns",
        }
    }

    /// Returns true if breaks count from a session's first request, false if they count once
    /// it is established.
    pub fn counts_from_the_start(self) -> bool {
        matches!(self, Self::Steady | Self::TwoProxies)
    }

    /// Returns true if every kind of proxy is reloaded.
    pub fn reloads(self) -> bool {
        matches!(self, Self::Add | Self::Remove | Self::Reload)
    }

    /// Runs the scenario.
    pub fn run(self, farm: &mut Farm, proxies: &mut [Proxy<'_>], ledger: &Ledger) -> Result<()> {
        let proxy = proxies.first_mut().context("scenario without a proxy")?;
        match self {
            Self::Steady | Self::TwoProxies => Ok(()),
            Self::Stop => {
                kill(farm, ledger);
                pause(EFFECT)
            }
            Self::Restart => {
                restart_victim(farm, ledger)?;
                pause(TRUST)
            }
            Self::Flap => {
                for _ in 0..3 {
                    restart_victim(farm, ledger)?;
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

    /// Returns the backend whose share of the new sessions is reported.
    pub fn watched(self) -> Option<usize> {
        match self {
            Self::Drain | Self::Remove => Some(VICTIM),
            Self::Add => Some(ADDED),
            _ => None,
        }
    }
}

/// Returns the configuration entry of a backend.
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

fn restart_victim(farm: &mut Farm, ledger: &Ledger) -> Result<()> {
    kill(farm, ledger);
    pause(RESTART)?;
    farm.start(VICTIM)
}
