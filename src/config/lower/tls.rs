//! Lowers `tls` of listeners and upstreams, and `redirect_https`.

use std::path::PathBuf;

use toml::de::DeValue;

use super::backends::Backends;
use super::exposure::{warn_if_exposed, warn_of_private_keys};
use super::global::list_of;
use crate::config::diagnostics::Complaint;
use crate::config::files::Files;
use crate::config::reader::Section;
use crate::config::schema::{self, Entry, Int, Rule};
use crate::model::Address;
use crate::tls::{Client, ClientAuth, ClientSettings, Part, Problem, Roots, Server, ServerSettings};

/// Lowers `tls` of a listener; `http2` is whether to offer HTTP/2.
pub(super) fn listener(section: &Section<'_>, http2: bool, files: &Files<'_>) -> Option<ServerSettings> {
    let found = section.find(&schema::LISTENER_TLS)?;
    if let DeValue::Boolean(false) = found.value {
        section.complain(found.wrong_type("a table").help("for plain HTTP, remove `tls`"));
        return None;
    }
    if let DeValue::Boolean(true) = found.value {
        section.complain(found.wrong_type("a table").help("use tls = { certs = [\"certs/*.pem\"] }"));
        return None;
    }
    let section = section.section(&schema::LISTENER_TLS)?;
    let (min_version, client_auth) = (section.get(&schema::MIN_VERSION), client_auth(&section, files));
    let tickets_file = section.get_optional(&schema::TICKETS_FILE).map(|path| files.resolve(&path));
    let keys = paths(&section, &schema::KEYS, files).unwrap_or_default();
    let Some(certs) = paths(&section, &schema::CERTS, files) else {
        if section.lacks(&schema::CERTS) {
            section
                .complain(Complaint::error("missing `certs` in `tls`").help("add certs = [\"certs/*.pem\"]"));
        }
        return None;
    };
    let asks = section.find(&schema::CLIENT_AUTH).is_some();
    if certs.is_empty() || asks != client_auth.is_some() {
        // Already reported.
        return None;
    }
    let settings = ServerSettings { certs, keys, min_version, http2, tickets_file, client_auth };
    let place = |part| -> &'static dyn Entry {
        match part {
            Part::Keys | Part::ClientKey => &schema::KEYS,
            Part::Tickets => &schema::TICKETS_FILE,
            Part::Ca => &schema::CLIENT_AUTH,
            Part::Certs | Part::ClientCert => &schema::CERTS,
        }
    };
    let loaded = files.with_tls(|read| Server::new(settings.clone()).load(read)).unwrap_or(Ok(Vec::new()));
    let key: &dyn Entry = if section.find(&schema::KEYS).is_some() { &schema::KEYS } else { &schema::CERTS };
    if !take(&section, loaded, place) {
        return None;
    }
    warn_of_private_keys(&section, files, key);
    if let Some(path) = section.get_optional(&schema::TICKETS_FILE) {
        warn_if_exposed(&section, files, &schema::TICKETS_FILE, &path);
    }
    Some(settings)
}

fn client_auth(section: &Section<'_>, files: &Files<'_>) -> Option<ClientAuth> {
    let section = section.section(&schema::CLIENT_AUTH)?;
    let required = section.get(&schema::CLIENT_MODE);
    if section.lacks(&schema::CLIENT_CA) {
        section.complain(
            Complaint::error("missing `ca` in `client_auth`")
                .help("add the file with the CA certificates: ca = \"clients-ca.pem\""),
        );
    }
    let ca = section.get_optional(&schema::CLIENT_CA)?;
    Some(ClientAuth { ca: files.resolve(&ca), required })
}

/// Lowers an array of paths, which must not be empty.
fn paths(section: &Section<'_>, key: &'static schema::Free, files: &Files<'_>) -> Option<Vec<PathBuf>> {
    let list = list_of(section, key, "an array of paths")?;
    let mut paths = Vec::new();
    for found in &list {
        let Some(text) = section.take(schema::Text("path").read(found)) else { continue };
        let (directory, name) = text.rsplit_once('/').unwrap_or(("", &text));
        if directory.contains('*') {
            section.complain(
                Complaint::error("`*` is not allowed in a directory name")
                    .at(found.span(), "")
                    .help(format!("list each directory: \"…/{name}\"")),
            );
            continue;
        }
        paths.push(files.resolve(&text));
    }
    if list.is_empty() {
        let span = section.span_of(key).unwrap_or_else(|| section.span());
        section.complain(Complaint::error(format!("`{}` is empty", key.name)).at(span, ""));
    }
    Some(paths)
}

/// Lowers `redirect_https`.
pub(super) fn redirect(section: &Section<'_>) -> Option<u16> {
    let found = section.find(&schema::REDIRECT_HTTPS)?;
    if section.find(&schema::LISTENER_TLS).is_some() {
        section.complain(
            Complaint::error("`redirect_https` conflicts with `tls`")
                .at(found.span(), "")
                .help("add another [[listener]] for plain HTTP, usually on port 80"),
        );
        return None;
    }
    match found.value {
        DeValue::Boolean(true) => Some(443),
        DeValue::Boolean(false) => None,
        DeValue::Integer(_) => section.take(Int { least: 1, most: u16::MAX }.read(&found)),
        _ => {
            section.complain(found.wrong_type("`true` or a port"));
            None
        }
    }
}

/// Lowers `tls` of an upstream; `http2` is whether its backends speak HTTP/2.
pub(super) fn upstream(
    section: &Section<'_>,
    http2: bool,
    files: &Files<'_>,
    backends: &Backends,
) -> Option<ClientSettings> {
    let found = section.find(&schema::UPSTREAM_TLS)?;
    let defaults = toml::de::DeTable::new();
    let section = match found.value {
        DeValue::Boolean(false) => return None,
        DeValue::Boolean(true) => section.absent(&schema::UPSTREAM_TLS, &defaults)?,
        DeValue::Table(table) => section.open_below(&schema::UPSTREAM_TLS, table)?,
        _ => {
            section.complain(found.wrong_type("`true` or a table"));
            return None;
        }
    };
    let ca = section.get_optional(&schema::UPSTREAM_CA);
    let settings = ClientSettings {
        ca: match ca.as_deref() {
            None | Some("native") => Roots::Native,
            Some(path) => Roots::File(files.resolve(path)),
        },
        server_name: section.get_optional(&schema::SERVER_NAME),
        sni: section.get(&schema::SNI),
        identity: identity(&section, files),
        verify: section.get(&schema::VERIFY),
        http2,
    };
    if !settings.verify {
        let span = section.span_of(&schema::VERIFY).unwrap_or_else(|| section.span());
        section.complain(
            Complaint::warning("backend certificates are not verified")
                .at(span, "allows anyone on the network path to impersonate a backend")
                .help("set their CA instead: ca = \"backends-ca.pem\""),
        );
        if let Some(span) = section.span_of(&schema::UPSTREAM_CA) {
            section.complain(Complaint::error("`ca` has no effect with `verify = false`").at(span, ""));
        }
    }
    let client = Client::new(settings.clone());
    if let Some(span) = section.span_of(&schema::SERVER_NAME) {
        if client.server_name("").is_none() {
            section.complain(
                Complaint::error("invalid `server_name`: not a host name or IP address").at(span, ""),
            );
            return None;
        }
    } else if let Some((address, span)) = nameless(&client, backends) {
        section.complain(
            Complaint::error(format!("backend \"{address}\" has no name to verify its certificate against"))
                .at(span, "")
                .help("set `server_name` to the name in the backends' certificates"),
        );
        return None;
    }
    let place = |part| -> &'static dyn Entry {
        match part {
            Part::ClientCert | Part::Certs => &schema::CLIENT_CERT,
            Part::ClientKey | Part::Keys => &schema::CLIENT_KEY,
            Part::Ca | Part::Tickets => &schema::UPSTREAM_CA,
        }
    };
    let loaded = files.with_tls(|read| client.load(read)).unwrap_or(Ok(Vec::new()));
    let key: &dyn Entry =
        if section.find(&schema::CLIENT_KEY).is_some() { &schema::CLIENT_KEY } else { &schema::CLIENT_CERT };
    if !take(&section, loaded, place) {
        return None;
    }
    warn_of_private_keys(&section, files, key);
    Some(settings)
}

fn identity(section: &Section<'_>, files: &Files<'_>) -> Option<(PathBuf, PathBuf)> {
    let certificate = section.get_optional(&schema::CLIENT_CERT);
    let key = section.get_optional(&schema::CLIENT_KEY);
    if let (None, Some(_), Some(span)) = (&certificate, &key, section.span_of(&schema::CLIENT_KEY)) {
        section.complain(
            Complaint::error("`client_key` has no effect without `client_cert`")
                .at(span, "")
                .help("add the certificate: client_cert = \"homing.pem\""),
        );
    }
    let certificate = files.resolve(&certificate?);
    let key = key.map_or_else(|| certificate.clone(), |key| files.resolve(&key));
    Some((certificate, key))
}

/// Returns the first backend whose host cannot be a name in a certificate.
fn nameless<'b>(
    client: &Client,
    backends: &'b Backends,
) -> Option<(&'b Address, crate::config::diagnostics::Span)> {
    backends.iter().find_map(|(backend, span)| {
        client.server_name(&backend.address.host()).is_none().then(|| (&backend.address, span.clone()))
    })
}

/// Reports errors or warnings of the TLS files. Returns true if they are usable.
fn take(
    section: &Section<'_>,
    loaded: Result<Vec<Problem>, Vec<Problem>>,
    place: impl Fn(Part) -> &'static dyn Entry,
) -> bool {
    let usable = loaded.is_ok();
    for problem in loaded.unwrap_or_else(|errors| errors) {
        let Problem { part, message, help } = problem;
        let complaint = if usable { Complaint::warning(message) } else { Complaint::error(message) };
        let span = section.span_of(place(part)).unwrap_or_else(|| section.span());
        section.complain(complaint.at(span, "").maybe_help(help));
    }
    usable
}
