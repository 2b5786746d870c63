//! Warns about secrets that other users can read or replace.

use crate::config::files::{Exposed, Files};
use crate::config::reader::Section;
use crate::config::schema::Entry;

/// Warns if the secret in the file of `key` is exposed.
pub(super) fn warn_if_exposed(section: &Section<'_>, files: &Files<'_>, key: &dyn Entry, path: &str) {
    if let Some(exposed) = files.exposed_secret(path) {
        warn(section, key, &exposed);
    }
}

/// Warns about the private keys that `tls` has read.
pub(super) fn warn_of_private_keys(section: &Section<'_>, files: &Files<'_>, key: &dyn Entry) {
    for exposed in files.exposed_keys() {
        warn(section, key, &exposed);
    }
}

fn warn(section: &Section<'_>, key: &dyn Entry, exposed: &Exposed) {
    let span = section.span_of(key).unwrap_or_else(|| section.span());
    section.complain(exposed.warning().at(span, ""));
}
