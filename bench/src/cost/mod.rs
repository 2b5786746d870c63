//! What a request costs: wrk or h2load through each proxy in turn.
//!
//! Subjects are run interleaved (A B C D A B C D …), each started afresh, so
//! that what the machine does meanwhile hits all of them alike. Figures are
//! medians over the rounds; ratios are taken within a round first.

pub mod h2load;
mod idle;
mod output;
mod report;
pub mod wrk;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::http_server::Server;
use crate::process::{Cpu, Process, free_address};
use crate::proxies::{Affinity, Backend, Front, Product, Proxy, Setup};
use crate::{procfs, static_backend};

use output::Output;
pub use report::report;

/// How many backends there are.
const BACKENDS: u8 = 3;

/// Load before the measurement, for connections and caches.
const WARM_UP: Duration = Duration::from_millis(500);

/// A shape of load.
pub trait Case {
    /// Its name in tables.
    fn name(&self) -> &'static str;

    /// What it is, for the reader of a table.
    fn description(&self) -> &'static str;

    /// What clients speak.
    fn front(&self) -> Front {
        Front::Http1
    }

    /// Client connections.
    fn connections(&self) -> usize;

    /// Length of the response's body.
    fn response_length(&self) -> usize;

    /// What the latencies in the output are.
    fn latencies(&self) -> &'static [&'static str];

    /// Puts a proxy under load for so long.
    fn run(&self, address: SocketAddr, length: Duration, cpu: Cpu) -> Result<Output>;
}

/// What is asked for.
pub struct Plan {
    /// Length of one measurement.
    pub length: Duration,
    /// Measurements of each subject in each case.
    pub rounds: u32,
    /// The cases.
    pub cases: Vec<Box<dyn Case>>,
    /// Connections in the `idle` case; 0: it is left out.
    pub idle: usize,
    /// Are the proxy and its load kept on CPUs of their own?
    pub pin: bool,
}

/// What one measurement says.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// What the client saw.
    pub output: Output,
    /// The proxy's CPU time in user mode meanwhile.
    pub user: Duration,
    /// The proxy's CPU time in the kernel meanwhile.
    pub system: Duration,
}

impl Measurement {
    /// CPU time for one request, in µs.
    pub fn cpu(&self) -> f64 {
        micros(self.user + self.system) / self.requests()
    }

    /// The part of it in user mode, in µs.
    pub fn user(&self) -> f64 {
        micros(self.user) / self.requests()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn requests(&self) -> f64 {
        self.output.requests.max(1) as f64
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A product and its CPU figures: `[round]` for each case, memory apart.
pub struct Subject<'p> {
    /// Its name in tables.
    pub name: &'static str,
    /// The product.
    pub product: &'p dyn Product,
    /// How sessions are tied to backends.
    pub affinity: Affinity,
    /// By case, as in the plan, and round; none of a case that it does not take.
    pub measured: Vec<Vec<Measurement>>,
    /// Bytes for one idle connection.
    pub idle: Option<f64>,
}

impl<'p> Subject<'p> {
    /// A subject that has not been measured.
    pub fn new(name: &'static str, product: &'p dyn Product, affinity: Affinity) -> Self {
        Self { name, product, affinity, measured: vec![], idle: None }
    }
}

/// Runs the plan; results go into the subjects.
pub fn run(plan: &Plan, subjects: &mut [Subject<'_>]) -> Result<()> {
    let cpus = Cpus::choose(plan.pin);
    for case in &plan.cases {
        for subject in subjects.iter_mut() {
            subject.measured.push(vec![]);
        }
        for round in 1..=plan.rounds {
            for subject in subjects.iter_mut() {
                if !subject.product.takes(case.front()) {
                    continue;
                }
                let name = subject.name;
                let measured = measure(plan, case.as_ref(), subject, cpus)
                    .with_context(|| format!("{name}, case {}", case.name()))?;
                eprintln!(
                    "{} {round}/{}: {name}: {:.0} requests/s, {:.1} µs CPU a request, {} errors",
                    case.name(),
                    plan.rounds,
                    measured.output.per_second(),
                    measured.cpu(),
                    measured.output.errors.total()
                );
                subject.measured.last_mut().context("no case")?.push(measured);
            }
        }
    }
    if plan.idle > 0 {
        for subject in subjects.iter_mut() {
            let name = subject.name;
            let backends = BackendProcess::start(idle::RESPONSE, cpus.load)?;
            let proxy = start_proxy(subject, Front::Http1, &backends, plan.idle, cpus)?;
            let bytes =
                idle::bytes_per_connection(proxy, plan.idle).with_context(|| format!("{name}, case idle"))?;
            eprintln!("idle: {name}: {bytes:.0} bytes a connection");
            subject.idle = Some(bytes);
        }
    }
    Ok(())
}

/// Where things run.
#[derive(Debug, Clone, Copy)]
struct Cpus {
    proxy: Cpu,
    load: Cpu,
}

impl Cpus {
    fn choose(pin: bool) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if pin && cpus >= 2 {
            // With more than two there is room for the load and the backends side by side.
            Self { proxy: Cpu::Only(0), load: if cpus == 2 { Cpu::Only(1) } else { Cpu::Any } }
        } else {
            Self { proxy: Cpu::Any, load: Cpu::Any }
        }
    }
}

fn measure(plan: &Plan, case: &dyn Case, subject: &Subject<'_>, cpus: Cpus) -> Result<Measurement> {
    let backends = BackendProcess::start(case.response_length(), cpus.load)?;
    let mut proxy = start_proxy(subject, case.front(), &backends, case.connections(), cpus)?;
    let address = proxy.address();
    case.run(address, WARM_UP, cpus.load)?;
    let before = procfs::usage(proxy.process().pid())?;
    let output = case.run(address, plan.length, cpus.load)?;
    let after = procfs::usage(proxy.process().pid())?;
    proxy.process().alive()?;
    proxy.stop()?;
    Ok(Measurement {
        output,
        user: after.user.saturating_sub(before.user),
        system: after.system.saturating_sub(before.system),
    })
}

fn start_proxy<'p>(
    subject: &Subject<'p>,
    front: Front,
    backends: &BackendProcess,
    connections: usize,
    cpus: Cpus,
) -> Result<Proxy<'p>> {
    let backend = |(index, address): (usize, &SocketAddr)| Backend {
        id: format!("b{}", index + 1),
        address: *address,
        drain: false,
    };
    let side = free_address([127, 0, 0, 3])?;
    let setup = Setup {
        dir: TempDir::new()?,
        listen: free_address([127, 0, 0, 2])?,
        front,
        side,
        name: "one".into(),
        fleet: vec![("one".into(), side)],
        backends: backends.addresses.iter().enumerate().map(backend).collect(),
        affinity: subject.affinity,
        checks: false,
        connections,
        keys_file: "/nonexistent".into(),
    };
    Proxy::start(subject.product, setup, cpus.proxy)
}

/// The static backends, in a process of their own so that they can be kept on
/// a CPU.
struct BackendProcess {
    _process: Process,
    _dir: TempDir,
    addresses: Vec<SocketAddr>,
}

impl BackendProcess {
    fn start(body_length: usize, cpu: Cpu) -> Result<Self> {
        let dir = TempDir::new()?;
        let output = dir.path().join("backends");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["static-backends", &body_length.to_string()]);
        let mut process = Process::spawn(&command, cpu, &output, Signal::TERM)?;
        let mut addresses = vec![];
        crate::interrupt::until(Duration::from_secs(5), || {
            process.alive()?;
            let printed = process.printed();
            addresses = printed.lines().filter_map(|line| line.parse().ok()).collect();
            Ok(printed.ends_with("ready\n"))
        })?;
        if addresses.len() != usize::from(BACKENDS) {
            bail!("the static backends do not start:\n{}", process.printed());
        }
        Ok(Self { _process: process, _dir: dir, addresses })
    }
}

/// The process behind [`BackendProcess`]: prints its addresses and serves.
pub fn serve_static_backends(body_length: usize) -> Result<()> {
    let listen: Vec<SocketAddr> =
        (1..=BACKENDS).map(|index| SocketAddr::from(([127, 0, 1, index], 0))).collect();
    let server: Server = static_backend::start(&listen, body_length)?;
    for address in server.addresses() {
        println!("{address}");
    }
    println!("ready");
    server.serve();
    Ok(())
}

fn run_to_end(command: &Command, cpu: Cpu, output: &Path, patience: Duration) -> Result<String> {
    let mut process = Process::spawn(command, cpu, output, Signal::TERM)?;
    let status = process.wait(patience)?;
    let printed = process.printed();
    if !status.success() {
        bail!("{} failed ({status}):\n{printed}", command.get_program().display());
    }
    Ok(printed)
}
