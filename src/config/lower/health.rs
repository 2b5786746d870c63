//! Lowers `health_check` and `passive`.

use std::time::Duration;

use toml::de::DeValue;

use super::address::host_name;
use crate::config::diagnostics::Complaint;
use crate::config::found::Found;
use crate::config::reader::Section;
use crate::config::schema::{self, Entry};
use crate::model::{HealthCheck, PassiveCheck, Probe};

/// Default interval while a backend is changing between up and down.
const FAST_INTERVAL: Duration = Duration::from_millis(500);
const MAX_PENALTY: Duration = Duration::from_secs(300);
/// Default range of response statuses that count as success.
const EXPECTED: (u16, u16) = (200, 399);

/// A key that takes a table or `false`.
enum Switch<'t> {
    On(Section<'t>),
    Off,
    Default,
}

fn switch<'t>(upstream: &Section<'t>, key: &'static schema::Free) -> Switch<'t> {
    let Some(found) = upstream.find(key) else { return Switch::Default };
    match found.value {
        DeValue::Table(table) => upstream.open_below(key, table).map_or(Switch::Default, Switch::On),
        DeValue::Boolean(false) => Switch::Off,
        DeValue::Boolean(true) => {
            let complaint = found.wrong_type("a table or `false`");
            upstream.complain(complaint.help(format!("remove `{}`; it is on by default", found.name)));
            Switch::Default
        }
        DeValue::String(path) if path.starts_with('/') => {
            let complaint = found.wrong_type("a table or `false`");
            upstream.complain(complaint.help(format!("use {} = {{ path = \"{path}\" }}", found.name)));
            Switch::Default
        }
        _ => {
            upstream.complain(found.wrong_type("a table or `false`"));
            Switch::Default
        }
    }
}

/// Lowers `health_check`.
pub(super) fn active(upstream: &Section<'_>) -> Option<HealthCheck> {
    let section = match switch(upstream, &schema::HEALTH_CHECK) {
        Switch::On(section) => section,
        Switch::Off => return None,
        Switch::Default => {
            return Some(HealthCheck {
                probe: Probe::Tcp,
                interval: schema::INTERVAL.default,
                fast_interval: FAST_INTERVAL,
                timeout: schema::CHECK_TIMEOUT.default,
                rise: schema::RISE.default,
                fall: schema::FALL.default,
            });
        }
    };
    let interval = section.get(&schema::INTERVAL);
    let timeout = section.get(&schema::CHECK_TIMEOUT);
    Some(HealthCheck {
        probe: probe(&section),
        interval,
        fast_interval: fast_interval(&section, interval),
        timeout: warn_if_longer(&section, timeout, interval),
        rise: section.get(&schema::RISE),
        fall: section.get(&schema::FALL),
    })
}

fn fast_interval(section: &Section<'_>, interval: Duration) -> Duration {
    let Some(fast) = section.get_optional(&schema::FAST_INTERVAL) else { return FAST_INTERVAL.min(interval) };
    if fast > interval {
        let span = section.span_of(&schema::FAST_INTERVAL).unwrap_or_else(|| section.span());
        let mut complaint = Complaint::error("`fast_interval` is longer than `interval`").at(span, "");
        if let Some(slow) = section.span_of(&schema::INTERVAL) {
            complaint = complaint.also(slow, "");
        }
        section.complain(complaint.help("remove it, or use a shorter duration"));
    }
    fast.min(interval)
}

fn warn_if_longer(section: &Section<'_>, timeout: Duration, interval: Duration) -> Duration {
    if timeout > interval {
        let own = section.span_of(&schema::CHECK_TIMEOUT);
        let span = own.or_else(|| section.span_of(&schema::INTERVAL)).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::warning(
                "`timeout` is longer than `interval`, which delays detection of hung backends",
            )
            .at(span, "")
            .help("use a `timeout` shorter than `interval`"),
        );
    }
    timeout
}

fn probe(section: &Section<'_>) -> Probe {
    let path = section.get_optional(&schema::CHECK_PATH);
    let tcp = section.get_optional(&schema::TCP);
    // Read these even for a TCP check, to report all errors at once.
    let method = section.get_optional(&schema::METHOD).unwrap_or("GET").to_owned();
    let host = check_host(section);
    let statuses = Statuses::read(section);
    let written = section.find(&schema::CHECK_PATH);
    match (written, tcp) {
        (Some(found), Some(true)) => {
            section.complain(
                Complaint::error("conflicting health checks: HTTP and TCP")
                    .at(found.span(), "HTTP")
                    .also(section.span_of(&schema::TCP).unwrap_or_default(), "TCP")
                    .help("remove `tcp` or `path`"),
            );
            Probe::Tcp
        }
        (None, Some(false)) => {
            section.complain(
                Complaint::error("`tcp = false` requires `path`")
                    .at(section.span_of(&schema::TCP).unwrap_or_default(), "")
                    .help("add path = \"/healthz\", or disable checks with health_check = false"),
            );
            Probe::Tcp
        }
        (None, _) => {
            only_http(section);
            Probe::Tcp
        }
        (Some(found), _) => {
            let path = path.unwrap_or_else(|| "/".to_owned());
            if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
                section.complain(
                    Complaint::error("invalid path for a health check")
                        .at(found.span(), "")
                        .help("paths must start with `/` and contain no spaces or `#`: \"/healthz\""),
                );
            }
            Probe::Http { method, path, host, expect_status: statuses.expect, drain_status: statuses.drain }
        }
    }
}

/// Reports keys that only apply to HTTP checks.
fn only_http(section: &Section<'_>) {
    let keys: [&'static dyn Entry; 4] =
        [&schema::METHOD, &schema::CHECK_HOST, &schema::EXPECT_STATUS, &schema::DRAIN_STATUS];
    for key in keys {
        if let Some(span) = section.key_span(key) {
            section.complain(
                Complaint::error(format!("`{}` has no effect on a TCP check", key.name()))
                    .at(span, "")
                    .help("for an HTTP check, add path = \"/healthz\""),
            );
        }
    }
}

fn check_host(section: &Section<'_>) -> Option<String> {
    let text = section.get_optional(&schema::CHECK_HOST)?;
    // Host may also be an IP address, and may have a port.
    let without_port = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => &text,
    };
    let address = without_port.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if let (Err(why), Err(_)) = (host_name(without_port), address) {
        let span = section.span_of(&schema::CHECK_HOST).unwrap_or_else(|| section.span());
        section.complain(Complaint::error(format!("invalid host: {why}")).at(span, ""));
        return None;
    }
    Some(text)
}

struct Statuses {
    expect: Vec<(u16, u16)>,
    drain: Vec<u16>,
}

impl Statuses {
    fn read(section: &Section<'_>) -> Self {
        let mut expect = Vec::new();
        for found in one_or_list(section, &schema::EXPECT_STATUS) {
            expect.extend(section.take(ranges(&found)).unwrap_or_default());
        }
        if section.find(&schema::EXPECT_STATUS).is_none() {
            expect.push(EXPECTED);
        }
        let mut drain = Vec::new();
        for found in one_or_list(section, &schema::DRAIN_STATUS) {
            let Some((low, high)) = section.take(ranges(&found)).and_then(|ranges| match ranges.as_slice() {
                [one] => Some(*one),
                _ => None,
            }) else {
                continue;
            };
            if let Some((from, to)) = expect.iter().find(|(from, to)| *from <= high && low <= *to) {
                section.complain(
                    Complaint::error("status is in both `drain_status` and `expect_status`")
                        .at(found.span(), format!("`expect_status` includes {from}-{to}"))
                        .help("use a status outside of `expect_status`, or narrow `expect_status`"),
                );
            }
            drain.extend(low..=high);
        }
        Self { expect, drain }
    }
}

/// Returns the elements of an array, or a single value.
fn one_or_list<'t>(section: &Section<'t>, key: &'static schema::Free) -> Vec<Found<'t>> {
    let Some(found) = section.find(key) else { return Vec::new() };
    match found.value {
        DeValue::Array(list) => {
            if list.is_empty() && key.name == schema::EXPECT_STATUS.name {
                section.complain(Complaint::error("`expect_status` is empty").at(found.span(), ""));
            }
            found.elements(list)
        }
        _ => vec![found],
    }
}

/// Parses `200`, `"200"`, `"200-399"`, or several of these separated by commas.
fn ranges(found: &Found<'_>) -> Result<Vec<(u16, u16)>, Complaint> {
    let status = |number: i128| u16::try_from(number).ok().filter(|status| (100..=599).contains(status));
    let text = match found.value {
        DeValue::Integer(_) => {
            let status = status(found.integer()?).ok_or_else(|| found.out_of_range("100 to 599"))?;
            return Ok(vec![(status, status)]);
        }
        _ => found.text("a status such as 200, or a range such as \"200-399\"")?,
    };
    let mut ranges = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        let read = |text: &str| text.trim().parse::<u16>().ok().and_then(|number| status(number.into()));
        match (read(low), read(high)) {
            (Some(low), Some(high)) if low <= high => ranges.push((low, high)),
            _ => {
                return Err(Complaint::error(format!("invalid status or status range \"{part}\""))
                    .at(found.span(), "")
                    .help("use a status from 100 to 599, or a range such as \"200-399\""));
            }
        }
    }
    Ok(ranges)
}

/// Lowers `passive`.
pub(super) fn passive(upstream: &Section<'_>, check: Option<&HealthCheck>) -> Option<PassiveCheck> {
    let section = match switch(upstream, &schema::PASSIVE) {
        Switch::On(section) => section,
        Switch::Off => return None,
        Switch::Default => {
            return Some(PassiveCheck {
                max_fails: schema::MAX_FAILS.default,
                max_5xx: None,
                window: schema::WINDOW.default,
                penalty: schema::PENALTY.default,
                max_penalty: MAX_PENALTY,
            });
        }
    };
    let max_5xx = section.get_optional(&schema::MAX_5XX);
    let asked = check.is_some_and(|check| matches!(check.probe, Probe::Http { .. }));
    if let (true, None, None, Some(span)) =
        (asked, max_5xx, section.find(&schema::MAX_5XX), section.span_of(&schema::WINDOW))
    {
        section.complain(
            Complaint::warning("`window` has no effect with an HTTP check and without `max_5xx`")
                .at(span, ""),
        );
    }
    let penalty = section.get(&schema::PENALTY);
    let max_penalty = section.get_optional(&schema::MAX_PENALTY);
    if let (Some(most), Some(span)) = (max_penalty, section.span_of(&schema::MAX_PENALTY))
        && most < penalty
    {
        section.complain(
            Complaint::error("`max_penalty` is shorter than `penalty`")
                .at(span, "")
                .help("use a longer duration"),
        );
    }
    Some(PassiveCheck {
        max_fails: section.get(&schema::MAX_FAILS),
        max_5xx,
        window: section.get(&schema::WINDOW),
        penalty,
        max_penalty: max_penalty.unwrap_or(MAX_PENALTY).max(penalty),
    })
}
