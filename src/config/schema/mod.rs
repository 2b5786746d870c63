//! Every key of the file: its name, what it takes, what it is when absent.
//!
//! This is the only list. The reader refuses what is not in it, takes bounds
//! and defaults from it, and `docs/configuration.md` is printed from it.

mod affinity;
mod global;
mod rules;
mod tls;
mod upstream;

pub(super) use affinity::*;
pub(super) use global::*;
pub(super) use rules::*;
pub(super) use tls::*;
pub(super) use upstream::*;

/// One table of the file.
pub(super) struct Table {
    /// Where it is, dotted; `NAME` stands for the upstream's name.
    pub(super) path: &'static str,
    /// What it is for, in a sentence.
    pub(super) doc: &'static str,
    /// What may be in it.
    pub(super) keys: &'static [&'static dyn Entry],
}

impl Table {
    /// The path as it is written in messages.
    pub(super) fn title(&self) -> String {
        match self.path {
            "" => "the file".to_owned(),
            "listener" | "route" | "upstream.NAME.backend" => format!("[[{}]]", self.path),
            path => format!("[{path}]"),
        }
    }

    /// This table and all below it, in the order of the file.
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

/// What is known of any key.
pub(super) trait Entry: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// What it takes, for people.
    fn shape(&self) -> String;
    /// What it is when absent, as it would be written.
    fn default(&self) -> String;
    /// What it does, in a sentence.
    fn doc(&self) -> &'static str;
    /// The table it may hold.
    fn table(&self) -> Option<&'static Table> {
        None
    }
}

/// A key with a default.
pub(super) struct Key<R: Rule> {
    /// Its name.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) rule: R,
    /// What it is when absent.
    pub(super) default: R::Value,
    /// What it does.
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

/// A key whose absence means something of its own.
pub(super) struct Optional<R: Rule> {
    /// Its name.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) rule: R,
    /// What its absence means.
    pub(super) absent: &'static str,
    /// What it does.
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

/// A key with a grammar of its own, read by the code that lowers it; or one
/// that holds a table, alone or besides a short form.
pub(super) struct Free {
    /// Its name.
    pub(super) name: &'static str,
    /// What it takes.
    pub(super) shape: &'static str,
    /// What its absence means.
    pub(super) absent: &'static str,
    /// What it does.
    pub(super) doc: &'static str,
    /// The table it may hold.
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
