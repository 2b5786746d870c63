//! Measures what a request costs: wrk or h2load through each proxy in turn.
//!
//! Subjects run interleaved (A B C D A B C D …) and start fresh each time, so that other
//! activity on the machine affects all of them equally. Figures are medians over the rounds.
//! Ratios are computed within a round first.

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

/// Number of backends.
const BACKENDS: u8 = 3;

/// Length of the warm-up load, which opens connections and fills caches.
const WARM_UP: Duration = Duration::from_millis(500);

/// The name of the Homing binary that another one is compared with.
pub const BEFORE: &str = "Homing before";

/// A kind of load.
pub trait Case {
    /// Returns its name in tables.
    fn name(&self) -> &'static str;

    /// Returns the description for the report.
    fn description(&self) -> &'static str;

    /// Returns the client protocol.
    fn front(&self) -> Front {
        Front::Http1
    }

    /// Returns the number of client connections.
    fn connections(&self) -> usize;

    /// Returns the length of the response body, in bytes.
    fn response_length(&self) -> usize;

    /// Returns the names of the latencies in [`Output::latency`].
    fn latencies(&self) -> &'static [&'static str];

    /// Runs the load against a proxy for this time.
    fn run(&self, address: SocketAddr, length: Duration, cpu: Cpu) -> Result<Output>;
}

/// The parameters of a run.
pub struct Plan {
    /// Length of one measurement.
    pub length: Duration,
    /// Number of measurements per subject and case.
    pub rounds: u32,
    /// Cases to run.
    pub cases: Vec<Box<dyn Case>>,
    /// Number of connections in the `idle` case; 0 skips it.
    pub idle: usize,
    /// True to pin the proxy and the load to separate CPUs.
    pub pin: bool,
}

/// The result of one measurement.
#[derive(Debug, Clone)]
pub struct Measurement {
    /// Result of the load generator.
    pub output: Output,
    /// The proxy's CPU time in user mode.
    pub user: Duration,
    /// The proxy's CPU time in the kernel.
    pub system: Duration,
}

impl Measurement {
    /// Returns the CPU time per request, in µs.
    pub fn cpu(&self) -> f64 {
        micros(self.user + self.system) / self.requests()
    }

    /// Returns the user mode part of the CPU time per request, in µs.
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

/// A product and its measurements.
pub struct Subject<'p> {
    /// Name in tables.
    pub name: &'static str,
    /// The product.
    pub product: &'p dyn Product,
    /// The kind of affinity.
    pub affinity: Affinity,
    /// Measurements by case (in the order of the plan) and round. Empty for cases that the
    /// product does not support.
    pub measured: Vec<Vec<Measurement>>,
    /// Resident bytes per idle connection.
    pub idle: Option<f64>,
}

impl<'p> Subject<'p> {
    /// Creates a subject without measurements.
    pub fn new(name: &'static str, product: &'p dyn Product, affinity: Affinity) -> Self {
        Self { name, product, affinity, measured: vec![], idle: None }
    }
}

/// Runs the plan and stores the results in the subjects.
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
                    "{} {round}/{}: {name}: {:.0} requests/s, {:.1} µs CPU per request, {} errors",
                    case.name(),
                    plan.rounds,
                    measured.output.per_second(),
                    measured.cpu(),
                    measured.output.errors.total()
                );
                subject.measured.last_mut().context("subject without a case")?.push(measured);
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
            eprintln!("idle: {name}: {bytes:.0} bytes per connection");
            subject.idle = Some(bytes);
        }
    }
    Ok(())
}

/// CPU placement of the proxy and of the load with its backends.
#[derive(Debug, Clone, Copy)]
struct Cpus {
    proxy: Cpu,
    load: Cpu,
}

impl Cpus {
    fn choose(pin: bool) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        if pin && cpus >= 2 {
            // With more than two CPUs, the load and the backends can run in parallel.
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

/// The static backends, in a separate process so that they can be pinned to a CPU.
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
            bail!("the static backends did not start:\n{}", process.printed());
        }
        Ok(Self { _process: process, _dir: dir, addresses })
    }
}

/// Runs the process behind [`BackendProcess`]: prints its addresses and serves.
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
