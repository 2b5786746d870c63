//! `homing check`: prints all errors of a configuration file, or what a start would meet and its summary.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use super::status::{FAILED, GOOD, INVALID};
use crate::affinity::key::KeySource;
use crate::affinity::pick::Failover;
use crate::affinity::ring::Ring;
use crate::affinity::{BackendId, Seed, Weight};
use crate::app::Rehearsal;
use crate::config::{self, Diagnostics, LoadError, Loaded};
use crate::model::{
    Affinity, Bind, Config, HealthCheck, Listener, Probe, Protocol, ProxyProtocol, ProxyVersion, Upstream,
};
use crate::tls::{self, ClientSettings, MinVersion, Roots, Server};

/// Checks a file and rehearses a start with it. Returns the exit status and the output. `files` is the
/// limit of open files, `None` if unlimited.
pub fn run(
    path: &Path,
    colour: bool,
    files: Option<u64>,
    rehearse: impl FnOnce(&Config) -> Rehearsal,
) -> (u8, String) {
    match config::load(path) {
        Ok(loaded) => accepted(path, &loaded, colour, files, rehearse(&loaded.config)),
        Err(error) => (INVALID, refusal(path, &error, colour)),
    }
}

/// Renders the errors of a file for a terminal.
pub fn refusal(path: &Path, error: &LoadError, colour: bool) -> String {
    match error {
        LoadError::Invalid(diagnostics) => refused(path, diagnostics, colour),
        LoadError::Read { .. } => {
            let mut text = format!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                let _ = write!(text, ": {error}");
                cause = error.source();
            }
            text.push('\n');
            text
        }
    }
}

fn refused(path: &Path, diagnostics: &Diagnostics, colour: bool) -> String {
    let errors = diagnostics.errors();
    let warnings = diagnostics.iter().count() - errors;
    let mut counted = count(errors, "error");
    if warnings > 0 {
        let _ = write!(counted, ", {}", count(warnings, "warning"));
    }
    format!("{}\n{}: {counted}\n", diagnostics.render(colour), path.display())
}

fn accepted(
    path: &Path,
    loaded: &Loaded,
    colour: bool,
    files: Option<u64>,
    rehearsal: Rehearsal,
) -> (u8, String) {
    let mut text = String::new();
    if !loaded.warnings.is_empty() {
        let _ = writeln!(text, "{}", config::render_all(&loaded.warnings, colour));
    }
    let Rehearsal { errors, mut warnings } = rehearsal;
    warnings.extend(too_few_files(&loaded.config, files));
    warnings.extend(public_seed(&loaded.config));
    for (word, messages) in [("error", &errors), ("warning", &warnings)] {
        for message in messages {
            let _ = writeln!(text, "{word}: {message}\n");
        }
    }
    let mut verdict = if errors.is_empty() {
        "valid".to_owned()
    } else {
        "valid, but Homing cannot run with it here".to_owned()
    };
    for (number, noun) in [(errors.len(), "error"), (loaded.warnings.len() + warnings.len(), "warning")] {
        if number > 0 {
            let _ = write!(verdict, ", {}", count(number, noun));
        }
    }
    let _ = writeln!(text, "{}: {verdict}\n", path.display());
    summary(&mut text, &loaded.config);
    (if errors.is_empty() { GOOD } else { FAILED }, text)
}

/// Returns a warning if clients can compute which of their keys go to one backend.
fn public_seed(config: &Config) -> Option<String> {
    let chosen = |source: &KeySource| !matches!(source, KeySource::Ip | KeySource::ClientCert);
    let exposed = config.upstreams.iter().filter(|upstream| {
        let affinity = &upstream.affinity;
        affinity.seed == Seed::default() && upstream.backends.len() > 1 && affinity.key.iter().any(chosen)
    });
    let names: Vec<_> = exposed.map(|upstream| format!("`{}`", upstream.name)).collect();
    (!names.is_empty()).then(|| {
        format!(
            "the ring's seed is public in {}: a client can make up keys that all go to one backend\n\
             help: create a secret with `openssl rand -hex 16` and set affinity.ring.seed_file",
            names.join(", ")
        )
    })
}

/// Returns a warning if `limits.connections` needs more open files than `limit`
/// (`None` if unlimited).
pub(super) fn too_few_files(config: &Config, limit: Option<u64>) -> Option<String> {
    // A client may need a second descriptor for its backend; Homing itself needs a few.
    const OWN: u64 = 32;
    let workers = u64::try_from(config.server.workers.get()).unwrap_or(u64::MAX);
    let clients = u64::try_from(config.limits.connections).unwrap_or(u64::MAX);
    let needed = clients.saturating_mul(2).saturating_add(workers.saturating_mul(8)).saturating_add(OWN);
    let limit = limit.filter(|limit| *limit < needed)?;
    Some(format!(
        "limits.connections = {clients} may need {needed} open files, but the limit is {limit}; raise the limit \
         (ulimit -Hn, LimitNOFILE) or lower limits.connections"
    ))
}

/// Formats a number with its noun.
fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Writes a summary of the configuration.
fn summary(text: &mut String, config: &Config) {
    line(text, "workers", &config.server.workers.to_string());
    for (index, listener) in config.listeners.iter().enumerate() {
        let name = if index == 0 { "listeners" } else { "" };
        line(text, name, &listener_line(listener));
        certificates(text, listener);
    }
    line(text, "admin", &config.server.admin.map_or_else(|| "off".to_owned(), |admin| admin.to_string()));
    line(text, "client ip", &client_ip(config));
    for (index, route) in config.routes.iter().enumerate() {
        let upstream = config.upstreams.get(route.upstream).map_or("?", |upstream| &upstream.name);
        let name = if index == 0 { "routes" } else { "" };
        line(text, name, &format!("{}{} -> {upstream}", route.host, route.path));
    }
    for upstream in &config.upstreams {
        upstream_summary(text, upstream);
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{name:<12}{value}");
}

fn listener_line(listener: &Listener) -> String {
    let bind = bind_text(listener);
    if let Some(port) = listener.redirect_https {
        return format!("{bind}, redirects to https on port {port}");
    }
    let Some(settings) = &listener.tls else { return bind };
    let versions = match settings.min_version {
        MinVersion::Tls12 => "TLS 1.2 and 1.3",
        MinVersion::Tls13 => "TLS 1.3",
    };
    let clients = match &settings.client_auth {
        None => "",
        Some(auth) if auth.required => ", client certificates required",
        Some(_) => ", client certificates optional",
    };
    format!("{bind}, {versions}{clients}")
}

fn bind_text(listener: &Listener) -> String {
    let bind = match &listener.bind {
        Bind::Ip(address) => address.to_string(),
        unix @ Bind::Unix(_) => format!("{unix} (mode 0{:03o})", listener.mode),
    };
    match listener.proxy_protocol {
        ProxyProtocol::Off => bind,
        ProxyProtocol::Optional => format!("{bind}, PROXY protocol optional"),
        ProxyProtocol::Required => format!("{bind}, PROXY protocol required"),
    }
}

/// Writes a listener's certificates with their names and expiry.
fn certificates(text: &mut String, listener: &Listener) {
    let Some(server) = listener.tls.clone().map(Server::new) else { return };
    // Errors and warnings were reported with the file's.
    let _ = server.load(&tls::read);
    let Some(live) = server.live() else { return };
    let rows: Vec<_> = live
        .identities
        .iter()
        .map(|identity| {
            let file = identity.file.file_name().unwrap_or_default().display().to_string();
            let expiry = httpdate::fmt_http_date(identity.facts.not_after);
            [identity.names(), identity.algorithm(), format!("expires {expiry}"), file]
        })
        .collect();
    table(text, &rows);
}

fn client_ip(config: &Config) -> String {
    let policy = &config.client_ip;
    if policy.trusted.is_empty() {
        return "peer address".to_owned();
    }
    let fields: Vec<_> = policy.from.iter().map(|source| source.field()).collect();
    let trusted: Vec<_> = policy.trusted.iter().map(ToString::to_string).collect();
    format!("{} from {}, otherwise peer address", fields.join(" or "), trusted.join(", "))
}

fn upstream_summary(text: &mut String, upstream: &Upstream) {
    let affinity = &upstream.affinity;
    let _ = writeln!(text, "\nupstream {}", upstream.name);
    line(text, "  key", &key(affinity));
    line(text, "  remember", &remember(affinity));
    line(text, "  failover", &failover(affinity));
    if let Some(version) = upstream.proxy_protocol {
        let version = match version {
            ProxyVersion::V1 => "version 1",
            ProxyVersion::V2 => "version 2",
        };
        line(text, "  sends", &format!("PROXY header, {version}"));
    }
    if let Some(tls) = &upstream.tls {
        line(text, "  tls", &tls_to_backends(tls));
    }
    match upstream.protocol {
        Protocol::H1 => {}
        Protocol::H2 => line(text, "  protocol", "HTTP/2 over TLS"),
        Protocol::H2c => line(text, "  protocol", "HTTP/2 without TLS"),
    }
    line(text, "  checks", &upstream.health_check.as_ref().map_or_else(|| "none".to_owned(), check));
    if let Some(note) = note_on_checks(upstream) {
        line(text, "", &format!("note: {note}"));
    }
    let ring = ring(upstream);
    let shares = ring.shares();
    let points: u64 =
        (0u16..).zip(&upstream.backends).map(|(index, _)| u64::from(ring.points_of(index))).sum();
    let balance = peak_over_mean(upstream, &shares);
    line(text, "  ring", &format!("{points} points, peak/mean {balance:.3}, digest {:016x}", ring.digest()));
    let rows = upstream.backends.iter().zip(&shares).map(|(backend, share)| {
        [
            backend.id.to_string(),
            backend.address.to_string(),
            backend.weight.get().to_string(),
            backend.admin.as_str().to_owned(),
            format!("{:.1}%", share * 100.0),
        ]
    });
    let header = ["backend", "address", "weight", "state", "share"].map(str::to_owned);
    table(text, &std::iter::once(header).chain(rows).collect::<Vec<_>>());
}

/// Builds the ring of an upstream, as every proxy does.
pub(super) fn ring(upstream: &Upstream) -> Ring {
    let backends: Vec<(BackendId, Weight)> =
        upstream.backends.iter().map(|backend| (backend.id.clone(), backend.weight)).collect();
    Ring::build(upstream.affinity.seed, upstream.affinity.vnodes, &backends)
}

/// Returns the largest ratio of a backend's share to the share of its weight.
fn peak_over_mean(upstream: &Upstream, shares: &[f64]) -> f64 {
    let weight = |index: usize| upstream.backends.get(index).map_or(1.0, |b| f64::from(b.weight.get()));
    let total: f64 = (0..shares.len()).map(weight).sum();
    shares.iter().enumerate().map(|(index, share)| share * total / weight(index)).fold(0.0, f64::max)
}

fn key(affinity: &Affinity) -> String {
    if affinity.key.is_empty() {
        return "none, requests are load-balanced".to_owned();
    }
    let sources: Vec<_> = affinity.key.iter().map(ToString::to_string).collect();
    sources.join(", then ")
}

fn remember(affinity: &Affinity) -> String {
    let remember = &affinity.remember;
    let table = remember.table.as_ref().map(|table| {
        let file =
            table.file.as_ref().map_or_else(String::new, |file| format!(", saved to {}", file.display()));
        format!("table, {} sessions, {} idle{file}", table.max_entries, show(table.ttl))
    });
    let cookie = remember.cookie.as_ref().map(|cookie| {
        let keys = match cookie.keys.len() {
            0 => "random key".to_owned(),
            keys => count(keys, "key"),
        };
        let age = cookie.max_age.map_or_else(String::new, |age| format!(", at most {}", show(age)));
        format!("cookie {}{age}, {} idle, {keys}", cookie.name, show(cookie.max_idle))
    });
    let layers = if remember.cookie_first { [cookie, table] } else { [table, cookie] };
    let layers: Vec<_> = layers.into_iter().flatten().collect();
    if layers.is_empty() { "none, the hash decides".to_owned() } else { layers.join("; then ") }
}

fn tls_to_backends(settings: &ClientSettings) -> String {
    let ca = match &settings.ca {
        _ if !settings.verify => "not verified".to_owned(),
        Roots::Native => "verified against the system's CAs".to_owned(),
        Roots::File(path) => format!("verified against {}", path.display()),
    };
    let name = settings.server_name.as_deref().map(|name| format!(", as {name}")).unwrap_or_default();
    let own = if settings.identity.is_some() { ", with a client certificate" } else { "" };
    format!("{ca}{name}{own}")
}

fn failover(affinity: &Affinity) -> String {
    let policy = match affinity.failover {
        Failover::Sticky => "sticky",
        Failover::Temporary => "temporary",
        Failover::None => "none",
    };
    if affinity.hold.is_zero() {
        policy.to_owned()
    } else {
        format!("{policy}, after {}", show(affinity.hold))
    }
}

fn check(check: &HealthCheck) -> String {
    let probe = match &check.probe {
        Probe::Tcp => "TCP".to_owned(),
        Probe::Http { method, path, .. } => format!("{method} {path}"),
    };
    format!("{probe} every {}, up after {}, down after {}", show(check.interval), check.rise, check.fall)
}

/// Returns what the checks of an upstream cannot see, and what that means for sessions.
fn note_on_checks(upstream: &Upstream) -> Option<String> {
    let silence = upstream.passive.as_ref().map(|passive| show(passive.window));
    let http = "health_check = { path = \"/healthz\" }";
    match (&upstream.health_check, silence) {
        (Some(HealthCheck { probe: Probe::Http { .. }, .. }), _) => None,
        (Some(_), Some(window)) => Some(format!(
            "TCP checks do not see a hung application; its sessions move after {window} without any answer. \
             Recommended: {http}"
        )),
        (Some(_), None) => Some(format!(
            "TCP checks do not see a hung application, and its sessions stay. Recommended: {http}"
        )),
        (None, Some(window)) => Some(format!(
            "only requests tell whether a backend works: a session moves when its connection is refused, and all \
             sessions after {window} without any answer. Recommended: {http}"
        )),
        (None, None) => Some(format!(
            "nothing tells whether a backend works: a session moves when its connection is refused, and stays at a \
             hung application. Recommended: {http}"
        )),
    }
}

fn show(duration: std::time::Duration) -> String {
    config::show_duration(duration)
}

/// Writes rows as aligned columns.
fn table<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    });
    for row in rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(text, "  {}", cells.join("  ").trim_end());
    }
}

#[cfg(test)]
mod tests;
