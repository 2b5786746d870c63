//! Tries what a start does, without changing anything: for `homing check`.

use std::io;
use std::net::ToSocketAddrs;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::error::AppError;
use super::tables;
use crate::model::{Address, Bind, Config, LogFormat, LogOutput};
use crate::proxy::client::listener;
use crate::telemetry::AccessLog;

/// How long all names of backends may take to resolve.
const NAMES: Duration = Duration::from_secs(5);

/// What a start with a configuration would meet on this machine, each with its help lines.
#[derive(Debug, Default)]
pub struct Rehearsal {
    /// What would stop it.
    pub errors: Vec<String>,
    /// What it would report and survive.
    pub warnings: Vec<String>,
}

/// Tries the addresses, the access log, the files of the tables, and the names of the backends.
/// An address in use is no error: a running Homing may use it.
pub fn rehearse(config: &Config) -> Rehearsal {
    let mut found = Rehearsal::default();
    let admin = config.server.admin.map(Bind::from);
    for address in config.listeners.iter().map(|listener| listener.bind.clone()).chain(admin) {
        match listener::rehearse(&address) {
            Err(source) if source.kind() != io::ErrorKind::AddrInUse => {
                found.errors.push(AppError::Bind { address, source }.to_string());
            }
            _ => {}
        }
    }
    if let (true, LogOutput::File(path)) =
        (config.access_log.format != LogFormat::Off, &config.access_log.output)
        && let Err(error) = AccessLog::rehearse(path)
    {
        found.errors.push(AppError::AccessLog { path: path.clone(), error }.to_string());
    }
    found.warnings.extend(tables::unsavable(config));
    found.warnings.extend(unresolved(config));
    found
}

/// Resolves the names of all backends at once. Returns a warning for each that has no address.
fn unresolved(config: &Config) -> Vec<String> {
    let backends =
        config.upstreams.iter().flat_map(|upstream| upstream.backends.iter().map(move |b| (upstream, b)));
    let (sender, answers) = mpsc::channel();
    let mut waiting = Vec::new();
    for (upstream, backend) in backends {
        let Address::Name(name, port) = &backend.address else { continue };
        let (place, sender) = (format!("{}/{}", upstream.name, backend.id), sender.clone());
        let target = (name.clone(), *port);
        let asked = place.clone();
        // A thread for each, because a resolver may take long to give up.
        let spawned = std::thread::Builder::new().spawn(move || {
            let answer = target.to_socket_addrs().map(|mut found| found.next().is_some());
            let _ = sender.send((asked, answer));
        });
        if spawned.is_ok() {
            waiting.push((place, name.clone()));
        }
    }
    drop(sender);
    let (until, mut problems) = (Instant::now() + NAMES, Vec::new());
    while !waiting.is_empty() {
        let Ok((place, answer)) = answers.recv_timeout(until.saturating_duration_since(Instant::now()))
        else {
            break;
        };
        let Some(index) = waiting.iter().position(|(waiting, _)| *waiting == place) else { continue };
        let (_, name) = waiting.remove(index);
        match answer {
            Ok(true) => {}
            Ok(false) => problems.push(cannot_resolve(&place, &name, "it has no address")),
            Err(error) => problems.push(cannot_resolve(&place, &name, &error.to_string())),
        }
    }
    problems.extend(waiting.iter().map(|(place, name)| cannot_resolve(place, name, "no answer in time")));
    problems.sort();
    problems
}

fn cannot_resolve(place: &str, name: &str, why: &str) -> String {
    format!(
        "cannot resolve \"{name}\" of backend {place}: {why}\nhelp: Homing starts, but the backend is down until its name resolves"
    )
}
