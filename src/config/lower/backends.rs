//! `backends` and `[[upstream.NAME.backend]]`.

use std::collections::BTreeMap;

use super::address::backend_address;
use super::global::list_of;
use crate::affinity::backend::InvalidBackendId;
use crate::affinity::{AdminState, BackendId, Weight};
use crate::config::diagnostics::{Complaint, Span};
use crate::config::reader::{Found, Section};
use crate::config::schema;
use crate::model::Backend;

/// A slot is a `u16` that is never given twice; this leaves room for reloads.
const MAX_BACKENDS: usize = 4096;

/// Backends, each with the place of its address.
pub(super) type Backends = Vec<(Backend, Span)>;

/// An upstream's backends.
pub(super) fn backends(section: &Section<'_>) -> Backends {
    let short = section.key_span(&schema::BACKENDS);
    let long = section.key_span(&schema::BACKEND_KEY);
    let mut written = Written::default();
    match (short, long) {
        (None, None) => section.complain(
            Complaint::error("the upstream has no backend").help("write backends = [\"10.0.0.1:8080\"]"),
        ),
        (Some(short), Some(long)) => {
            section.complain(
                Complaint::error("backends are written in two ways")
                    .at(long, "the long form")
                    .also(short, "the short form")
                    .help("write all of them as [[upstream.NAME.backend]]"),
            );
        }
        (Some(span), None) => {
            let Some(list) = list_of(section, &schema::BACKENDS, "a list of addresses") else {
                return Backends::new();
            };
            if list.is_empty() {
                section.complain(
                    Complaint::error("the upstream has no backend")
                        .at(span, "an empty list")
                        .help("write backends = [\"10.0.0.1:8080\"]"),
                );
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
        let message = format!("the upstream has more than {MAX_BACKENDS} backends");
        section.complain(Complaint::error(message).at(span.clone(), ""));
    }
    if !backends.is_empty() && backends.iter().all(|(backend, _)| backend.admin != AdminState::Ready) {
        section.complain(
            Complaint::warning("no backend of the upstream is ready: new sessions get 503")
                .help("set one to state = \"ready\""),
        );
    }
    backends
}

/// The backends read so far, and where their ids and addresses are.
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
            section.complain(
                Complaint::error("the backend has no `address`").help("write address = \"10.0.0.1:8080\""),
            );
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
                Complaint::error(format!("two backends have the id \"{}\"", backend.id))
                    .at(id.clone(), "again")
                    .also(first, "first here")
                    .help("an id is what sessions are bound to: give each backend its own"),
            );
            return;
        }
        if let Some(first) = self.addresses.insert(backend.address.to_string(), address.clone()) {
            section.complain(
                Complaint::warning(format!("two backends have the address {}", backend.address))
                    .at(address.clone(), "again")
                    .also(first, "first here")
                    .help("sessions moved from one to the other stay where they were"),
            );
        }
        self.backends.push((backend, address.clone()));
    }
}

fn id_of(text: &str, span: Span, is_address: bool) -> Result<BackendId, Complaint> {
    text.parse().map_err(|why: InvalidBackendId| {
        let complaint = Complaint::error(format!("\"{text}\" cannot be a backend's id"))
            .at(span, "")
            .help(why.to_string());
        if is_address {
            complaint.help("give the backend an `id` of its own: [[upstream.NAME.backend]]")
        } else {
            complaint
        }
    })
}

fn weight(section: &Section<'_>) -> Weight {
    if let Some(found) = section.find(&schema::WEIGHT)
        && found.integer().is_ok_and(|weight| weight == 0)
    {
        section.complain(
            Complaint::error("`weight` is out of bounds")
                .at(found.span(), "it takes 1 to 256")
                .help("a backend that is to get no new sessions: state = \"drain\""),
        );
        return Weight::ONE;
    }
    Weight::new(section.get(&schema::WEIGHT)).unwrap_or(Weight::ONE)
}
