//! `health_check` and `passive`.

use std::time::Duration;

use toml::de::DeValue;

use super::address::host_name;
use crate::config::diagnostics::Complaint;
use crate::config::reader::{Found, Section};
use crate::config::schema::{self, Entry};
use crate::model::{HealthCheck, PassiveCheck, Probe};

/// Between up and down a backend is looked at this often.
const FAST_INTERVAL: Duration = Duration::from_millis(500);
const MAX_PENALTY: Duration = Duration::from_secs(300);
/// Statuses that mean up.
const EXPECTED: (u16, u16) = (200, 399);

/// A table, `false`, or nothing.
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
            upstream.complain(complaint.help(format!("leave out `{}`: it is on by default", found.name)));
            Switch::Default
        }
        DeValue::String(path) if path.starts_with('/') => {
            let complaint = found.wrong_type("a table or `false`");
            upstream.complain(complaint.help(format!("write {} = {{ path = \"{path}\" }}", found.name)));
            Switch::Default
        }
        _ => {
            upstream.complain(found.wrong_type("a table or `false`"));
            Switch::Default
        }
    }
}

/// Active checks.
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
        section.complain(complaint.help("leave it out, or make it shorter"));
    }
    fast.min(interval)
}

fn warn_if_longer(section: &Section<'_>, timeout: Duration, interval: Duration) -> Duration {
    if timeout > interval {
        let own = section.span_of(&schema::CHECK_TIMEOUT);
        let span = own.or_else(|| section.span_of(&schema::INTERVAL)).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::warning(
                "`timeout` is longer than `interval`: a backend that hangs is found down late",
            )
            .at(span, "")
            .help("make `timeout` shorter than `interval`"),
        );
    }
    timeout
}

fn probe(section: &Section<'_>) -> Probe {
    let path = section.get_optional(&schema::CHECK_PATH);
    let tcp = section.get_optional(&schema::TCP);
    // Read in any case, so that what is wrong with them is said at once.
    let method = section.get_optional(&schema::METHOD).unwrap_or("GET").to_owned();
    let host = check_host(section);
    let statuses = Statuses::read(section);
    let written = section.find(&schema::CHECK_PATH);
    match (written, tcp) {
        (Some(found), Some(true)) => {
            section.complain(
                Complaint::error("a check is either a TCP connection or an HTTP request")
                    .at(found.span(), "HTTP")
                    .also(section.span_of(&schema::TCP).unwrap_or_default(), "TCP")
                    .help("leave out `tcp` or `path`"),
            );
            Probe::Tcp
        }
        (None, Some(false)) => {
            section.complain(
                Complaint::error("the check does not say what is tried")
                    .at(section.span_of(&schema::TCP).unwrap_or_default(), "not this")
                    .help("write path = \"/healthz\", or health_check = false in the place of the table"),
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
                    Complaint::error("`path` cannot be asked for")
                        .at(found.span(), "")
                        .help("it begins with `/` and holds no spaces: \"/healthz\""),
                );
            }
            Probe::Http { method, path, host, expect_status: statuses.expect, drain_status: statuses.drain }
        }
    }
}

/// Refuses what only an HTTP check can heed.
fn only_http(section: &Section<'_>) {
    let keys: [&'static dyn Entry; 4] =
        [&schema::METHOD, &schema::CHECK_HOST, &schema::EXPECT_STATUS, &schema::DRAIN_STATUS];
    for key in keys {
        if let Some(span) = section.key_span(key) {
            section.complain(
                Complaint::error(format!("`{}` has no effect on a TCP check", key.name()))
                    .at(span, "")
                    .help("write path = \"/healthz\" for an HTTP check"),
            );
        }
    }
}

fn check_host(section: &Section<'_>) -> Option<String> {
    let text = section.get_optional(&schema::CHECK_HOST)?;
    // With a port or as an IP address it is still a fit value of Host.
    let without_port = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => &text,
    };
    let address = without_port.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if let (Err(why), Err(_)) = (host_name(without_port), address) {
        let span = section.span_of(&schema::CHECK_HOST).unwrap_or_else(|| section.span());
        section.complain(Complaint::error("`host` is no host name").at(span, "").help(why));
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
                    Complaint::error("a status cannot mean both up and drain")
                        .at(found.span(), format!("`expect_status` has {from}-{to}"))
                        .help("choose a status outside of `expect_status`, or narrow that"),
                );
            }
            drain.extend(low..=high);
        }
        Self { expect, drain }
    }
}

/// A value, or the values of a list.
fn one_or_list<'t>(section: &Section<'t>, key: &'static schema::Free) -> Vec<Found<'t>> {
    let Some(found) = section.find(key) else { return Vec::new() };
    match found.value {
        DeValue::Array(list) => {
            if list.is_empty() && key.name == schema::EXPECT_STATUS.name {
                section
                    .complain(Complaint::error("no status would mean up").at(found.span(), "an empty list"));
            }
            found.elements(list)
        }
        _ => vec![found],
    }
}

/// `200`, `"200"`, `"200-399"` or several with commas.
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
                return Err(Complaint::error(format!("\"{part}\" is no status and no range of statuses"))
                    .at(found.span(), "")
                    .help("a status is a number from 100 to 599, a range is \"200-399\""));
            }
        }
    }
    Ok(ranges)
}

/// Passive checks.
pub(super) fn passive(upstream: &Section<'_>) -> Option<PassiveCheck> {
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
    if let (None, None, Some(span)) =
        (max_5xx, section.find(&schema::MAX_5XX), section.span_of(&schema::WINDOW))
    {
        section.complain(Complaint::warning("`window` has no effect without `max_5xx`").at(span, ""));
    }
    let penalty = section.get(&schema::PENALTY);
    let max_penalty = section.get_optional(&schema::MAX_PENALTY);
    if let (Some(most), Some(span)) = (max_penalty, section.span_of(&schema::MAX_PENALTY))
        && most < penalty
    {
        section.complain(
            Complaint::error("`max_penalty` is shorter than `penalty`").at(span, "").help("make it longer"),
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
