//! Benchmarks: Homing compared with nginx and `HAProxy`.
//!
//! `homing-bench wrk` and `homing-bench h2load` measure what a request costs, `homing-bench affinity`
//! which sessions break, `homing-bench soak` whether memory stays flat. `homing-bench conformance` runs
//! h2spec. See bench/README.md.

mod affinity;
mod blind_copy;
mod conformance;
mod cost;
mod facts;
mod http_server;
mod interrupt;
mod process;
mod procfs;
mod proxies;
mod soak;
mod stateful_backend;
mod static_backend;
mod table;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use affinity::Scenario;
use cost::{h2load, wrk};
use proxies::blind::Blind;
use proxies::haproxy::Haproxy;
use proxies::homing::Homing;
use proxies::nginx::Nginx;
use proxies::{Affinity, Product};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure what a request costs with wrk: requests/s, latency, CPU and memory.
    Wrk(WrkArgs),
    /// Measure what an HTTP/2 request costs with h2load.
    H2load(H2loadArgs),
    /// Count the sessions that break when backends or the proxy come and go.
    Affinity(AffinityArgs),
    /// Check HTTP/2 conformance with h2spec in strict mode.
    Conformance(ConformanceArgs),
    /// Run every kind of load at once and check that memory stays flat and no request fails.
    Soak(SoakArgs),
    #[command(hide = true)]
    StaticBackends { body_length: usize },
    #[command(hide = true)]
    BlindCopy { listen: SocketAddr, backends: Vec<SocketAddr> },
}

#[derive(Debug, Args)]
struct WrkArgs {
    /// Length of one measurement, in seconds.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Number of measurements per proxy and case.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Proxies to measure [default: all except homing-ring].
    #[arg(long, value_delimiter = ',')]
    only: Vec<Name>,
    /// Cases to run [default: all].
    #[arg(long, value_delimiter = ',')]
    case: Vec<CaseName>,
    /// Number of connections in the case `idle`.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    connections: u32,
    /// Let the proxy and the load run on any CPU.
    #[arg(long)]
    no_pin: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct H2loadArgs {
    /// Length of one measurement, in seconds.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Number of measurements per proxy and case.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Proxies to measure.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    only: Vec<PeerName>,
    /// Cases to run [default: all].
    #[arg(long, value_delimiter = ',')]
    case: Vec<h2load::Case>,
    /// Let the proxy and the load run on any CPU.
    #[arg(long)]
    no_pin: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct AffinityArgs {
    /// Proxies to measure.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    proxy: Vec<PeerName>,
    /// Kinds of affinity to run, by their names in the table [default: all].
    #[arg(long, value_delimiter = ',')]
    setup: Vec<String>,
    /// Scenarios to run [default: all].
    #[arg(long, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Number of users; each has one session.
    #[arg(long, default_value_t = 10_000)]
    sessions: u32,
    /// Number of client connections that the users share.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Run with 1,000 users.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ConformanceArgs {
    /// Number of runs against each listener.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct SoakArgs {
    /// Protocols that the clients speak.
    #[arg(long, value_delimiter = ',', default_value = "h1,tls,h2c,h2")]
    protocols: Vec<soak::Protocol>,
    /// Time under load, in seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(20..=86_400))]
    seconds: u64,
    /// Warm-up before memory is measured, in seconds [default: a quarter of the time, at most 120].
    #[arg(long)]
    warm_up: Option<u64>,
    /// Time between two memory samples, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Time between two reloads, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    reload: u64,
    /// Time between two restarts of a backend, in seconds.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    restart: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Homing binary [default: build it from source].
    #[arg(long)]
    homing: Option<PathBuf>,
    /// Another Homing binary to compare with, such as that of an earlier commit. Only for wrk and h2load.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Also write the result to bench/results.
    #[arg(long)]
    save: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    Blind,
    Nginx,
    Haproxy,
    Homing,
    /// Homing without its table (`remember = "none"`).
    HomingRing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PeerName {
    All,
    Nginx,
    Haproxy,
    Homing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CaseName {
    Small,
    Browser,
    Conn512,
    Post,
    Large,
    Tls,
    Resume,
    Idle,
}

impl CaseName {
    /// Returns the case for wrk, or `None` for `idle`, which does not use wrk.
    fn load(self) -> Option<Box<dyn cost::Case>> {
        let case = wrk::Case::from_str(self.to_possible_value()?.get_name(), false).ok()?;
        Some(Box::new(case))
    }
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::StaticBackends { body_length } => cost::serve_static_backends(body_length),
        Command::BlindCopy { listen, backends } => blind_copy::run(listen, &backends),
        Command::Wrk(args) => interrupt::listen().and_then(|()| run_wrk(&args)),
        Command::H2load(args) => interrupt::listen().and_then(|()| run_h2load(&args)),
        Command::Affinity(args) => interrupt::listen().and_then(|()| run_affinity(&args)),
        Command::Conformance(args) => interrupt::listen().and_then(|()| run_conformance(&args)),
        Command::Soak(args) => interrupt::listen().and_then(|()| run_soak(&args)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("homing-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_wrk(args: &WrkArgs) -> Result<()> {
    require("wrk")?;
    let all = [Name::Blind, Name::Nginx, Name::Haproxy, Name::Homing];
    let names = if args.only.is_empty() { all.to_vec() } else { args.only.clone() };
    let products = products(&names, &args.common)?;
    let cases = if args.case.is_empty() { CaseName::value_variants().to_vec() } else { args.case.clone() };
    let plan = cost::Plan {
        length: Duration::from_secs(args.seconds),
        rounds: args.rounds,
        cases: cases.iter().filter_map(|case| case.load()).collect(),
        idle: if cases.contains(&CaseName::Idle) { args.connections as usize } else { 0 },
        pin: !args.no_pin,
    };
    let before = args.common.before.clone().map(|path| Homing::new(Some(path))).transpose()?;
    let mut subjects: Vec<_> = before.iter().map(|homing| compared(homing, Affinity::Table)).collect();
    subjects.extend(names.iter().zip(&products).map(|(name, product)| match name {
        Name::Blind | Name::Nginx | Name::Haproxy => {
            cost::Subject::new(product.name(), product.as_ref(), Affinity::HashCookie)
        }
        Name::Homing => cost::Subject::new("Homing", product.as_ref(), Affinity::Table),
        Name::HomingRing => cost::Subject::new("Homing (ring)", product.as_ref(), Affinity::HashCookie),
    }));
    run_cost("wrk", "What a request costs", &plan, subjects, args.common.save)
}

fn run_h2load(args: &H2loadArgs) -> Result<()> {
    require("h2load")?;
    let products = products(&peers(&args.only), &args.common)?;
    let cases =
        if args.case.is_empty() { h2load::Case::value_variants().to_vec() } else { args.case.clone() };
    let boxed = |case| -> Box<dyn cost::Case> { Box::new(case) };
    let plan = cost::Plan {
        length: Duration::from_secs(args.seconds),
        rounds: args.rounds,
        cases: cases.into_iter().map(boxed).collect(),
        idle: 0,
        pin: !args.no_pin,
    };
    // h2load sends the same headers with all requests, so only the address can be the key.
    let before = args.common.before.clone().map(|path| Homing::new(Some(path))).transpose()?;
    let mut subjects: Vec<_> = before.iter().map(|homing| compared(homing, Affinity::Address)).collect();
    subjects.extend(
        products
            .iter()
            .map(|product| cost::Subject::new(product.name(), product.as_ref(), Affinity::Address)),
    );
    run_cost("h2load", "What an HTTP/2 request costs", &plan, subjects, args.common.save)
}

/// Returns the subject for `--before`.
fn compared(homing: &Homing, affinity: Affinity) -> cost::Subject<'_> {
    cost::Subject::new(cost::BEFORE, homing, affinity)
}

fn run_cost(
    what: &str,
    title: &str,
    plan: &cost::Plan,
    mut subjects: Vec<cost::Subject<'_>>,
    save: bool,
) -> Result<()> {
    let load = facts::load();
    cost::run(plan, &mut subjects)?;
    let how = format!(
        "{} rounds of {} s, interleaved; one worker each; load average {load} at the start",
        plan.rounds,
        plan.length.as_secs()
    );
    let products: Vec<&dyn Product> = subjects.iter().map(|subject| subject.product).collect();
    publish(what, title, &how, &products, &cost::report(plan, &subjects), save)
}

/// Resolves these names to proxies.
fn peers(names: &[PeerName]) -> Vec<Name> {
    if names.contains(&PeerName::All) {
        return vec![Name::Nginx, Name::Haproxy, Name::Homing];
    }
    let name = |peer: &PeerName| Name::from_str(peer.to_possible_value()?.get_name(), false).ok();
    names.iter().filter_map(name).collect()
}

fn run_affinity(args: &AffinityArgs) -> Result<()> {
    let names = peers(&args.proxy);
    let products = products(&names, &args.common)?;
    let mut subjects = vec![];
    for (name, product) in names.iter().zip(&products) {
        for affinity in affinities(*name) {
            if args.setup.is_empty() || args.setup.iter().any(|setup| setup == affinity.name()) {
                subjects.push(affinity::Subject { product: product.as_ref(), affinity: *affinity });
            }
        }
    }
    if subjects.is_empty() {
        bail!("unknown setup {}: none of these proxies has it", args.setup.join(", "));
    }
    let plan = affinity::Plan {
        sessions: if args.quick { 1000 } else { args.sessions },
        clients: args.clients,
        scenarios: match args.scenario.as_slice() {
            [] => Scenario::value_variants().to_vec(),
            chosen => chosen.to_vec(),
        },
    };
    let table = affinity::run(&plan, &subjects)?;
    let how = format!("{} sessions over {} client connections, 5 backends", plan.sessions, plan.clients);
    let products: Vec<&dyn Product> = products.iter().map(Box::as_ref).collect();
    publish("affinity", "Which sessions break", &how, &products, &table, args.common.save)
}

fn run_conformance(args: &ConformanceArgs) -> Result<()> {
    let homing = Homing::new(args.common.homing.clone())?;
    let plan = conformance::Plan { homing: homing.binary().to_owned(), rounds: args.rounds };
    let verdict = conformance::run(&plan)?;
    let how = format!("h2spec --strict, the worst result of {} runs", args.rounds);
    publish("conformance", "HTTP/2 conformance", &how, &[&homing], &verdict.text, args.common.save)?;
    if !verdict.wrong.is_empty() {
        bail!("h2spec results do not match the list of deviations:\n{}", verdict.wrong.join("\n"));
    }
    Ok(())
}

fn run_soak(args: &SoakArgs) -> Result<()> {
    let homing = Homing::new(args.common.homing.clone())?;
    let mut protocols = args.protocols.clone();
    protocols.sort_unstable();
    protocols.dedup();
    let plan = soak::Plan {
        protocols,
        length: Duration::from_secs(args.seconds),
        warm_up: Duration::from_secs(args.warm_up.unwrap_or_else(|| (args.seconds / 4).min(120))),
        interval: Duration::from_secs(args.interval),
        reload: Duration::from_secs(args.reload),
        restart: Duration::from_secs(args.restart),
    };
    let outcome = soak::run(&plan, homing.binary())?;
    let how = format!("{} s, two workers; load average {} at the end", args.seconds, facts::load());
    publish("soak", "Soak test", &how, &[&homing], &outcome.report, args.common.save)?;
    if !outcome.good {
        bail!("soak test failed; see the report above");
    }
    Ok(())
}

/// Returns the kinds of affinity to compare for this proxy.
fn affinities(name: Name) -> &'static [Affinity] {
    match name {
        Name::Blind | Name::HomingRing => &[],
        Name::Nginx => &[Affinity::HashCookie, Affinity::HashIp],
        Name::Haproxy => &[Affinity::HashCookie, Affinity::StickTable, Affinity::InsertCookie],
        Name::Homing => &[Affinity::HashIp, Affinity::Table, Affinity::SealedCookie],
    }
}

fn products(names: &[Name], common: &Common) -> Result<Vec<Box<dyn Product>>> {
    let product = |name: &Name| -> Result<Box<dyn Product>> {
        Ok(match name {
            Name::Blind => Box::new(Blind),
            Name::Nginx => {
                require("nginx")?;
                Box::new(Nginx)
            }
            Name::Haproxy => {
                require("haproxy")?;
                Box::new(Haproxy)
            }
            Name::Homing | Name::HomingRing => Box::new(Homing::new(common.homing.clone())?),
        })
    };
    names.iter().map(product).collect()
}

fn require(program: &str) -> Result<()> {
    if !process::installed(program) {
        bail!("{program} not found; install it with `apt-get install -y nginx haproxy wrk nghttp2-client`");
    }
    Ok(())
}

/// Prints a result with the machine and versions it was measured on, and saves it if asked.
fn publish(
    what: &str,
    title: &str,
    how: &str,
    products: &[&dyn Product],
    tables: &str,
    save: bool,
) -> Result<()> {
    let mut text = format!("# {title}\n\n{}- {how}\n", facts::machine());
    for product in products {
        let version = product.version().with_context(|| product.name())?;
        let _ = writeln!(text, "- {}: {version}", product.name());
    }
    let _ = write!(text, "\n{tables}");
    println!("{text}");
    if save {
        eprintln!("saved to {}", facts::save(what, &text)?.display());
    }
    Ok(())
}
