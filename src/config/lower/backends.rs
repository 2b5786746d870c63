//! Lowers `backends` and `[[upstream.NAME.backend]]`.

use std::collections::BTreeMap;

use super::address::backend_address;
use super::global::list_of;
use crate::affinity::backend::InvalidBackendId;
use crate::affinity::{AdminState, BackendId, Weight};
use crate::config::diagnostics::{Complaint, Span};
use crate::config::found::Found;
use crate::config::reader::Section;
use crate::config::schema;
use crate::model::Backend;

/// Maximum number of backends of an upstream. A slot is a `u16` that is never reused,
/// so this leaves room for reloads.
const MAX_BACKENDS: usize = 4096;

/// Backends, each with the location of its address.
pub(super) type Backends = Vec<(Backend, Span)>;

/// Lowers the backends of an upstream.
pub(super) fn backends(section: &Section<'_>) -> Backends {
    let short = section.key_span(&schema::BACKENDS);
    let long = section.key_span(&schema::BACKEND_KEY);
    let mut written = Written::default();
    match (short, long) {
        (None, None) if section.lacks(&schema::BACKENDS) && section.lacks(&schema::BACKEND_KEY) => {
            section.complain(
                Complaint::error("upstream has no backends").help("add backends = [\"10.0.0.1:8080\"]"),
            );
        }
        (None, None) => {}
        (Some(short), Some(long)) => {
            section.complain(
                Complaint::error("both short and long form of backends used")
                    .at(long, "long form")
                    .also(short, "short form")
                    .help("define all backends as [[upstream.NAME.backend]]"),
            );
        }
        (Some(span), None) => {
            let Some(list) = list_of(section, &schema::BACKENDS, "an array of addresses") else {
                return Backends::new();
            };
            if list.is_empty() {
                section.complain(
                    Complaint::error("upstream has no backends")
                        .at(span, "empty array")
                        .help("add a backend: backends = [\"10.0.0.1:8080\"]"),
                );
            }
            if let Some(table) = list.iter().find(|found| found.value.is_table()) {
                section.complain(
                    table
                        .wrong_type("an address such as \"10.0.0.1:8080\"")
                        .help("for tables, use [[upstream.NAME.backend]]"),
                );
                return Backends::new();
            }
            for found in &list {
                written.short(section, found);
            }
        }
        (None, Some(_)) => {
            for backend in section.sections(&schema::BACKEND_KEY) {
                written.long(&backend);
            }
        }
    }
    let backends = written.backends;
    if let Some((_, span)) = backends.get(MAX_BACKENDS) {
        let message = format!("too many backends in the upstream (maximum {MAX_BACKENDS})");
        section.complain(Complaint::error(message).at(span.clone(), ""));
    }
    if !backends.is_empty() && backends.iter().all(|(backend, _)| backend.admin != AdminState::Ready) {
        section.complain(
            Complaint::warning("upstream has no ready backend; new sessions get 503")
                .help("set state = \"ready\" on at least one backend"),
        );
    }
    backends
}

/// The backends read so far, with the locations of their ids and addresses.
#[derive(Default)]
struct Written {
    backends: Backends,
    ids: BTreeMap<String, Span>,
    addresses: BTreeMap<String, Span>,
}

impl Written {
    fn short(&mut self, section: &Section<'_>, found: &Found<'_>) {
        let Some(address) = section.take(backend_address(found)) else { return };
        let text = found.value.as_str().unwrap_or_default();
        let Some(id) = section.take(id_of(text, found.span(), true)) else { return };
        let backend =
            Backend { id, address, weight: Weight::ONE, admin: AdminState::Ready, max_connections: None };
        self.push(section, backend, &found.span(), &found.span());
    }

    fn long(&mut self, section: &Section<'_>) {
        let weight = weight(section);
        let admin = section.get(&schema::STATE);
        let max_connections = section.get_optional(&schema::MAX_CONNECTIONS);
        let id = section.get_optional(&schema::ID);
        let Some(found) = section.find(&schema::ADDRESS) else {
            if section.lacks(&schema::ADDRESS) {
                section.complain(
                    Complaint::error("missing `address` in [[upstream.NAME.backend]]")
                        .help("add address = \"10.0.0.1:8080\""),
                );
            }
            return;
        };
        let Some(address) = section.take(backend_address(&found)) else { return };
        let id_span = section.span_of(&schema::ID);
        let text = id.as_deref().or_else(|| found.value.as_str()).unwrap_or_default();
        let place = id_span.clone().unwrap_or_else(|| found.span());
        let Some(id) = section.take(id_of(text, place.clone(), id_span.is_none())) else { return };
        let backend = Backend { id, address, weight, admin, max_connections };
        self.push(section, backend, &place, &found.span());
    }

    fn push(&mut self, section: &Section<'_>, backend: Backend, id: &Span, address: &Span) {
        if let Some(first) = self.ids.insert(backend.id.as_str().to_owned(), id.clone()) {
            section.complain(
                Complaint::error(format!("duplicate backend id \"{}\"", backend.id))
                    .at(id.clone(), "")
                    .also(first, "first used here")
                    .help("sessions are bound to ids, so each backend needs its own"),
            );
            return;
        }
        if let Some(first) = self.addresses.insert(backend.address.to_string(), address.clone()) {
            section.complain(
                Complaint::warning(format!("duplicate backend address {}", backend.address))
                    .at(address.clone(), "")
                    .also(first, "first used here")
                    .help("sessions that move between these backends end up on the same server"),
            );
        }
        self.backends.push((backend, address.clone()));
    }
}

fn id_of(text: &str, span: Span, is_address: bool) -> Result<BackendId, Complaint> {
    text.parse().map_err(|why: InvalidBackendId| {
        let complaint =
            Complaint::error(format!("invalid backend id \"{text}\"")).at(span, "").help(why.to_string());
        if is_address { complaint.help("use [[upstream.NAME.backend]] and set `id`") } else { complaint }
    })
}

fn weight(section: &Section<'_>) -> Weight {
    if let Some(found) = section.find(&schema::WEIGHT)
        && found.integer().is_ok_and(|weight| weight == 0)
    {
        section.complain(
            Complaint::error("`weight` is out of range")
                .at(found.span(), "must be 1 to 256")
                .help("to stop new sessions, use state = \"drain\""),
        );
        return Weight::ONE;
    }
    Weight::new(section.get(&schema::WEIGHT)).unwrap_or(Weight::ONE)
}
