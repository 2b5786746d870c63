//! The rules of `docs/architecture.md`, held by reading the sources.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod imports;

use std::fs;
use std::path::{Path, PathBuf};

use imports::{Imports, between_children, circles, folders};

/// Which modules of the crate a module may import. A row may name only rows above it, so there
/// is no circle.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("proxy_protocol", &[]),
    ("secret", &[]),
    ("affinity", &["secret"]),
    ("h1", &["affinity"]),
    ("tls", &["secret"]),
    ("model", &["affinity", "tls"]),
    ("dial", &["model", "tls"]),
    ("config", &["affinity", "model", "secret", "tls"]),
    ("telemetry", &["affinity", "model"]),
    ("proxy", &["affinity", "dial", "h1", "model", "proxy_protocol", "telemetry", "tls"]),
    ("control", &["affinity", "dial", "model", "proxy_protocol", "tls"]),
    ("admin", &["affinity", "model", "telemetry"]),
    ("demo", &[]),
    ("app", &["admin", "affinity", "config", "control", "dial", "model", "proxy", "telemetry", "tls"]),
    ("cli", &["affinity", "app", "config", "demo", "model", "telemetry", "tls"]),
];

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Is it a file of tests, which may reach further?
fn is_test(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        name == "tests" || name == "tests.rs" || name == "fixture.rs" || name.ends_with("_tests.rs")
    })
}

/// The source without its unit tests.
fn source(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

fn imports() -> Imports {
    Imports::read(&root().join("src"))
}

#[test]
fn imports_go_one_way() {
    let imports = imports();
    let edges = imports.edges();
    let mut wrong = Vec::new();
    for (module, imported) in between_children(&edges, "") {
        let row = MAY_IMPORT.iter().find(|(name, _)| *name == module);
        let (_, allowed) = row.unwrap_or_else(|| panic!("src/{module} is not in MAY_IMPORT"));
        wrong.extend(
            imported
                .iter()
                .filter(|name| !allowed.contains(name))
                .map(|name| format!("{module} imports {name}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rules_have_no_circle_and_no_row_too_many() {
    let imports = imports();
    let edges = imports.edges();
    let between = between_children(&edges, "");
    for (index, (module, allowed)) in MAY_IMPORT.iter().enumerate() {
        for name in *allowed {
            let above = MAY_IMPORT[..index].iter().any(|(other, _)| other == name);
            assert!(above, "{module} may import {name}, which is not above it");
            assert!(between[module].contains(name), "{module} may import {name}, but does not");
        }
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports();
    let circles = circles(&imports.edges());
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn no_folders_import_each_other_in_a_circle() {
    let imports = imports();
    let edges = imports.edges();
    for folder in folders(&edges) {
        let circles = circles(&between_children(&edges, folder));
        assert!(circles.is_empty(), "in src/{folder}: {circles:#?}");
    }
}

/// Affinity is pure: time, sockets and the runtime are not its business.
#[test]
fn affinity_has_no_runtime_and_no_clock() {
    for path in files(&root().join("src/affinity"), "rs").iter().filter(|p| !is_test(p)) {
        let source = source(path);
        for word in ["tokio", "hyper", "Instant::now", "SystemTime::now", "std::thread"] {
            let used = source.lines().filter(|l| !l.trim_start().starts_with("//")).any(|l| l.contains(word));
            assert!(!used, "{} uses {word}", path.display());
        }
    }
}

#[test]
fn a_file_holds_one_concept() {
    for path in files(&root().join("src"), "rs").iter().filter(|p| !is_test(p)) {
        let lines = source(path).lines().count();
        assert!(lines <= 450, "{} has {lines} lines; what else is in it?", path.display());
    }
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(["README.md", "CHANGELOG.md", "bench/README.md"].map(|page| root().join(page)));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if !target.is_empty() && !target.contains("://") {
                let leads = page.parent().unwrap().join(target);
                assert!(leads.exists(), "{} links to {target}", page.display());
            }
        }
    }
}
