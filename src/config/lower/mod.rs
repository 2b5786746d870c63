//! Lowers the parsed file to a [`Config`]. Every rule of a valid configuration is
//! checked here, once.

mod address;
mod affinity;
mod backends;
mod cookie_names;
mod exposure;
mod global;
mod health;
mod remember;
mod routes;
mod tls;
mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;

use super::diagnostics::{Complaint, Span};
use super::files::Files;
use super::reader::Section;
use super::schema;
use crate::affinity::key::KeySource;
use crate::model::{Address, Bind, Config, Listener, Upstream};

/// Lowers the file, as far as possible. Diagnostics go to the sink of `root`.
pub(super) fn lower(root: &Section<'_>, files: &Files<'_>) -> Option<Config> {
    // Missing tables are read as empty ones.
    let empty = toml::de::DeTable::new();
    let section = |key: &'static schema::Free| root.section(key).or_else(|| root.absent(key, &empty));
    let server_section = section(&schema::SERVER_KEY)?;
    let server = global::server(&server_section);
    let client_ip = global::client_ip(&section(&schema::CLIENT_IP_KEY)?);
    let timeouts = global::timeouts(&section(&schema::TIMEOUTS_KEY)?);
    let limits = global::limits(&section(&schema::LIMITS_KEY)?);
    let forwarding = global::forwarding(&section(&schema::FORWARDING_KEY)?);
    let access_log = global::access_log(&section(&schema::ACCESS_LOG_KEY)?, files);
    let listeners = routes::listeners(root, files, &client_ip);
    let (upstreams, names) = upstream::upstreams(root, files, &timeouts.upstream);
    let routes = routes::routes(root, &names);
    let admin = server.admin.zip(server_section.span_of(&schema::ADMIN));
    no_loops(root, &listeners, admin.as_ref(), &upstreams);
    let listeners: Vec<Listener> = listeners.into_iter().map(|(listener, _)| listener).collect();
    let upstreams: Vec<Arc<Upstream>> =
        upstreams.into_iter().map(|lowered| Arc::new(lowered.upstream)).collect();
    if listeners.is_empty() || upstreams.is_empty() {
        return None;
    }
    no_idle_source(root, &listeners, &upstreams);
    cookie_names::check(root, &upstreams.iter().map(AsRef::as_ref).collect::<Vec<_>>(), &routes);
    Some(Config { server, client_ip, timeouts, limits, forwarding, access_log, listeners, routes, upstreams })
}

/// Warns about `client_cert` keys if no listener requests client certificates.
fn no_idle_source(root: &Section<'_>, listeners: &[Listener], upstreams: &[Arc<Upstream>]) {
    let asked = |listener: &Listener| listener.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some());
    if listeners.iter().any(asked) {
        return;
    }
    for upstream in upstreams.iter().filter(|u| u.affinity.key.contains(&KeySource::ClientCert)) {
        root.complain(
            Complaint::warning(format!(
                "upstream `{}` uses the key \"client_cert\", but no listener requests client certificates",
                upstream.name
            ))
            .help("add client_auth = { ca = \"clients-ca.pem\" } to the `tls` of a listener"),
        );
    }
}

/// Rejects backends that are Homing itself, and an admin address that a listener uses.
fn no_loops(
    root: &Section<'_>,
    listeners: &[(Listener, Span)],
    admin: Option<&(SocketAddr, Span)>,
    upstreams: &[upstream::Lowered],
) {
    let listener = |address: &Address| listeners.iter().find(|(own, _)| own.bind.is_reached_by(address));
    // Either may be on all interfaces, which include the other's address.
    let taken_by = |admin: SocketAddr| {
        let takes = |own: &Bind| own.ip().is_some_and(|own| Bind::Ip(admin).is_reached_by(&Address::Ip(own)));
        listener(&Address::Ip(admin)).or_else(|| listeners.iter().find(|(own, _)| takes(&own.bind)))
    };
    if let Some((admin, span)) = admin.filter(|(admin, _)| admin.port() != 0)
        && let Some((_, listener)) = taken_by(*admin)
    {
        root.complain(
            Complaint::error(format!("admin address {admin} is already used by a listener"))
                .at(span.clone(), "")
                .also(listener.clone(), "used by this listener")
                .help("use another port"),
        );
    }
    for (address, span) in upstreams.iter().flat_map(|lowered| &lowered.addresses) {
        if let Some((_, own)) = listener(address) {
            root.complain(
                Complaint::error(format!(
                    "backend {address} is a listener of this proxy; requests would loop"
                ))
                .at(span.clone(), "")
                .also(own.clone(), "listener defined here")
                .help("use the address of the application"),
            );
        } else if let Some((_, own)) = admin.filter(|(admin, _)| Bind::Ip(*admin).is_reached_by(address)) {
            root.complain(
                Complaint::error(format!("backend {address} is the admin address of this proxy"))
                    .at(span.clone(), "")
                    .also(own.clone(), "admin address defined here")
                    .help("use the address of the application"),
            );
        }
    }
}
