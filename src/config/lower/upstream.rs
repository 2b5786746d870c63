//! Lowers `[upstream.NAME]`, except for affinity, health checks, backends and TLS.

use std::sync::Arc;

use toml::de::DeValue;

use super::{affinity, backends, health, tls};
use crate::affinity::Health;
use crate::affinity::ring::Ring;
use crate::config::diagnostics::{Complaint, Span};
use crate::config::files::Files;
use crate::config::found::Found;
use crate::config::reader::Section;
use crate::config::schema;
use crate::model::{Address, Pool, Protocol, Queue, Retry, Upstream, UpstreamTimeouts};

/// Maximum number of upstreams. More are a mistake.
const MAX_UPSTREAMS: usize = 4096;

/// An upstream, with the locations of its backends' addresses.
pub(super) struct Lowered {
    pub(super) upstream: Upstream,
    pub(super) addresses: Vec<(Address, Span)>,
}

/// Lowers the upstreams. Returns the valid ones, sorted by name, and the names of
/// all, with their locations.
pub(super) fn upstreams<'t>(
    root: &Section<'t>,
    files: &Files<'_>,
    timeouts: &UpstreamTimeouts,
) -> (Vec<Lowered>, Vec<(&'t str, Span)>) {
    let mut lowered = Vec::new();
    let mut names = Vec::new();
    let found = root.find(&schema::UPSTREAM_KEY);
    let table = match found.as_ref().map(|found| (found, found.value)) {
        Some((_, DeValue::Table(table))) if !table.is_empty() => table,
        Some((found, DeValue::Array(_))) => {
            let help = "use a name and single brackets: [upstream.web]";
            root.complain(found.wrong_type("named tables").help(help));
            return (lowered, names);
        }
        Some((found, other)) if !matches!(other, DeValue::Table(_)) => {
            root.complain(found.wrong_type("named tables"));
            return (lowered, names);
        }
        found => {
            if found.is_some() || root.lacks(&schema::UPSTREAM_KEY) {
                root.complain(Complaint::error("no upstream defined").help(
                    "add an upstream:\n[upstream.web]\nbackends = [\"10.0.0.1:8080\", \"10.0.0.2:8080\"]",
                ));
            }
            return (lowered, names);
        }
    };
    for (name, value) in table {
        let text: &'t str = name.get_ref();
        if !is_name(text) {
            root.complain(
                Complaint::error("invalid upstream name")
                    .at(name.span(), "")
                    .help("use 1 to 64 characters from A-Z a-z 0-9 _ -"),
            );
        }
        names.push((text, name.span()));
        if schema::UPSTREAM.keys.iter().any(|key| key.name() == text) && !value.get_ref().is_table() {
            root.complain(
                Complaint::error(format!("expected an upstream name, found the key `{text}`"))
                    .at(name.span(), "")
                    .help("name the upstream: [upstream.web]"),
            );
            continue;
        }
        let section = Section::open_named(name, value, &schema::UPSTREAM, root.sink());
        lowered.extend(section.and_then(|section| upstream(&section, text, files, timeouts)));
    }
    if let Some((_, span)) = names.get(MAX_UPSTREAMS) {
        root.complain(
            Complaint::error(format!("too many upstreams (maximum {MAX_UPSTREAMS})")).at(span.clone(), ""),
        );
    }
    (lowered, names)
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn upstream(
    section: &Section<'_>,
    name: &str,
    files: &Files<'_>,
    timeouts: &UpstreamTimeouts,
) -> Option<Lowered> {
    let backends = backends::backends(section);
    let affinity = affinity::affinity(section, name, files);
    let health_check = health::active(section);
    let passive = health::passive(section, health_check.as_ref());
    let initial_health = section.get(&schema::INITIAL_HEALTH);
    if let (None, Health::Down, Some(span)) =
        (&health_check, initial_health, section.span_of(&schema::INITIAL_HEALTH))
    {
        section.complain(
            Complaint::error("`initial_health = \"down\"` requires a health check")
                .at(span, "backends would stay down")
                .help("remove `initial_health` or `health_check = false`"),
        );
    }
    points_fit(section, &backends, affinity.vnodes);
    let retry = retry(section);
    let pool = pool(section);
    let queue = queue(section);
    let timeouts = own_timeouts(section, timeouts);
    let slow_start = section.get(&schema::SLOW_START);
    let protocol = protocol(section);
    let tls = tls::upstream(section, protocol.is_http2(), files, &backends);
    let (mut backends, addresses): (Vec<_>, Vec<_>) =
        backends.into_iter().map(|(backend, span)| (backend.clone(), (backend.address, span))).unzip();
    if backends.is_empty() {
        return None;
    }
    backends.sort_by(|a, b| a.id.cmp(&b.id));
    let upstream = Upstream {
        proxy_protocol: section.get(&schema::SEND_PROXY),
        name: Arc::from(name),
        backends,
        affinity,
        health_check,
        passive,
        slow_start,
        initial_health,
        pool,
        queue,
        retry,
        timeouts,
        tls,
        protocol,
    };
    Some(Lowered { upstream, addresses })
}

/// Lowers `protocol` and checks it against `tls` and `proxy_protocol`.
fn protocol(section: &Section<'_>) -> Protocol {
    let protocol = section.get(&schema::PROTOCOL);
    let tls = section.find(&schema::UPSTREAM_TLS);
    let tls = tls.as_ref().filter(|found| !matches!(found.value, DeValue::Boolean(false)));
    let (text, help) = match (protocol, tls) {
        (Protocol::H2, None) => {
            ("`protocol = \"h2\"` requires `tls`", "add tls = true, or use protocol = \"h2c\"")
        }
        (Protocol::H2c, Some(_)) => {
            ("`protocol = \"h2c\"` conflicts with `tls`", "use protocol = \"h2\", or remove `tls`")
        }
        _ if protocol.is_http2() && section.get(&schema::SEND_PROXY).is_some() => (
            "`proxy_protocol` requires `protocol = \"h1\"`: clients share HTTP/2 connections",
            "remove `proxy_protocol`, or use protocol = \"h1\"",
        ),
        _ => return protocol,
    };
    let span = section.span_of(&schema::PROTOCOL).unwrap_or_else(|| section.span());
    section.complain(Complaint::error(text).at(span, "").help(help));
    protocol
}

fn points_fit(section: &Section<'_>, backends: &backends::Backends, vnodes: u32) {
    let weight: u64 = backends.iter().map(|(backend, _)| u64::from(backend.weight.get())).sum();
    let (points, most) = (weight * u64::from(vnodes), u64::from(Ring::MAX_POINTS));
    if points > most {
        let fitting = most / weight.max(1);
        section.complain(
            Complaint::error(format!("ring has too many points ({points}, maximum {most})")).help(format!(
                "lower the weights, which add up to {weight}, or set `ring.vnodes` to at most {fitting}"
            )),
        );
    }
}

fn own_timeouts(section: &Section<'_>, inherited: &UpstreamTimeouts) -> UpstreamTimeouts {
    let Some(own) = section.section(&schema::TIMEOUTS_OF_UPSTREAM) else { return *inherited };
    UpstreamTimeouts {
        connect: own.get_optional(&schema::UPSTREAM_CONNECT).unwrap_or(inherited.connect),
        response_head: own.get_optional(&schema::UPSTREAM_RESPONSE_HEAD).unwrap_or(inherited.response_head),
        body_idle: own.get_optional(&schema::UPSTREAM_BODY_IDLE).unwrap_or(inherited.body_idle),
        min_body_rate: own.get_optional(&schema::UPSTREAM_MIN_BODY_RATE).unwrap_or(inherited.min_body_rate),
        body_rate_window: own
            .get_optional(&schema::UPSTREAM_BODY_RATE_WINDOW)
            .unwrap_or(inherited.body_rate_window),
        tunnel_idle: own.get_optional(&schema::UPSTREAM_TUNNEL_IDLE).unwrap_or(inherited.tunnel_idle),
    }
}

fn pool(section: &Section<'_>) -> Pool {
    let Some(pool) = section.section(&schema::POOL) else {
        return Pool {
            max_idle: schema::MAX_IDLE_CONNECTIONS.default,
            idle_timeout: schema::IDLE_TIMEOUT.default,
        };
    };
    Pool { max_idle: pool.get(&schema::MAX_IDLE_CONNECTIONS), idle_timeout: pool.get(&schema::IDLE_TIMEOUT) }
}

fn queue(section: &Section<'_>) -> Queue {
    let own = section.section(&schema::UPSTREAM_QUEUE);
    let own =
        own.map(|own| Queue { max: own.get(&schema::QUEUE_MAX), timeout: own.get(&schema::QUEUE_TIMEOUT) });
    own.unwrap_or(Queue { max: schema::QUEUE_MAX.default, timeout: schema::QUEUE_TIMEOUT.default })
}

fn retry(section: &Section<'_>) -> Retry {
    let default = Retry {
        attempts: schema::ATTEMPTS.default,
        budget_percent: 20,
        min_per_second: schema::MIN_PER_SECOND.default,
        retry_after: schema::RETRY_AFTER.default,
    };
    let Some(retry) = section.section(&schema::RETRY) else { return default };
    let budget = retry.find(&schema::BUDGET).and_then(|found| retry.take(percent(&found)));
    Retry {
        attempts: retry.get(&schema::ATTEMPTS),
        budget_percent: budget.unwrap_or(default.budget_percent),
        min_per_second: retry.get(&schema::MIN_PER_SECOND),
        retry_after: retry.get(&schema::RETRY_AFTER),
    }
}

fn percent(found: &Found<'_>) -> Result<u32, Complaint> {
    let expected = "a percentage such as \"20%\"";
    let text = match found.value {
        DeValue::Integer(number) => {
            return Err(found.wrong_type(expected).help(format!("use \"{number}%\"")));
        }
        DeValue::Float(number) => {
            let share = number.as_str().parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
            let help = share.map(|share| format!("use \"{:.0}%\"", share * 100.0));
            return Err(found.wrong_type(expected).maybe_help(help));
        }
        _ => found.text(expected)?,
    };
    let number = text.strip_suffix('%').filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    match number.and_then(|digits| digits.parse::<u32>().ok()) {
        Some(percent) if percent <= 100 => Ok(percent),
        Some(_) => Err(found.out_of_range("0% to 100%")),
        None => Err(Complaint::error(format!("invalid percentage for `{}`", found.name))
            .at(found.span(), "")
            .help("use an integer and `%`: \"20%\"")),
    }
}
