//! The TOML as it is written: tables with known keys, values with their places.
//!
//! A hand-written reader over the parsed document, not a derived one: serde
//! stops at the first value it does not like and loses the places of short
//! forms; this reports everything at once.

use std::cell::RefCell;

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::diagnostics::{Complaint, Sink, Span};
use super::schema::{self, Entry, Free, Key, Optional, Rule, Table};
use super::suggest::nearest;

/// A value that was found under a key.
#[derive(Clone)]
pub(super) struct Found<'t> {
    /// The key.
    pub(super) name: &'static str,
    /// The value.
    pub(super) value: &'t DeValue<'t>,
    span: Span,
}

impl<'t> Found<'t> {
    /// Where the value is.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// "`key` takes …, not …".
    pub(super) fn wrong_type(&self, wanted: &str) -> Complaint {
        Complaint::error(format!("`{}` takes {wanted}, not {}", self.name, kind(self.value)))
            .at(self.span(), "")
    }

    /// "`key` is out of bounds".
    pub(super) fn out_of_bounds(&self, bounds: &str) -> Complaint {
        Complaint::error(format!("`{}` is out of bounds", self.name))
            .at(self.span(), format!("it takes {bounds}"))
    }

    /// An integer, whatever its size.
    pub(super) fn integer(&self) -> Result<i128, Complaint> {
        match self.value {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix()).map_err(|_| {
                Complaint::error(format!("`{}` is out of bounds", self.name)).at(self.span(), "")
            }),
            DeValue::String(text) if text.parse::<i64>().is_ok() => {
                Err(self.wrong_type("a whole number").help(format!("write {text} without quotes")))
            }
            _ => Err(self.wrong_type("a whole number")),
        }
    }

    /// A text.
    pub(super) fn text(&self, wanted: &str) -> Result<&'t str, Complaint> {
        self.value.as_str().ok_or_else(|| self.wrong_type(wanted))
    }

    /// The values of a list, each with its place.
    pub(super) fn list(&self, wanted: &str) -> Result<Vec<Self>, Complaint> {
        match self.value {
            DeValue::Array(list) => Ok(self.elements(list)),
            DeValue::String(text) => {
                Err(self.wrong_type(wanted).help(format!("write {} = [\"{text}\"]", self.name)))
            }
            _ => Err(self.wrong_type(wanted)),
        }
    }

    /// The values of this list, each with its place.
    pub(super) fn elements(&self, list: &'t DeArray<'t>) -> Vec<Self> {
        list.iter()
            .map(|element| Self { name: self.name, value: element.get_ref(), span: element.span() })
            .collect()
    }
}

/// An open table.
#[derive(Clone)]
pub(super) struct Section<'t> {
    table: &'t DeTable<'t>,
    span: Span,
    def: &'static Table,
    sink: &'t RefCell<Sink>,
}

impl<'t> Section<'t> {
    /// Opens a table; keys that are not in its definition are refused.
    pub(super) fn open(
        table: &'t DeTable<'t>,
        span: Span,
        def: &'static Table,
        sink: &'t RefCell<Sink>,
    ) -> Self {
        for key in table.keys() {
            if !def.keys.iter().any(|known| known.name() == key.get_ref()) {
                sink.borrow_mut().push(unknown_key(key, def));
            }
        }
        Self { table, span, def, sink }
    }

    /// Where the table is: its header, or the key that holds it.
    pub(super) fn span(&self) -> Span {
        self.span.clone()
    }

    /// Where problems go.
    pub(super) fn sink(&self) -> &'t RefCell<Sink> {
        self.sink
    }

    /// Reports a problem; where it has no place yet, it is the table's. The
    /// whole file is no place.
    pub(super) fn complain(&self, complaint: Complaint) {
        let complaint = if self.def.path.is_empty() { complaint } else { complaint.or_at(self.span()) };
        self.sink.borrow_mut().push(complaint);
    }

    /// The value, or the problem reported and `None`.
    pub(super) fn take<T>(&self, result: Result<T, Complaint>) -> Option<T> {
        result.map_err(|complaint| self.complain(complaint)).ok()
    }

    /// The value of a key, its default where it is absent or wrong.
    pub(super) fn get<R: Rule>(&self, key: &'static Key<R>) -> R::Value {
        self.find(key)
            .and_then(|found| self.take(key.rule.read(&found)))
            .unwrap_or_else(|| key.default.clone())
    }

    /// The value of a key, `None` where it is absent or wrong.
    pub(super) fn get_optional<R: Rule>(&self, key: &'static Optional<R>) -> Option<R::Value> {
        self.find(key).and_then(|found| self.take(key.rule.read(&found)))
    }

    /// What is under a key.
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

    /// Where the value of a key is, if it is given.
    pub(super) fn span_of(&self, key: &dyn Entry) -> Option<Span> {
        self.find(key).map(|found| found.span())
    }

    /// Where the name of a key is, if it is given.
    pub(super) fn key_span(&self, key: &dyn Entry) -> Option<Span> {
        self.table.keys().find(|known| known.get_ref() == key.name()).map(Spanned::span)
    }

    /// The table under a key; anything else there is refused.
    pub(super) fn section(&self, key: &'static Free) -> Option<Self> {
        let found = self.find(key)?;
        if let DeValue::Table(table) = found.value {
            self.open_below(key, table)
        } else {
            self.complain(found.wrong_type("a table"));
            None
        }
    }

    /// An empty table in the place of one that is not there.
    pub(super) fn absent(&self, key: &'static Free, empty: &'t DeTable<'t>) -> Option<Self> {
        key.table.map(|def| Self { table: empty, span: self.span(), def, sink: self.sink })
    }

    /// The tables of the array under a key; anything else there is refused.
    pub(super) fn sections(&self, key: &'static Free) -> Vec<Self> {
        let Some(found) = self.find(key) else { return Vec::new() };
        let name = self.def.keys.iter().find(|entry| entry.name() == key.name).and(key.table);
        let title = name.map(Table::title).unwrap_or_default();
        let DeValue::Array(list) = found.value else {
            let help = format!("write {title} with two pairs of brackets");
            self.complain(found.wrong_type("an array of tables").help(help));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for element in found.elements(list) {
            match (element.value, key.table) {
                (DeValue::Table(table), Some(def)) => {
                    sections.push(Self::open(table, element.span(), def, self.sink));
                }
                _ => self.complain(element.wrong_type("tables")),
            }
        }
        sections
    }

    /// Opens `table`, found under `key`.
    pub(super) fn open_below(&self, key: &'static Free, table: &'t DeTable<'t>) -> Option<Self> {
        let span = self.key_span(key).unwrap_or_else(|| self.span());
        key.table.map(|def| Self::open(table, span, def, self.sink))
    }

    /// Opens a table under a name; anything else there is refused.
    pub(super) fn open_named(
        name: &'t Spanned<DeString<'t>>,
        value: &'t Spanned<DeValue<'t>>,
        def: &'static Table,
        sink: &'t RefCell<Sink>,
    ) -> Option<Self> {
        match value.get_ref() {
            DeValue::Table(table) => Some(Self::open(table, name.span(), def, sink)),
            other => {
                let message = format!("`{}` takes a table, not {}", name.get_ref(), kind(other));
                sink.borrow_mut().push(Complaint::error(message).at(value.span(), ""));
                None
            }
        }
    }
}

fn unknown_key(key: &Spanned<DeString<'_>>, def: &'static Table) -> Complaint {
    let name: &str = key.get_ref();
    let complaint = Complaint::error(format!("unknown key `{name}` in {}", def.title())).at(key.span(), "");
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
        return complaint.help(format!("`{name}` belongs to {}", elsewhere.join(" or ")));
    }
    let known: Vec<_> = def.keys.iter().map(|known| known.name()).collect();
    complaint.help(format!("known here: {}", known.join(", ")))
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(true) => "`true`",
        DeValue::Boolean(false) => "`false`",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
