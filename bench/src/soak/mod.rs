//! The soak: everything at once for minutes, and whether memory stays flat.

mod backends;
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
use load::{Kind, Load};
pub use target::Protocol;
use target::Target;
use verdict::{Sample, Trend};

/// Bindings the table holds: few, so that it is full when the warm-up is over.
const ENTRIES: usize = 2_000;
/// How long whatever the load held may take to go after it.
const SETTLE: Duration = Duration::from_secs(20);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the clients speak.
    pub protocols: Vec<Protocol>,
    /// Time under load.
    pub length: Duration,
    /// Time of it that does not count.
    pub warm_up: Duration,
    /// Between two samples.
    pub interval: Duration,
    /// Between two reloads.
    pub reload: Duration,
    /// Between two restarts of a backend; it is away for half a second.
    pub restart: Duration,
}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// As Markdown.
    pub report: String,
    /// Is memory flat, nothing left over and no request failed that must not?
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

    /// Every other version has one backend less, and other timeouts.
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

    /// The sum of the samples of these metrics.
    fn metrics<const N: usize>(&self, names: [&str; N]) -> Result<[u64; N]> {
        let mut stream = TcpStream::connect(self.admin).context("the admin listener")?;
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

/// Runs it with this binary.
pub fn run(plan: &Plan, binary: &Path) -> Result<Outcome> {
    if plan.warm_up >= plan.length {
        bail!("the warm-up is longer than the run");
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
        bail!("it does not listen:\n{}", process.printed());
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
    let in_order = process.stop()?;

    let measured: Vec<Sample> = samples.iter().copied().filter(|sample| sample.at >= plan.warm_up).collect();
    let trend = Trend::of(&measured).context("too few samples after the warm-up")?;
    // A POST, a large response or an abort may meet a restart; a GET may not.
    let must_not_fail =
        load.groups.iter().filter(|group| matches!(group.kind, Kind::Kept | Kind::New | Kind::Socket));
    let lost: u64 = must_not_fail.map(|group| group.tally.failed.load(Ordering::Relaxed)).sum();
    // A protocol that did nothing says nothing.
    let idle_groups =
        load.groups.iter().filter(|group| group.tally.done.load(Ordering::Relaxed) == 0).count();
    let good = trend.is_flat() && gone && in_order && lost == 0 && idle_groups == 0;

    let mut report = table(&samples);
    let _ = writeln!(report);
    let _ = writeln!(report, "{}", clients(&load));
    let megabytes = |bytes: f64| bytes / 1024.0 / 1024.0;
    let _ = writeln!(
        report,
        "- {reloads} reloads, {restarts} restarts of a backend\n\
         - idle before: {} KiB, {} descriptors; after: {} KiB, {} descriptors{}\n\
         - after the warm-up of {} s: {:+.2} MiB in {} s ({:+.2} MiB an hour; up to {:.2} MiB are noise)\n\
         - **{}**: {}",
        idle.resident / 1024,
        idle.descriptors,
        after.resident / 1024,
        after.descriptors,
        if gone { "" } else { ", and connections were left over" },
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
    );
    Ok(Outcome { report, good })
}

fn clients(load: &Load) -> Table {
    let mut table = Table::new(["clients", "speak", "number", "rounds", "failed"]);
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

/// At most twenty of the samples.
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
