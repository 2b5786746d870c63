//! Lowers `[[listener]]` and `[[route]]`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::address::{self, host_name};
use super::tls;
use crate::affinity::client_ip::ClientIpPolicy;
use crate::config::diagnostics::{Complaint, Span};
use crate::config::files::Files;
use crate::config::found::Found;
use crate::config::reader::Section;
use crate::config::schema;
use crate::config::suggest::nearest;
use crate::model::{Bind, HostPattern, Listener, ProxyProtocol, Route};

/// Maximum number of listeners. More are a mistake: each worker has a socket for each.
const MAX_LISTENERS: usize = 256;

/// Lowers the listeners, each with the location of its address.
pub(super) fn listeners(
    root: &Section<'_>,
    files: &Files<'_>,
    client_ip: &ClientIpPolicy,
) -> Vec<(Listener, Span)> {
    let sections = root.sections(&schema::LISTENER_KEY);
    if root.lacks(&schema::LISTENER_KEY) {
        root.complain(
            Complaint::error("no listener defined")
                .help("add a listener:\n[[listener]]\nbind = \"0.0.0.0:8080\""),
        );
    }
    let mut listeners: Vec<(Listener, Span)> = Vec::new();
    for section in sections {
        let http2 = section.get(&schema::HTTP2);
        let tls = tls::listener(&section, http2, files);
        let redirect_https = tls::redirect(&section);
        let proxy_protocol = proxy_protocol(&section, client_ip);
        let Some(found) = section.find(&schema::BIND) else {
            if section.lacks(&schema::BIND) {
                section.complain(missing("listener", "bind").help("add bind = \"0.0.0.0:8080\""));
            }
            continue;
        };
        let Some(bind) = section.take(address::bind(&found)) else { continue };
        let mode = mode(&section, &bind);
        let any_port = bind.ip().is_some_and(|address| address.port() == 0);
        let twin = listeners.iter().find(|(other, _)| !any_port && other.bind == bind);
        if let Some((_, first)) = twin {
            section.complain(
                Complaint::error(format!("duplicate listener {bind}"))
                    .at(found.span(), "")
                    .also(first.clone(), "first defined here")
                    .help("remove one of them"),
            );
            continue;
        }
        listeners.push((Listener { bind, mode, tls, proxy_protocol, redirect_https, http2 }, found.span()));
    }
    if let Some((_, span)) = listeners.get(MAX_LISTENERS) {
        root.complain(
            Complaint::error(format!("too many listeners (maximum {MAX_LISTENERS})")).at(span.clone(), ""),
        );
    }
    listeners
}

fn mode(section: &Section<'_>, bind: &Bind) -> u32 {
    if let (Bind::Ip(_), Some(span)) = (bind, section.span_of(&schema::MODE)) {
        section.complain(
            Complaint::error("`mode` requires a Unix domain socket")
                .at(span, "")
                .help("remove `mode`, or use a socket: bind = \"unix:/run/homing.sock\""),
        );
    }
    section.get(&schema::MODE)
}

fn proxy_protocol(section: &Section<'_>, client_ip: &ClientIpPolicy) -> ProxyProtocol {
    let mode = section.get(&schema::PROXY_PROTOCOL);
    let effect = match mode {
        ProxyProtocol::Off => return mode,
        ProxyProtocol::Optional => "all PROXY headers are ignored",
        ProxyProtocol::Required => "all connections are closed",
    };
    if let (true, Some(span)) = (client_ip.trusted.is_empty(), section.span_of(&schema::PROXY_PROTOCOL)) {
        let message = "`proxy_protocol` without `client_ip.trusted`";
        let complaint = match mode {
            ProxyProtocol::Required => Complaint::error(message),
            _ => Complaint::warning(message),
        };
        section.complain(
            complaint
                .at(span, effect)
                .help("add the proxies in front of Homing:\n[client_ip]\ntrusted = [\"10.0.0.0/8\"]"),
        );
    }
    mode
}

fn missing(what: &str, key: &str) -> Complaint {
    Complaint::error(format!("missing `{key}` in [[{what}]]"))
}

/// The names of the upstreams, by index, each with its location.
pub(super) type Names<'a> = [(&'a str, Span)];

/// Lowers the routes and sorts them, most specific first.
pub(super) fn routes(root: &Section<'_>, upstreams: &Names<'_>) -> Vec<Route> {
    let sections = root.sections(&schema::ROUTE_KEY);
    if root.find(&schema::ROUTE_KEY).is_none() {
        if let [_, (second, span), ..] = upstreams {
            root.complain(
                Complaint::error("several upstreams, but no routes")
                    .at(span.clone(), "no route leads here")
                    .help(format!(
                        "add a route for each upstream:\n[[route]]\npath = \"/\"\nupstream = \"{second}\""
                    )),
            );
        }
        return vec![Route { host: HostPattern::Any, path: "/".to_owned(), upstream: 0 }];
    }
    let mut routes: Vec<Route> = Vec::new();
    let mut places: BTreeMap<(String, String), Span> = BTreeMap::new();
    // An otherwise invalid route still counts as a use of its upstream.
    let mut used = vec![false; upstreams.len()];
    let mut targets = 0;
    for section in &sections {
        let upstream = target(section, upstreams);
        targets += usize::from(upstream.is_some());
        if let Some(used) = upstream.and_then(|index| used.get_mut(index)) {
            *used = true;
        }
        let (Some(host), Some(path), Some(upstream)) = (host(section), path(section), upstream) else {
            continue;
        };
        let route = Route { host, path, upstream };
        let place = (route.host.to_string(), route.path.clone());
        if let Some(first) = places.insert(place, section.span()) {
            section.complain(
                Complaint::error("duplicate route for the same host and path")
                    .at(section.span(), "")
                    .also(first, "first defined here")
                    .help("remove one of them, or make one more specific"),
            );
            continue;
        }
        routes.push(route);
    }
    // A route with a wrong name may be meant for any of them.
    let all_lead = sections.len() == targets;
    for ((name, span), used) in upstreams.iter().zip(used) {
        if !used && all_lead {
            root.complain(Complaint::warning(format!("upstream `{name}` has no route")).at(span.clone(), ""));
        }
    }
    routes.sort_by(|a, b| specificity(a).cmp(&specificity(b)));
    routes
}

/// Returns the sort key of a route. Routes are tried in ascending order.
fn specificity(route: &Route) -> impl Ord + '_ {
    let (rank, host) = match &route.host {
        HostPattern::Exact(host) => (0, host.as_str()),
        HostPattern::Suffix(suffix) => (1, suffix.as_str()),
        HostPattern::Any => (2, ""),
    };
    let suffix_length = if rank == 1 { host.len() } else { 0 };
    (rank, Reverse(suffix_length), host, Reverse(route.path.len()), route.path.as_str())
}

fn target(section: &Section<'_>, upstreams: &Names<'_>) -> Option<usize> {
    let Some(found) = section.find(&schema::TO_UPSTREAM) else {
        if section.lacks(&schema::TO_UPSTREAM) {
            section.complain(
                missing("route", "upstream").help("add upstream = \"NAME\", the name of an [upstream.NAME]"),
            );
        }
        return None;
    };
    let name = section.get_optional(&schema::TO_UPSTREAM)?;
    let index = upstreams.iter().position(|(known, _)| *known == name);
    if index.is_none() && !upstreams.is_empty() {
        let complaint = Complaint::error(format!("unknown upstream `{name}`")).at(found.span(), "");
        let names = || upstreams.iter().map(|(name, _)| *name);
        section.complain(if let Some(near) = nearest(&name, names()) {
            complaint.help(format!("did you mean `{near}`?"))
        } else {
            let known: Vec<_> = names().take(10).collect();
            complaint.help(format!("define [upstream.{name}], or use one of: {}", known.join(", ")))
        });
    }
    index
}

fn host(section: &Section<'_>) -> Option<HostPattern> {
    let Some(found) = section.find(&schema::HOST) else { return Some(HostPattern::Any) };
    let text = section.get_optional(&schema::HOST)?;
    section.take(host_pattern(&text, &found))
}

fn host_pattern(text: &str, found: &Found<'_>) -> Result<HostPattern, Complaint> {
    let invalid = |why: &str, help: String| {
        Err(Complaint::error(format!("invalid host: {why}")).at(found.span(), "").help(help))
    };
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => Ok(HostPattern::Exact(format!("[{ip}]"))),
            Err(_) => {
                invalid("not an IPv6 address", "use brackets, as in URLs: \"[2001:db8::1]\"".to_owned())
            }
        };
    }
    if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
        return Ok(HostPattern::Exact(ip.to_string()));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        return invalid("unexpected scheme", format!("use \"{host}\""));
    }
    if let Some((host, _)) = text.split_once(':') {
        return invalid("unexpected port", format!("routes ignore the port; use \"{host}\""));
    }
    let (name, wildcard) = match text.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    if name.contains('*') {
        let help = "wildcards are only allowed as the first label: \"*.example.com\"".to_owned();
        return invalid("misplaced wildcard", help);
    }
    match host_name(name) {
        Ok(name) if wildcard => Ok(HostPattern::Suffix(format!(".{name}"))),
        Ok(name) => Ok(HostPattern::Exact(name)),
        Err(why) => invalid(why, "use a host name such as \"example.com\" or \"*.example.com\"".to_owned()),
    }
}

fn path(section: &Section<'_>) -> Option<String> {
    let Some(found) = section.find(&schema::PATH) else { return Some("/".to_owned()) };
    let text = section.get_optional(&schema::PATH)?;
    section.take(path_prefix(&text, &found).map(|()| text))
}

/// Returns the fixed start of a regular expression as other proxies write it (`~ ^/app/.*`,
/// `^/app`, `/app/(a|b)`), or `None` if the text is none.
fn regex_start(text: &str) -> Option<&str> {
    let bare = text.trim_start_matches(['~', '*', '=', ' ']);
    let marked = text.starts_with('~') || bare.starts_with('^');
    // `(`, `)` and `$` are valid in paths.
    if !marked && !text.contains(".*") && !text.contains(['|', '[', '\\']) {
        return None;
    }
    let pattern = bare.trim_start_matches('^');
    let end = pattern.find(['.', '(', '[', '\\', '$', '|', '*', '+', '?', ' ']).unwrap_or(pattern.len());
    Some(pattern[..end].trim_end_matches('/'))
        .filter(|start| start.is_empty() || start.starts_with('/'))
        .or(Some(""))
}

fn path_prefix(text: &str, found: &Found<'_>) -> Result<(), Complaint> {
    let invalid = |why: &str, help: String| {
        Err(Complaint::error(format!("invalid path: {why}")).at(found.span(), "").help(help))
    };
    if let Some(start) = regex_start(text) {
        let help = match start {
            "" => "paths are prefixes; add a [[route]] for each".to_owned(),
            prefix => format!("paths are prefixes; use \"{prefix}\", or add a [[route]] for each"),
        };
        return invalid("regular expressions are not supported", help);
    }
    if !text.starts_with('/') {
        let rest = text.trim_start_matches('*').trim_end_matches('*').trim_matches('/');
        return invalid("must start with `/`", format!("use \"/{rest}\""));
    }
    if let Some(at) = text.find(['?', '#']) {
        return invalid("unexpected query or fragment", format!("use \"{}\"", &text[..at]));
    }
    if let Some(before) = text.strip_suffix("/*").or_else(|| text.strip_suffix('*')) {
        let prefix = if before.is_empty() { "/" } else { before };
        let help = format!("paths are prefixes; use \"{prefix}\"");
        return invalid("unexpected wildcard", help);
    }
    if text != "/" && text.ends_with('/') {
        let help = format!("paths are prefixes; use \"{}\"", text.trim_end_matches('/'));
        return invalid("must not end with `/`", help);
    }
    if text.contains("//") || text.split('/').any(|part| part == "." || part == "..") {
        return invalid("not normalized", "remove `.`, `..` and repeated `/`".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        let help = "percent-encode spaces and non-ASCII characters: \"%20\"".to_owned();
        return invalid("contains spaces, control or non-ASCII characters", help);
    }
    Ok(())
}
