//! `homing explain`: shows which backend a request would go to, and why.

mod asked;
mod question;

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use self::asked::Asked;
pub use self::question::Question;
use super::check;
use super::status::{GOOD, INVALID};
use crate::affinity::client_ip::ClientIpPolicy;
use crate::affinity::cookie::{CookieBinding, KeyRing};
use crate::affinity::explain::{Explanation, Step, explain};
use crate::affinity::key::{self, FoundKey, KeyContext, KeySource, find_key};
use crate::affinity::pick::{Binding, Decision, Idle, Policy, Query, Reason, Tried, Verdict};
use crate::affinity::recall::{CookieLayer, Layer, Layers, Recalled, TableLayer, recall};
use crate::affinity::table::{Table, file};
use crate::affinity::{AdminState, BackendId, Cluster, Health, KeyHash, Member, Slot, Timestamp};
use crate::config;
use crate::model::router::Router;
use crate::model::{Config, TableConfig, Upstream};

/// Explains a request. Returns the exit status and the output. `now` decides which
/// bindings have expired.
pub fn run(question: &Question, now: Timestamp, colour: bool) -> (u8, String) {
    let config = match config::load(&question.config) {
        Ok(loaded) => loaded.config,
        Err(error) => return (INVALID, check::refusal(&question.config, &error, colour)),
    };
    match answer(question, &config, now) {
        Ok(text) => (GOOD, text),
        Err(why) => (INVALID, format!("error: {why}\n")),
    }
}

fn answer(question: &Question, config: &Config, now: Timestamp) -> Result<String, String> {
    let request = Asked::new(question)?;
    let peer = question.ip.to_canonical();
    let client = config.client_ip.client_ip(peer, &request);
    let mut text = String::new();
    line(&mut text, "client ip", &origin_of(&config.client_ip, peer, client));
    let routed = Router::new(&config.routes).find(request.host(), &question.path);
    let Some(route) = routed.and_then(|index| config.routes.get(index)) else {
        line(&mut text, "route", &format!("404, no route for {}{}", request.host(), question.path));
        return Ok(text);
    };
    let upstream = config.upstreams.get(route.upstream).ok_or("the route has no upstream")?;
    line(&mut text, "route", &format!("{}{} -> {}", route.host, route.path, upstream.name));
    let cluster = cluster(upstream, question)?;
    let affinity = &upstream.affinity;
    let certificate = question.client_cert.as_deref();
    let key_client = key::ClientIdentity { ip: client, certificate };
    let table = saved_table(question, upstream, now)?;
    let context = KeyContext {
        seed: affinity.seed,
        mask: config.client_ip.mask,
        table: table.as_ref().map(|(table, _)| table),
        now,
    };
    let found = find_key(&affinity.key, context, &request, key_client);
    let recalled = binding(upstream, &cluster, &request, found, table.as_ref(), now);
    let (Recalled { key, binding, .. }, told) = recalled;
    line(&mut text, "key", &named(&affinity.key, found, key));
    line(&mut text, "binding", &told);
    let policy = Policy {
        failover: affinity.failover,
        balance_percent: affinity.balance_percent,
        checked: upstream.health_check.is_some(),
    };
    let tried = Tried::default();
    let ask = |may_hold| Query { key, binding, tried: &tried, may_hold, random: 0 };
    let explanation = explain(&cluster, policy, &Idle, &ask(!affinity.hold.is_zero()));
    told_explanation(&mut text, &cluster, &explanation);
    if let Decision::Hold(member) = explanation.decision {
        let hold = config::show_duration(affinity.hold);
        let then = explain(&cluster, policy, &Idle, &ask(false));
        let waits = format!("wait up to {hold} for {}, then:", id(&cluster, member));
        line(&mut text, "decision", &waits);
        line(&mut text, "", &decision(&cluster, &then, key.is_some()));
    } else {
        line(&mut text, "decision", &decision(&cluster, &explanation, key.is_some()));
    }
    Ok(text)
}

fn line(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "{}", format!("{name:<12}{value}").trim_end());
}

fn origin_of(policy: &ClientIpPolicy, peer: IpAddr, client: IpAddr) -> String {
    match (policy.trusts(peer), client == peer) {
        (false, _) if policy.trusted.is_empty() => format!("{client} (peer address)"),
        (false, _) => format!("{client} (peer address; the peer is not trusted)"),
        (true, true) => format!("{client} (peer address; the peer is trusted but reported no other)"),
        (true, false) => format!("{client} (from trusted peer {peer})"),
    }
}

/// Builds the cluster from the configuration and the assumptions.
fn cluster(upstream: &Upstream, question: &Question) -> Result<Cluster, String> {
    let known = |id: &&String| !upstream.backends.iter().any(|backend| backend.id.as_str() == id.as_str());
    let supposed = [&question.down, &question.drain, &question.maint];
    if let Some(id) = supposed.iter().copied().flatten().find(known) {
        let ids: Vec<_> = upstream.backends.iter().map(|backend| backend.id.as_str()).collect();
        return Err(format!(
            "unknown backend \"{id}\" in upstream {}\nhelp: possible values: {}",
            upstream.name,
            ids.join(", ")
        ));
    }
    let ring = Arc::new(check::ring(upstream));
    let members = (0u16..)
        .zip(&upstream.backends)
        .map(|(index, backend)| {
            let is = |list: &[String]| list.iter().any(|id| id == backend.id.as_str());
            Member {
                id: backend.id.clone(),
                slot: Slot(index),
                weight: backend.weight,
                admin: if is(&question.maint) {
                    AdminState::Maint
                } else if is(&question.drain) {
                    AdminState::Drain
                } else {
                    backend.admin
                },
                health: if is(&question.down) { Health::Down } else { Health::Up },
                shunned: false,
                active_points: ring.points_of(index),
            }
        })
        .collect();
    Ok(Cluster::new(ring, members))
}

/// Describes the key by its source and hash. The value may be as secret as a password. `key` is
/// the key found in the request, or the one derived from the sealed cookie.
fn named(sources: &[KeySource], found: Option<FoundKey>, key: Option<KeyHash>) -> String {
    match (found, key) {
        (None, Some(hash)) => format!("derived from the cookie, hash {:016x}", hash.0),
        (None, None) if sources.is_empty() => "none configured".to_owned(),
        (None, None) => "none, no source is present".to_owned(),
        (Some(FoundKey { source, hash, .. }), _) => {
            let name = sources.get(source).map(ToString::to_string).unwrap_or_default();
            let absent: Vec<_> = sources.iter().take(source).map(ToString::to_string).collect();
            let absent =
                if absent.is_empty() { String::new() } else { format!("; {} absent", absent.join(", ")) };
            format!("{name}, hash {:016x}{absent}", hash.0)
        }
    }
}

/// Loads the table that was given or that the upstream saves. `None` if there is none.
fn saved_table<'q>(
    question: &'q Question,
    upstream: &'q Upstream,
    now: Timestamp,
) -> Result<Option<(Table, &'q Path)>, String> {
    let Some(config) = &upstream.affinity.remember.table else { return Ok(None) };
    let configured = config.file.as_deref().filter(|path| path.exists());
    let path = question.table.as_deref().or(configured);
    path.map(|path| Ok((loaded(path, upstream, config, now)?, path))).transpose()
}

/// Finds the session's binding and describes it: the layer that speaks, and what the others say. `table`
/// is the saved table and its path.
fn binding(
    upstream: &Upstream,
    cluster: &Cluster,
    request: &Asked,
    found: Option<FoundKey>,
    table: Option<&(Table, &Path)>,
    now: Timestamp,
) -> (Recalled, String) {
    let affinity = &upstream.affinity;
    let remember = &affinity.remember;
    let keys = remember.cookie.as_ref().filter(|config| !config.keys.is_empty()).map(|config| {
        let keys: Vec<[u8; 32]> = config.keys.iter().map(|key| key.0).collect();
        (config, KeyRing::new(&keys))
    });
    let layers = Layers {
        upstream: &upstream.name,
        sources: &affinity.key,
        seed: affinity.seed,
        table: table.map(|(table, _)| TableLayer { table, helper: false }),
        cookie: keys.as_ref().map(|(config, keys)| CookieLayer { keys, config }),
        first: remember.first(),
    };
    let mut recalled = recall(&layers, cluster, found, request, now);
    if remember.is_none() {
        return (recalled, "none, the hash decides".to_owned());
    }
    // A layer that cannot be read from here may know the session.
    if recalled.binding == Binding::RingOnly {
        recalled.binding = Binding::Absent;
    }
    let spoke = |layer: Layer| recalled.layer == Some(layer);
    let in_table = remember.table.as_ref().map(|_| match (table, found) {
        (_, None) => "none without a key".to_owned(),
        (Some((_, path)), _) if spoke(Layer::Table) => in_table(upstream, path, recalled.binding),
        (Some((table, path)), Some(found)) => match found.name.and_then(|name| table.peek(name, now)) {
            Some(slot) => format!("passed over: {}", in_table(upstream, path, Binding::To(slot))),
            None => in_table(upstream, path, Binding::Absent),
        },
        (None, _) if recalled.layer.is_some() => "unknown, the table is in the running proxy".to_owned(),
        (None, _) => "unknown, the table is in the running proxy; assuming a new session".to_owned(),
    });
    let in_cookie = remember.cookie.as_ref().map(|config| match &keys {
        Some(_) => in_cookie(&config.name, &recalled.cookie),
        None => "unknown, without keys_file only the running proxy can open its cookies".to_owned(),
    });
    let mut told = [(Layer::Table, in_table), (Layer::Cookie, in_cookie)];
    // The layer that speaks comes first.
    if spoke(Layer::Cookie) || (recalled.layer.is_none() && remember.cookie_first) {
        told.reverse();
    }
    let told: Vec<_> = told.into_iter().filter_map(|(_, told)| told).collect();
    (recalled, told.join("; "))
}

/// Describes a binding found in a saved table.
fn in_table(upstream: &Upstream, path: &Path, binding: Binding) -> String {
    let path = path.display();
    match binding {
        Binding::To(slot) => {
            let id = upstream.backends.get(usize::from(slot.0)).map_or("?", |backend| backend.id.as_str());
            format!("{id}, in {path}")
        }
        _ => format!("none in {path}, new session"),
    }
}

/// Describes a binding found in the cookie `name`.
fn in_cookie(name: &str, found: &CookieBinding) -> String {
    match found {
        CookieBinding::Absent => format!("no cookie {name}, new session"),
        CookieBinding::Forged => format!("cookie {name} is forged or sealed with another key"),
        CookieBinding::Expired(opened) => format!("{}, in cookie {name}, but expired", opened.backend),
        CookieBinding::Bound(opened) => format!("{}, in cookie {name}", opened.backend),
        CookieBinding::Hint(opened) => {
            format!("cookie {name} is of another session, which is at {}; new session", opened.backend)
        }
    }
}

/// Loads a saved table. The slot of a backend is its index.
fn loaded(path: &Path, upstream: &Upstream, config: &TableConfig, now: Timestamp) -> Result<Table, String> {
    let ttl = u32::try_from(config.ttl.as_secs()).unwrap_or(u32::MAX);
    let table = Table::new(config.max_entries, ttl);
    let slot_of = |id: &BackendId| {
        let index = upstream.backends.iter().position(|backend| backend.id == *id)?;
        u16::try_from(index).ok().map(Slot)
    };
    file::load(&table, path, now, slot_of).map_err(|error| {
        let error: &dyn std::error::Error = &error;
        let causes: Vec<_> =
            std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
        format!("{}: {}", path.display(), causes.join(": "))
    })?;
    Ok(table)
}

/// Writes home, walk and successor.
fn told_explanation(text: &mut String, cluster: &Cluster, explanation: &Explanation) {
    let name = |member: Option<u16>| member.map_or_else(|| "none".to_owned(), |m| id(cluster, m).to_owned());
    if explanation.home.is_some() {
        line(text, "home", &name(explanation.home));
    }
    let taken = match explanation.decision {
        Decision::Send(verdict) => Some(verdict.member),
        Decision::Hold(_) | Decision::Unavailable(_) => None,
    };
    let note = |step: &Step| match step.passed {
        Some(passed) => passed.as_str(),
        None if taken == Some(step.member) => "taken",
        None => "",
    };
    let rows: Vec<_> = explanation.steps.iter().map(|step| (id(cluster, step.member), note(step))).collect();
    walk(text, &rows);
    if explanation.successor.is_some() {
        line(text, "successor", &name(explanation.successor));
    }
}

/// Writes the walk, one member per line: its id, and why it is skipped.
fn walk(text: &mut String, rows: &[(&str, &str)]) {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (number, (name, note)) in (1..).zip(rows) {
        let title = if number == 1 { "walk" } else { "" };
        line(text, title, &format!("{number}. {name:<width$}  {note}"));
    }
}

fn id(cluster: &Cluster, member: u16) -> &str {
    cluster.members().get(usize::from(member)).map_or("?", |member| member.id.as_str())
}

fn decision(cluster: &Cluster, explanation: &Explanation, keyed: bool) -> String {
    let because = |reason: Option<Reason>| reason.map_or_else(String::new, |r| format!(" ({})", r.as_str()));
    match explanation.decision {
        Decision::Send(Verdict { member, outcome, reason, .. }) => {
            // Without key and binding, the less loaded of two random backends is picked.
            if !keyed && explanation.bound != Some(member) {
                return format!("any eligible backend, {}{}", outcome.as_str(), because(reason));
            }
            format!("{}, {}{}", id(cluster, member), outcome.as_str(), because(reason))
        }
        Decision::Hold(member) => format!("wait for {}", id(cluster, member)),
        Decision::Unavailable(reason) => format!("503, no backend available{}", because(reason)),
    }
}

#[cfg(test)]
mod tests;
