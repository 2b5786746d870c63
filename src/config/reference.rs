//! Generates the key reference from the schema.

use std::fmt::Write;

use super::schema::{Entry, FILE, Table};

/// Returns the reference of all tables and keys as Markdown.
/// `docs/configuration.md` contains it.
pub fn reference() -> String {
    let mut text = String::new();
    for table in FILE.walk() {
        if !table.path.is_empty() {
            section(&mut text, table);
        }
    }
    text
}

fn section(text: &mut String, table: &Table) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "### `{}`\n\n{}\n", table.title(), table.doc);
    let _ = writeln!(text, "| key | type | default | description |\n|---|---|---|---|");
    for entry in table.keys {
        row(text, *entry);
    }
    text.push('\n');
}

fn row(text: &mut String, entry: &dyn Entry) {
    let cell = |text: &str| text.replace('|', "\\|");
    let _ = writeln!(
        text,
        "| `{}` | {} | {} | {} |",
        entry.name(),
        cell(&entry.shape()),
        cell(&entry.default()),
        cell(entry.doc())
    );
}

/// Returns every key as `(table, key)`.
pub fn keys() -> Vec<(&'static str, &'static str)> {
    let tables = FILE.walk();
    tables.iter().flat_map(|table| table.keys.iter().map(|key| (table.path, key.name()))).collect()
}
