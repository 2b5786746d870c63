//! The rules of `docs/architecture.md`, held by reading the sources.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our folders a folder may import.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("affinity", &[]),
    ("h1", &["affinity"]),
    ("tls", &[]),
    ("model", &["affinity", "tls"]),
    ("config", &["affinity", "model", "tls"]),
    ("telemetry", &["affinity", "model"]),
    ("proxy", &["affinity", "h1", "model", "proxy_protocol", "telemetry", "tls"]),
    ("control", &["affinity", "model", "proxy_protocol", "tls"]),
    ("admin", &["affinity", "model", "telemetry"]),
    ("proxy_protocol", &[]),
    ("demo", &[]),
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
        name == "tests" || name == "tests.rs" || name.ends_with("_tests.rs")
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

/// The folders that a source names by `crate::`.
fn imports(source: &str) -> BTreeSet<&str> {
    let mut named = BTreeSet::new();
    for line in source.lines().filter(|line| !line.trim_start().starts_with("//")) {
        for after in line.split("crate::").skip(1) {
            let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
            named.insert(&after[..end]);
        }
    }
    named
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    for (folder, allowed) in MAY_IMPORT {
        for path in files(&root().join("src").join(folder), "rs").iter().filter(|p| !is_test(p)) {
            for import in imports(&source(path)) {
                let ours =
                    MAY_IMPORT.iter().any(|(name, _)| *name == import) || ["app", "cli"].contains(&import);
                if ours && import != *folder && !allowed.contains(&import) {
                    wrong.push(format!("{} imports {import}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_folder_has_its_rule() {
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        let ruled = MAY_IMPORT.iter().any(|(folder, _)| *folder == name);
        assert!(
            ruled || !entry.path().is_dir() || ["app", "cli"].contains(&&*name),
            "src/{name} is not in MAY_IMPORT"
        );
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
