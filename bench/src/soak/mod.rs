//! Soak test: runs every kind of load at once for minutes and checks that memory stays flat.

mod backends;
mod kind;
mod load;
mod streams;
mod target;
mod verdict;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::http_server::Server;
use crate::process::{Cpu, Process, free_address};
use crate::table::{Table, grouped};
use crate::{interrupt, procfs};

use backends::ByPath;
use kind::Kind;
use load::Load;
pub use target::Protocol;
use target::Target;
use verdict::{Sample, Trend};

/// Table size: small, so that the table is full before the warm-up ends.
const ENTRIES: usize = 2_000;
/// Time for connections and tunnels to close after the load has stopped.
const SETTLE: Duration = Duration::from_secs(20);

/// The parameters of a run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Protocols that the clients speak.
    pub protocols: Vec<Protocol>,
    /// Time under load.
    pub length: Duration,
    /// Warm-up at the start, which is not measured.
    pub warm_up: Duration,
    /// Time between two samples.
    pub interval: Duration,
    /// Time between two reloads.
    pub reload: Duration,
    /// Time between two restarts of a backend. Each takes half a second.
    pub restart: Duration,
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The report, as Markdown.
    pub report: String,
    /// True if memory is flat, everything was closed at the end, and no request failed that
    /// must not fail.
    pub good: bool,
}

struct Scene {
    dir: tempfile::TempDir,
    listen: SocketAddr,
    secure: SocketAddr,
    admin: SocketAddr,
    web: Vec<SocketAddr>,
    chat: SocketAddr,
}

impl Scene {
    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("proxy.toml")
    }

    fn pem(&self) -> std::path::PathBuf {
        self.dir.path().join("server.pem")
    }

    /// Writes a version of the configuration. Odd versions have one backend less, and the
    /// timeouts vary.
    fn write(&self, version: u64) -> Result<()> {
        let mut text = format!(
            "[server]\nworkers = 2\nadmin = \"{}\"\nshutdown_grace = \"5s\"\n[timeouts]\nresponse_head = \"{}s\"\n\
             [[listener]]\nbind = \"{}\"\n[[listener]]\nbind = \"{}\"\ntls = {{ certs = [\"{}\"] }}\n[[route]]\npath = \"/\"\nupstream = \"web\"\n\
             [[route]]\npath = \"/chat\"\nupstream = \"chat\"\n\
             [upstream.chat]\nhealth_check = false\nbackends = [\"{}\"]\n\
             [upstream.web.affinity]\nkey = [\"cookie:SID\"]\nremember = \"table\"\ntable = {{ max_entries = {ENTRIES} }}\n\
             [upstream.web.health_check]\npath = \"/healthz\"\ninterval = \"500ms\"\nfast_interval = \"100ms\"\n",
            self.admin,
            30 + version % 7,
            self.listen,
            self.secure,
            self.pem().display(),
            self.chat
        );
        let there = if version.is_multiple_of(2) { self.web.len() } else { self.web.len() - 1 };
        for (number, address) in self.web[..there].iter().enumerate() {
            let _ = write!(text, "[[upstream.web.backend]]\nid = \"b{number}\"\naddress = \"{address}\"\n");
        }
        Ok(fs::write(self.file(), text)?)
    }

    /// Reads these metrics and returns the sum of the samples of each.
    fn metrics<const N: usize>(&self, names: [&str; N]) -> Result<[u64; N]> {
        let mut stream = TcpStream::connect(self.admin).context("connect to the admin listener")?;
        stream.set_read_timeout(Some(SETTLE))?;
        let host = self.admin;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(names.map(|name| {
            let value = |line: &str| {
                let rest = line.strip_prefix(name)?;
                let value = rest.rsplit(' ').next().filter(|_| rest.starts_with(['{', ' ']))?;
                value.trim().parse::<u64>().ok()
            };
            page.lines().filter_map(value).sum()
        }))
    }

    fn sample(&self, process: &Process, at: Duration) -> Result<Sample> {
        let [entries, tunnels] = self.metrics(["homing_table_entries", "homing_tunnels"])?;
        Ok(Sample {
            at,
            resident: procfs::usage(process.pid())?.resident,
            descriptors: fs::read_dir(format!("/proc/{}/fd", process.pid()))?.count(),
            entries,
            tunnels,
        })
    }
}

/// Runs the soak test with this binary.
pub fn run(plan: &Plan, binary: &Path) -> Result<Outcome> {
    if plan.warm_up >= plan.length {
        bail!("the warm-up must be shorter than the run");
    }
    let address = |last| free_address([127, 0, 0, last]);
    let scene = Scene {
        dir: tempfile::tempdir()?,
        listen: address(21)?,
        secure: address(28)?,
        admin: address(22)?,
        web: (23..27).map(address).collect::<Result<_>>()?,
        chat: address(27)?,
    };
    let start = |index: usize| Server::start(&scene.web[index..=index], ByPath);
    let mut servers: Vec<_> =
        (0..scene.web.len()).map(|index| start(index).map(Some)).collect::<Result<_>>()?;
    backends::echo(scene.chat)?;
    let target = Target::new(scene.listen, scene.secure, &scene.pem())?;
    scene.write(0)?;
    let mut command = Command::new(binary);
    command.args(["run", "--config"]).arg(scene.file());
    let mut process = Process::spawn(&command, Cpu::Any, &scene.dir.path().join("output"), Signal::TERM)?;
    let up = interrupt::until(SETTLE, || {
        process.alive()?;
        Ok(TcpStream::connect(scene.listen).is_ok() && scene.metrics(["homing_info"]).is_ok())
    });
    if !up? {
        bail!("Homing did not start within {SETTLE:?}:\n{}", process.printed());
    }
    let idle = scene.sample(&process, Duration::ZERO)?;

    let (began, mut load) = (Instant::now(), Load::start(&target, &plan.protocols)?);
    let mut samples: Vec<Sample> = vec![];
    let (mut reloads, mut restarts) = (0, 0);
    let (mut reload_at, mut restart_at) = (plan.reload, plan.restart);
    while began.elapsed() < plan.length {
        interrupt::pause(Duration::from_millis(50))?;
        process.alive()?;
        let now = began.elapsed();
        if now >= reload_at {
            reloads += 1;
            reload_at += plan.reload;
            scene.write(reloads)?;
            process.signal(Signal::HUP)?;
        }
        if now >= restart_at {
            servers[0] = None;
            if now >= restart_at + Duration::from_millis(500) {
                restarts += 1;
                restart_at += plan.restart;
                servers[0] = Some(start(0)?);
            }
        }
        if now >= plan.interval * u32::try_from(samples.len() + 1)? {
            let sample = scene.sample(&process, now)?;
            let (at, kib) = (now.as_secs(), sample.resident / 1024);
            let Sample { descriptors, entries, tunnels, .. } = sample;
            eprintln!(
                "{at:>5} s  {kib:>7} KiB  {descriptors:>4} descriptors  {entries:>5} entries  {tunnels:>3} tunnels"
            );
            samples.push(sample);
        }
    }
    load.stop();
    let mut after = scene.sample(&process, began.elapsed())?;
    let gone = interrupt::until(SETTLE, || {
        after = scene.sample(&process, began.elapsed())?;
        let [connections] = scene.metrics(["homing_connections"])?;
        Ok(connections == 0 && after.tunnels == 0)
    })?;
    let graceful = process.stop()?;

    let measured: Vec<Sample> = samples.iter().copied().filter(|sample| sample.at >= plan.warm_up).collect();
    let trend = Trend::of(&measured).context("fewer than six samples after the warm-up")?;
    // A restart may break a POST, a large response or an abort, but not a GET.
    let must_not_fail =
        load.groups.iter().filter(|group| matches!(group.kind, Kind::Kept | Kind::New | Kind::Socket));
    let lost: u64 = must_not_fail.map(|group| group.tally.failed.load(Ordering::Relaxed)).sum();
    // A group without a single finished round proves nothing.
    let idle_groups =
        load.groups.iter().filter(|group| group.tally.done.load(Ordering::Relaxed) == 0).count();
    let good = trend.is_flat() && gone && graceful && lost == 0 && idle_groups == 0;

    let mut report = table(&samples);
    let _ = writeln!(report);
    let _ = writeln!(report, "{}", clients(&load));
    let megabytes = |bytes: f64| bytes / 1024.0 / 1024.0;
    let _ = writeln!(
        report,
        "- {reloads} reloads, {restarts} restarts of a backend\n\
         - idle before the load: {} KiB, {} descriptors; after it: {} KiB, {} descriptors{}\n\
         - after the warm-up of {} s: {:+.2} MiB in {} s ({:+.2} MiB per hour; up to {:.2} MiB is noise)\n\
         - **{}**: {}{}",
        idle.resident / 1024,
        idle.descriptors,
        after.resident / 1024,
        after.descriptors,
        if gone { "" } else { "; connections or tunnels are still open" },
        plan.warm_up.as_secs(),
        megabytes(trend.grown),
        plan.length.saturating_sub(plan.warm_up).as_secs(),
        megabytes(trend.per_hour),
        megabytes(trend.noise),
        if trend.is_flat() { "memory is flat" } else { "memory grows" },
        if lost == 0 {
            "no GET and no WebSocket failed".to_owned()
        } else {
            format!("{lost} GETs or WebSockets failed")
        },
        if graceful { "" } else { "; the process had to be killed" },
    );
    Ok(Outcome { report, good })
}

fn clients(load: &Load) -> Table {
    let mut table = Table::new(["clients", "protocol", "number", "completed rounds", "failed rounds"]);
    for group in &load.groups {
        let count = |counter: &AtomicU64| grouped(counter.load(Ordering::Relaxed));
        table.row([
            group.name.to_owned(),
            group.protocol.name().to_owned(),
            group.clients.to_string(),
            count(&group.tally.done),
            count(&group.tally.failed),
        ]);
    }
    table
}

/// Formats at most twenty of the samples as a table.
fn table(samples: &[Sample]) -> String {
    let mut table = Table::new(["s", "RSS KiB", "descriptors", "table", "tunnels"]);
    for sample in samples.iter().step_by(samples.len().div_ceil(20).max(1)) {
        table.row([
            sample.at.as_secs().to_string(),
            grouped(sample.resident / 1024),
            sample.descriptors.to_string(),
            grouped(sample.entries),
            sample.tunnels.to_string(),
        ]);
    }
    table.to_string()
}
