//! From what is written to what it means: every rule that a configuration
//! keeps is checked here, once.

mod address;
mod affinity;
mod backends;
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

/// The configuration that the file means, as far as it can be made out; what
/// is wrong goes to the sections' sink.
pub(super) fn lower(root: &Section<'_>, files: &Files<'_>) -> Option<Config> {
    // A section that is not there is read as an empty one.
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
    Some(Config { server, client_ip, timeouts, limits, forwarding, access_log, listeners, routes, upstreams })
}

/// Warns of keys that no client can have.
fn no_idle_source(root: &Section<'_>, listeners: &[Listener], upstreams: &[Arc<Upstream>]) {
    let asked =
        |listener: &Listener| listener.tls.as_ref().is_some_and(|tls| tls.settings().client_auth.is_some());
    if listeners.iter().any(asked) {
        return;
    }
    for upstream in upstreams.iter().filter(|u| u.affinity.key.contains(&KeySource::ClientCert)) {
        root.complain(
            Complaint::warning(format!(
                "the upstream `{}` has the key \"client_cert\", and no listener asks for certificates",
                upstream.name
            ))
            .help("write client_auth = { ca = \"clients-ca.pem\" } in a listener's `tls`"),
        );
    }
}

/// Refuses backends that are Homing itself, and an admin address that is taken.
fn no_loops(
    root: &Section<'_>,
    listeners: &[(Listener, Span)],
    admin: Option<&(SocketAddr, Span)>,
    upstreams: &[upstream::Lowered],
) {
    let listener = |address: &Address| listeners.iter().find(|(own, _)| own.bind.is_reached_by(address));
    // Either may be on all addresses, which include the other's.
    let taken_by = |admin: SocketAddr| {
        let takes = |own: &Bind| own.ip().is_some_and(|own| Bind::Ip(admin).is_reached_by(&Address::Ip(own)));
        listener(&Address::Ip(admin)).or_else(|| listeners.iter().find(|(own, _)| takes(&own.bind)))
    };
    if let Some((admin, span)) = admin.filter(|(admin, _)| admin.port() != 0)
        && let Some((_, listener)) = taken_by(*admin)
    {
        root.complain(
            Complaint::error(format!("the admin address {admin} is also a listener's"))
                .at(span.clone(), "")
                .also(listener.clone(), "listener")
                .help("choose another port for one of them"),
        );
    }
    for (address, span) in upstreams.iter().flat_map(|lowered| &lowered.addresses) {
        if let Some((_, own)) = listener(address) {
            root.complain(
                Complaint::error(format!(
                    "the backend {address} is Homing itself: requests would go in circles"
                ))
                .at(span.clone(), "backend")
                .also(own.clone(), "listener")
                .help("write the address of the application"),
            );
        } else if let Some((_, own)) = admin.filter(|(admin, _)| Bind::Ip(*admin).is_reached_by(address)) {
            root.complain(
                Complaint::error(format!("the backend {address} is Homing's own admin address"))
                    .at(span.clone(), "backend")
                    .also(own.clone(), "admin address")
                    .help("write the address of the application"),
            );
        }
    }
}
