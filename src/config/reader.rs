//! Reads TOML tables with known keys and values with their locations.
//!
//! Written by hand instead of derived: serde stops at the first invalid value and
//! loses the locations of short forms. This reader reports all errors at once.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::diagnostics::{Complaint, Sink, Span};
use super::found::{Found, kind};
use super::schema::{self, Entry, Free, Key, Optional, Rule, Table};
use super::suggest::{self, nearest};

/// A table of the file, opened with its schema.
#[derive(Clone)]
pub(super) struct Section<'t> {
    table: &'t DeTable<'t>,
    span: Span,
    def: &'static Table,
    sink: &'t RefCell<Sink>,
    /// The keys that unknown keys of the table most likely mean.
    meant: Vec<&'static str>,
}

impl<'t> Section<'t> {
    /// Opens a table. Keys that are not in its schema are errors.
    pub(super) fn open(
        table: &'t DeTable<'t>,
        span: Span,
        def: &'static Table,
        sink: &'t RefCell<Sink>,
    ) -> Self {
        let mut meant = Vec::new();
        for key in table.keys() {
            if !def.keys.iter().any(|known| known.name() == key.get_ref()) {
                meant.extend(nearest(key.get_ref(), def.keys.iter().map(|known| known.name())));
                sink.borrow_mut().push(unknown_key(key, def));
            }
        }
        Self { table, span, def, sink, meant }
    }

    /// Returns whether a key is missing and no unknown key is likely to mean it, which is an error
    /// already.
    pub(super) fn lacks(&self, key: &dyn Entry) -> bool {
        self.find(key).is_none() && !self.meant.contains(&key.name())
    }

    /// Returns the location of the table's header, or of the key that holds it.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Returns the sink for diagnostics.
    pub(super) fn sink(&self) -> &'t RefCell<Sink> {
        self.sink
    }

    /// Reports a diagnostic. Without a location of its own it gets the table's,
    /// except at the top level of the file.
    pub(super) fn complain(&self, complaint: Complaint) {
        let complaint = if self.def.path.is_empty() { complaint } else { complaint.or_at(self.span()) };
        self.sink.borrow_mut().push(complaint);
    }

    /// Returns the value, or reports the error and returns `None`.
    pub(super) fn take<T>(&self, result: Result<T, Complaint>) -> Option<T> {
        result.map_err(|complaint| self.complain(complaint)).ok()
    }

    /// Returns the value of a key, or its default if it is missing or invalid.
    pub(super) fn get<R: Rule>(&self, key: &'static Key<R>) -> R::Value {
        self.find(key)
            .and_then(|found| self.take(key.rule.read(&found)))
            .unwrap_or_else(|| key.default.clone())
    }

    /// Returns the value of a key, or `None` if it is missing or invalid.
    pub(super) fn get_optional<R: Rule>(&self, key: &'static Optional<R>) -> Option<R::Value> {
        self.find(key).and_then(|found| self.take(key.rule.read(&found)))
    }

    /// Returns the value of a key, unread.
    pub(super) fn find(&self, key: &dyn Entry) -> Option<Found<'t>> {
        let name = key.name();
        debug_assert!(
            self.def.keys.iter().any(|known| known.name() == name),
            "`{name}` is not in the schema of {}",
            self.def.title()
        );
        let (_, value) = self.table.iter().find(|(key, _)| key.get_ref() == name)?;
        Some(Found { name, value: value.get_ref(), span: value.span() })
    }

    /// Returns the location of a key's value, if present.
    pub(super) fn span_of(&self, key: &dyn Entry) -> Option<Span> {
        self.find(key).map(|found| found.span())
    }

    /// Returns the location of a key's name, if present.
    pub(super) fn key_span(&self, key: &dyn Entry) -> Option<Span> {
        self.table.keys().find(|known| known.get_ref() == key.name()).map(Spanned::span)
    }

    /// Returns the table of a key. Any other value is an error.
    pub(super) fn section(&self, key: &'static Free) -> Option<Self> {
        let found = self.find(key)?;
        if let DeValue::Table(table) = found.value {
            self.open_below(key, table)
        } else {
            self.complain(found.wrong_type("a table"));
            None
        }
    }

    /// Opens an empty table in place of a missing one.
    pub(super) fn absent(&self, key: &'static Free, empty: &'t DeTable<'t>) -> Option<Self> {
        let meant = Vec::new();
        key.table.map(|def| Self { table: empty, span: self.span(), def, sink: self.sink, meant })
    }

    /// Returns the array of tables of a key. Any other value is an error.
    pub(super) fn sections(&self, key: &'static Free) -> Vec<Self> {
        let Some(found) = self.find(key) else { return Vec::new() };
        let name = self.def.keys.iter().find(|entry| entry.name() == key.name).and(key.table);
        let title = name.map(Table::title).unwrap_or_default();
        let DeValue::Array(list) = found.value else {
            let help = format!("use double brackets: {title}");
            self.complain(found.wrong_type("an array of tables").help(help));
            return Vec::new();
        };
        let mut sections = Vec::new();
        let mut wrong = None;
        for element in found.elements(list) {
            match (element.value, key.table) {
                (DeValue::Table(table), Some(def)) => {
                    sections.push(Self::open(table, element.span(), def, self.sink));
                }
                _ => wrong = wrong.or(Some(element)),
            }
        }
        // One error, however many elements.
        if let Some(element) = wrong {
            let complaint = element.wrong_type("an array of tables");
            let plural = format!("{}s", key.name);
            let short = self.def.keys.iter().any(|entry| entry.name() == plural);
            self.complain(match element.value {
                DeValue::String(_) if short => {
                    complaint.help(format!("for addresses, use {plural} = [\u{2026}]"))
                }
                _ => complaint.help(format!("use double brackets: {title}")),
            });
        }
        sections
    }

    /// Opens `table`, the value of `key`.
    pub(super) fn open_below(&self, key: &'static Free, table: &'t DeTable<'t>) -> Option<Self> {
        let span = self.key_span(key).unwrap_or_else(|| self.span());
        key.table.map(|def| Self::open(table, span, def, self.sink))
    }

    /// Opens a named table. Any other value is an error.
    pub(super) fn open_named(
        name: &'t Spanned<DeString<'t>>,
        value: &'t Spanned<DeValue<'t>>,
        def: &'static Table,
        sink: &'t RefCell<Sink>,
    ) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::open(table, name.span(), def, sink)),
            other => {
                let message = format!("expected a table for `{}`, found {}", name.get_ref(), kind(other));
                sink.borrow_mut().push(Complaint::error(message).at(value.span(), ""));
                None
            }
        }
    }
}

fn unknown_key(key: &Spanned<DeString<'_>>, def: &'static Table) -> Complaint {
    let name: &str = key.get_ref();
    let place = if def.path.is_empty() { String::new() } else { format!(" in {}", def.title()) };
    let complaint = Complaint::error(format!("unknown key `{name}`{place}")).at(key.span(), "");
    if let Some(ours) = suggest::foreign(name) {
        return complaint.help(ours);
    }
    if let Some(known) = nearest(name, def.keys.iter().map(|known| known.name())) {
        return complaint.help(format!("did you mean `{known}`?"));
    }
    let elsewhere: Vec<_> = schema::FILE
        .walk()
        .into_iter()
        .filter(|table| table.keys.iter().any(|known| known.name() == name))
        .map(Table::title)
        .collect();
    if !elsewhere.is_empty() {
        return complaint.help(format!("`{name}` is a key of {}", elsewhere.join(" or ")));
    }
    let known: Vec<_> = def.keys.iter().map(|known| format!("`{}`", known.name())).collect();
    complaint.help(format!("expected one of {}", known.join(", ")))
}
