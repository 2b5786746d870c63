//! `[[listener]]` and `[[route]]`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::address::{self, host_name};
use super::tls;
use crate::affinity::client_ip::ClientIpPolicy;
use crate::config::diagnostics::{Complaint, Span};
use crate::config::files::Files;
use crate::config::reader::{Found, Section};
use crate::config::schema;
use crate::config::suggest::nearest;
use crate::model::{Bind, HostPattern, Listener, ProxyProtocol, Route};

/// More listeners are a mistake: each worker has a socket for each.
const MAX_LISTENERS: usize = 256;

/// The listeners, each with the place of its address.
pub(super) fn listeners(
    root: &Section<'_>,
    files: &Files<'_>,
    client_ip: &ClientIpPolicy,
) -> Vec<(Listener, Span)> {
    let sections = root.sections(&schema::LISTENER_KEY);
    if root.find(&schema::LISTENER_KEY).is_none() {
        root.complain(
            Complaint::error("there is no listener")
                .help("say where clients connect:\n[[listener]]\nbind = \"0.0.0.0:8080\""),
        );
    }
    let mut listeners: Vec<(Listener, Span)> = Vec::new();
    for section in sections {
        let http2 = section.get(&schema::HTTP2);
        let tls = tls::listener(&section, http2, files);
        let redirect_https = tls::redirect(&section);
        let proxy_protocol = proxy_protocol(&section, client_ip);
        let Some(found) = section.find(&schema::BIND) else {
            section.complain(missing("listener", "bind").help("write bind = \"0.0.0.0:8080\""));
            continue;
        };
        let Some(bind) = section.take(address::bind(&found)) else { continue };
        let mode = mode(&section, &bind);
        let any_port = bind.ip().is_some_and(|address| address.port() == 0);
        let twin = listeners.iter().find(|(other, _)| !any_port && other.bind == bind);
        if let Some((_, first)) = twin {
            section.complain(
                Complaint::error(format!("there are two listeners on {bind}"))
                    .at(found.span(), "again")
                    .also(first.clone(), "first here")
                    .help("remove one of them"),
            );
            continue;
        }
        listeners.push((Listener { bind, mode, tls, proxy_protocol, redirect_https, http2 }, found.span()));
    }
    if let Some((_, span)) = listeners.get(MAX_LISTENERS) {
        root.complain(
            Complaint::error(format!("there are more than {MAX_LISTENERS} listeners")).at(span.clone(), ""),
        );
    }
    listeners
}

fn mode(section: &Section<'_>, bind: &Bind) -> u32 {
    if let (Bind::Ip(_), Some(span)) = (bind, section.span_of(&schema::MODE)) {
        section.complain(
            Complaint::error("`mode` is about the file of a Unix domain socket")
                .at(span, "")
                .help("leave it out, or listen on one: bind = \"unix:/run/homing.sock\""),
        );
    }
    section.get(&schema::MODE)
}

fn proxy_protocol(section: &Section<'_>, client_ip: &ClientIpPolicy) -> ProxyProtocol {
    let mode = section.get(&schema::PROXY_PROTOCOL);
    let effect = match mode {
        ProxyProtocol::Off => return mode,
        ProxyProtocol::Optional => "no header is believed",
        ProxyProtocol::Required => "every connection is closed",
    };
    if let (true, Some(span)) = (client_ip.trusted.is_empty(), section.span_of(&schema::PROXY_PROTOCOL)) {
        section.complain(
            Complaint::warning("`proxy_protocol` without `client_ip.trusted`")
                .at(span, effect)
                .help("name the proxies in front of Homing:\n[client_ip]\ntrusted = [\"10.0.0.0/8\"]"),
        );
    }
    mode
}

fn missing(what: &str, key: &str) -> Complaint {
    Complaint::error(format!("the {what} has no `{key}`"))
}

/// The upstreams' names, in the order of their indices, each with its place.
pub(super) type Names<'a> = [(&'a str, Span)];

/// The routes, most specific first.
pub(super) fn routes(root: &Section<'_>, upstreams: &Names<'_>) -> Vec<Route> {
    let sections = root.sections(&schema::ROUTE_KEY);
    if root.find(&schema::ROUTE_KEY).is_none() {
        if let [_, (second, span), ..] = upstreams {
            root.complain(
                Complaint::error("there are several upstreams, but no route")
                    .at(span.clone(), "which requests are to come here?")
                    .help(format!(
                        "write for each upstream:\n[[route]]\npath = \"/\"\nupstream = \"{second}\""
                    )),
            );
        }
        return vec![Route { host: HostPattern::Any, path: "/".to_owned(), upstream: 0 }];
    }
    let mut routes: Vec<Route> = Vec::new();
    let mut places: BTreeMap<(String, String), Span> = BTreeMap::new();
    // A route that is wrong elsewhere still counts as a use of its upstream.
    let mut used = vec![false; upstreams.len()];
    for section in &sections {
        let upstream = target(section, upstreams);
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
                Complaint::error("there are two routes for the same host and path")
                    .at(section.span(), "again")
                    .also(first, "first here")
                    .help("remove one of them, or make one more specific"),
            );
            continue;
        }
        routes.push(route);
    }
    for ((name, span), used) in upstreams.iter().zip(used) {
        if !used {
            root.complain(
                Complaint::warning(format!("no route leads to the upstream `{name}`")).at(span.clone(), ""),
            );
        }
    }
    routes.sort_by(|a, b| specificity(a).cmp(&specificity(b)));
    routes
}

/// Orders routes: the one to be tried first is the least.
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
        section
            .complain(missing("route", "upstream").help("write upstream = \"NAME\" of an [upstream.NAME]"));
        return None;
    };
    let name = section.get_optional(&schema::TO_UPSTREAM)?;
    let index = upstreams.iter().position(|(known, _)| *known == name);
    if index.is_none() {
        let complaint = Complaint::error(format!("there is no upstream `{name}`")).at(found.span(), "");
        let names = || upstreams.iter().map(|(name, _)| *name);
        section.complain(match nearest(&name, names()) {
            Some(near) => complaint.help(format!("did you mean `{near}`?")),
            None if upstreams.is_empty() => complaint.help(format!("define [upstream.{name}]")),
            None => {
                let known: Vec<_> = names().take(10).collect();
                complaint.help(format!("define [upstream.{name}], or name one of: {}", known.join(", ")))
            }
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
    let refused = |why: &str, help: String| {
        Err(Complaint::error(format!("`host` {why}")).at(found.span(), "").help(help))
    };
    if text == "*" {
        return Ok(HostPattern::Any);
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => Ok(HostPattern::Exact(format!("[{ip}]"))),
            Err(_) => refused("is no IPv6 address", "write it as in a URL: \"[2001:db8::1]\"".to_owned()),
        };
    }
    if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
        return Ok(HostPattern::Exact(ip.to_string()));
    }
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        return refused("has a scheme", format!("write \"{host}\""));
    }
    if let Some((host, _)) = text.split_once(':') {
        return refused("has a port", format!("routes do not look at the port: write \"{host}\""));
    }
    let (name, wildcard) = match text.strip_prefix("*.") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    if name.contains('*') {
        let help = "a wildcard stands for whole parts at the beginning: \"*.example.com\"".to_owned();
        return refused("has a `*` where none can be", help);
    }
    match host_name(name) {
        Ok(name) if wildcard => Ok(HostPattern::Suffix(format!(".{name}"))),
        Ok(name) => Ok(HostPattern::Exact(name)),
        Err(why) => refused("is no host name", why.to_owned()),
    }
}

fn path(section: &Section<'_>) -> Option<String> {
    let Some(found) = section.find(&schema::PATH) else { return Some("/".to_owned()) };
    let text = section.get_optional(&schema::PATH)?;
    section.take(path_prefix(&text, &found).map(|()| text))
}

fn path_prefix(text: &str, found: &Found<'_>) -> Result<(), Complaint> {
    let refused = |why: &str, help: String| {
        Err(Complaint::error(format!("`path` {why}")).at(found.span(), "").help(help))
    };
    if !text.starts_with('/') {
        return refused("does not begin with `/`", format!("write \"/{}\"", text.trim_start_matches('*')));
    }
    if let Some(at) = text.find(['?', '#']) {
        return refused("is only a path", format!("write \"{}\"", &text[..at]));
    }
    if let Some(before) = text.strip_suffix("/*").or_else(|| text.strip_suffix('*')) {
        let help =
            format!("a path takes all below it: write \"{}\"", if before.is_empty() { "/" } else { before });
        return refused("has no wildcards", help);
    }
    if text != "/" && text.ends_with('/') {
        let help = format!("write \"{}\": it takes all below it", text.trim_end_matches('/'));
        return refused("ends with `/`", help);
    }
    if text.contains("//") || text.split('/').any(|part| part == "." || part == "..") {
        return refused("is not in its plain form", "leave out `.`, `..` and doubled `/`".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        let help = "write characters outside of ASCII, and spaces, as in a URL: %20".to_owned();
        return refused("has characters that no path has", help);
    }
    Ok(())
}
