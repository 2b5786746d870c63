//! The schema: the name, type, default and description of every key.
//!
//! This is the only list of keys. The reader takes known keys, bounds and defaults
//! from it, and the reference in `docs/configuration.md` is generated from it.

mod affinity;
mod global;
mod layers;
mod rules;
mod timeouts;
mod tls;
mod upstream;

pub(super) use affinity::*;
pub(super) use global::*;
pub(super) use layers::*;
pub(super) use rules::*;
pub(super) use timeouts::*;
pub(super) use tls::*;
pub(super) use upstream::*;

/// A table of the file.
pub(super) struct Table {
    /// The dotted path. `NAME` stands for the upstream's name.
    pub(super) path: &'static str,
    /// The description, a sentence or two.
    pub(super) doc: &'static str,
    /// The known keys.
    pub(super) keys: &'static [&'static dyn Entry],
}

impl Table {
    /// Returns the table's header, as shown in messages.
    pub(super) fn title(&self) -> String {
        match self.path {
            "" => "the top level".to_owned(),
            "listener" | "route" | "upstream.NAME.backend" => format!("[[{}]]", self.path),
            path => format!("[{path}]"),
        }
    }

    /// Returns this table and all nested tables, in schema order.
    pub(super) fn walk(&'static self) -> Vec<&'static Self> {
        let mut tables = vec![self];
        for entry in self.keys {
            if let Some(table) = entry.table() {
                tables.extend(table.walk());
            }
        }
        tables
    }
}

/// The schema of a key.
pub(super) trait Entry: Sync {
    /// Returns the name.
    fn name(&self) -> &'static str;
    /// Describes the type.
    fn shape(&self) -> String;
    /// Returns the default, as written in TOML, or describes it.
    fn default(&self) -> String;
    /// Returns the description, a sentence or two.
    fn doc(&self) -> &'static str;
    /// Returns the nested table, if any.
    fn table(&self) -> Option<&'static Table> {
        None
    }
}

/// A key with a default value.
pub(super) struct Key<R: Rule> {
    /// The name.
    pub(super) name: &'static str,
    /// The type.
    pub(super) rule: R,
    /// The default.
    pub(super) default: R::Value,
    /// The description.
    pub(super) doc: &'static str,
}

impl<R: Rule> Entry for Key<R> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn shape(&self) -> String {
        self.rule.shape()
    }
    fn default(&self) -> String {
        self.rule.show(&self.default)
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
}

/// A key without a default value.
pub(super) struct Optional<R: Rule> {
    /// The name.
    pub(super) name: &'static str,
    /// The type.
    pub(super) rule: R,
    /// The behavior if the key is missing.
    pub(super) absent: &'static str,
    /// The description.
    pub(super) doc: &'static str,
}

impl<R: Rule> Entry for Optional<R> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn shape(&self) -> String {
        self.rule.shape()
    }
    fn default(&self) -> String {
        self.absent.to_owned()
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
}

/// A key with its own syntax, parsed where it is lowered, or a key that holds a
/// table, with or without a short form.
pub(super) struct Free {
    /// The name.
    pub(super) name: &'static str,
    /// The type.
    pub(super) shape: &'static str,
    /// The behavior if the key is missing.
    pub(super) absent: &'static str,
    /// The description.
    pub(super) doc: &'static str,
    /// The nested table, if any.
    pub(super) table: Option<&'static Table>,
}

impl Entry for Free {
    fn name(&self) -> &'static str {
        self.name
    }
    fn shape(&self) -> String {
        self.shape.to_owned()
    }
    fn default(&self) -> String {
        self.absent.to_owned()
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
    fn table(&self) -> Option<&'static Table> {
        self.table
    }
}
