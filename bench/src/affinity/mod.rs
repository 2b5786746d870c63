//! Counts the sessions that break, with stateful backends and thousands of users, during
//! operator actions and failures.
//!
//! A session is **broken** if a backend that does not know it answered a request while the
//! backend that has it was running and in service. The backends decide this, not the
//! proxy.

mod client;
mod crowd;
mod scenario;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::process::{Cpu, free_address};
use crate::proxies::{Affinity, Front, Product, Proxy, Setup};
use crate::stateful_backend::Farm;
use crate::table::{Table, grouped};

use crowd::{Crowd, Tally};
pub use scenario::Scenario;

/// Number of requests per session after a scenario.
const PASSES_AFTER: u32 = 2;

/// Number of requests per session if nothing happens.
const PASSES_STEADY: u32 = 6;

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of users; each has one session.
    pub sessions: u32,
    /// Number of client connections per proxy that the users share.
    pub clients: usize,
    /// Scenarios to run.
    pub scenarios: Vec<Scenario>,
}

/// One proxy with one kind of affinity.
pub struct Subject<'p> {
    /// The product.
    pub product: &'p dyn Product,
    /// The kind of affinity.
    pub affinity: Affinity,
}

impl Subject<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.product.name(), self.affinity.name())
    }
}

/// The effect of a scenario on the sessions.
#[derive(Debug)]
struct Outcome {
    broken: usize,
    moved: usize,
    excused: usize,
    tally: Tally,
    /// New sessions after the scenario: how many went to the watched backend, and how many
    /// there were.
    newcomers: Option<(u64, u64)>,
    time: Duration,
}

/// Runs every scenario with every subject and returns the results as Markdown.
pub fn run(plan: &Plan, subjects: &[Subject<'_>]) -> Result<String> {
    client::check_numbers(plan.sessions, plan.clients)?;
    let mut table =
        Table::new(["what happens", "proxy", "broken", "moved", "had to", "failed", "requests", "s", "note"]);
    for scenario in &plan.scenarios {
        for subject in subjects {
            let outcome = play(plan, *scenario, subject)
                .with_context(|| format!("{}, {}", subject.name(), scenario.description()))?;
            eprintln!(
                "{}: {}: {} broken, {} failed of {} requests, {:.1} s",
                scenario.description(),
                subject.name(),
                outcome.broken,
                outcome.tally.failed(),
                outcome.tally.requests,
                outcome.time.as_secs_f64()
            );
            table.row(row(*scenario, subject, &outcome));
        }
    }
    Ok(table.to_string())
}

fn row(scenario: Scenario, subject: &Subject<'_>, outcome: &Outcome) -> [String; 9] {
    let mut notes: Vec<String> = vec![];
    if let Some((there, all)) = outcome.newcomers {
        notes.push(format!("{there} of {all} new sessions went to it"));
    }
    notes.extend(outcome.tally.failures.iter().map(|(what, count)| format!("{count} × {what}")));
    let number = |count: usize| grouped(count as u64);
    [
        scenario.description().to_owned(),
        subject.name(),
        number(outcome.broken),
        number(outcome.moved),
        number(outcome.excused),
        grouped(outcome.tally.failed()),
        grouped(outcome.tally.requests),
        format!("{:.1}", outcome.time.as_secs_f64()),
        notes.join(", "),
    ]
}

fn play(plan: &Plan, scenario: Scenario, subject: &Subject<'_>) -> Result<Outcome> {
    let mut farm = Farm::new(scenario::BACKENDS + 1)?;
    for backend in 0..usize::from(scenario::BACKENDS) {
        farm.start(backend)?;
    }
    let shared = TempDir::new()?;
    let keys_file = shared.path().join("keys");
    write_key(&keys_file)?;
    let mut proxies = start_proxies(plan, scenario, subject, &farm, &keys_file)?;
    let addresses: Vec<SocketAddr> = proxies.iter().map(Proxy::address).collect();
    let mut crowd = Crowd::new(plan.sessions, plan.clients, &addresses);
    let mut passes = PASSES_STEADY;
    if !scenario.counts_from_the_start() {
        crowd.establish()?;
        passes = PASSES_AFTER;
    }
    if scenario.reloads() {
        for proxy in &proxies {
            proxy.settle()?;
        }
    }
    let began = Instant::now();
    let tally = crowd.during(passes, |ledger| scenario.run(&mut farm, &mut proxies, ledger))?;
    let time = began.elapsed();
    let newcomers = match scenario.watched().and_then(|backend| u8::try_from(backend).ok()) {
        Some(backend) => {
            let tally = crowd.newcomers()?;
            Some((tally.by_backend.get(&backend).copied().unwrap_or_default(), tally.requests))
        }
        None => None,
    };
    for proxy in proxies {
        proxy.stop()?;
    }
    let ledger = crowd.ledger();
    Ok(Outcome {
        broken: ledger.broken(),
        moved: ledger.moved(),
        excused: ledger.excused(),
        tally,
        newcomers,
        time,
    })
}

fn start_proxies<'p>(
    plan: &Plan,
    scenario: Scenario,
    subject: &Subject<'p>,
    farm: &Farm,
    keys_file: &Path,
) -> Result<Vec<Proxy<'p>>> {
    let count = if scenario == Scenario::TwoProxies { 2 } else { 1 };
    let fleet: Vec<(String, SocketAddr)> = (0..count)
        .map(|number: u8| Ok((format!("proxy{number}"), free_address([127, 0, 3, number + 1])?)))
        .collect::<Result<_>>()?;
    let start = |number: u8| {
        let (name, side) = fleet[usize::from(number)].clone();
        let setup = Setup {
            dir: TempDir::new()?,
            listen: free_address([127, 0, 2, number + 1])?,
            front: Front::Http1,
            side,
            name,
            fleet: fleet.clone(),
            backends: (0..usize::from(scenario::BACKENDS))
                .map(|backend| scenario::backend(farm, backend))
                .collect(),
            affinity: subject.affinity,
            checks: true,
            connections: plan.clients + 64,
            keys_file: PathBuf::from(keys_file),
        };
        Proxy::start(subject.product, setup, Cpu::Any)
    };
    (0..count).map(start).collect()
}

/// Writes a key for sealed cookies: 32 random bytes in hex.
fn write_key(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    fs::write(path, format!("{:032x}{:032x}\n", fastrand::u128(..), fastrand::u128(..)))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
