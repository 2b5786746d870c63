//! Shows how a configuration differs from the defaults, so that a new key with a default changes no
//! snapshot.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::iter::Peekable;

use super::{SECRET, parse_sealed_off};
use crate::model::Config;

/// The shortest valid file: every value in it is a default.
const BARE: &str = r#"
    server.workers = 1
    [[listener]]
    bind = "127.0.0.1:0"
    [upstream.web]
    backends = ["10.0.0.1:80"]
"#;

/// Optional tables with their defaults, for values that the shortest file does not have.
const OPTIONAL: &str = r#"
    [[listener]]
    bind = "127.0.0.1:0"
    tls = { certs = ["cert.pem"] }
    [upstream.web]
    backends = ["10.0.0.1:80"]
    affinity = { key = ["ip"], remember = "cookie", cookie = { keys_file = "keys" } }
    health_check = { path = "/" }
    tls = true
"#;

/// A value of a configuration.
struct Leaf {
    /// Where it is: `upstreams[1].affinity.hold`.
    path: String,
    /// The same with the first of all listeners, routes, upstreams and backends.
    default_path: String,
    value: String,
}

/// Returns a line for each value of `config` that is not the default.
pub(super) fn differences(config: &Config) -> String {
    let mut defaults = HashMap::new();
    for text in [BARE, OPTIONAL] {
        let loaded = parse_sealed_off(text, "defaults.toml", SECRET).unwrap();
        for leaf in leaves(&loaded.config) {
            defaults.entry(leaf.path).or_insert(leaf.value);
        }
    }
    let mut text = String::new();
    for leaf in leaves(config) {
        if defaults.get(&leaf.default_path) != Some(&leaf.value) {
            writeln!(text, "{}: {}", leaf.path, leaf.value).unwrap();
        }
    }
    text
}

fn leaves(config: &Config) -> Vec<Leaf> {
    let text = format!("{config:#?}");
    let mut lines = text.lines().peekable();
    let opener = lines.next().unwrap();
    let mut leaves = Vec::new();
    read(&mut lines, opener, "", "", &mut leaves);
    leaves
}

/// Reads `{:#?}` output up to the line that closes what `opener` opened.
fn read<'a>(
    lines: &mut Peekable<impl Iterator<Item = &'a str>>,
    opener: &str,
    path: &str,
    default_path: &str,
    leaves: &mut Vec<Leaf>,
) {
    let mut index = 0;
    while let Some(line) = lines.next() {
        let line = line.trim().trim_end_matches(',');
        if line.starts_with(['}', ')', ']']) {
            return;
        }
        let (name, default_name, value) = if opener.ends_with('{') {
            let (name, value) = line.split_once(": ").unwrap();
            let name = if path.is_empty() { name.to_owned() } else { format!(".{name}") };
            (name.clone(), name, value)
        } else if opener.ends_with('[') {
            let default_index = if line.ends_with('{') { 0 } else { index };
            (format!("[{index}]"), format!("[{default_index}]"), line)
        } else {
            let name = if index == 0 { String::new() } else { format!(".{index}") };
            (name.clone(), name, line)
        };
        index += 1;
        let (path, default_path) = (path.to_owned() + &name, default_path.to_owned() + &default_name);
        let Some(kind) = value.strip_suffix(['{', '(', '[']) else {
            leaves.push(Leaf { path, default_path, value: value.to_owned() });
            continue;
        };
        let kind = kind.trim_end();
        // `Some` is left out. The names of other tuple variants become part of the path.
        let tuple = value.ends_with('(');
        if kind.is_empty() || kind == "Some" {
            read(lines, value, &path, &default_path, leaves);
            continue;
        }
        if !tuple || lines.peek().is_some_and(|line| line.ends_with('{')) {
            let (path, default_path) = (path.clone(), default_path.clone());
            leaves.push(Leaf { path, default_path, value: kind.to_owned() });
        }
        let suffix = if tuple { format!(".{kind}") } else { String::new() };
        read(lines, value, &(path + &suffix), &(default_path + &suffix), leaves);
    }
}
