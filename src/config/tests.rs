//! Parses every file under `tests/configs/` and compares the result with snapshots.

mod docs;
mod properties;
mod shown;

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// The content of every file that a configuration names: a key, also valid as a seed.
const SECRET: &[u8] = b"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the names and contents of the files in a folder of `tests/configs/`.
fn configs(folder: &str) -> Vec<(String, String)> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("tests/configs").join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
        .iter()
        .map(|path| {
            (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Compares `text` with its snapshot next to the configurations.
fn snapshot(folder: &str, name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(root().join("tests/configs").join(folder).join("snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn invalid_files_report_all_errors() {
    for (name, text) in configs("invalid") {
        let origin = format!("{name}.toml");
        let diagnostics = parse(&text, &origin).expect_err(&name);
        assert!(diagnostics.errors() > 0, "{name}");
        snapshot("invalid", &name, &diagnostics.to_string());
    }
}

#[test]
fn valid_files_are_lowered_as_expected() {
    for (name, text) in configs("valid") {
        let origin = format!("{name}.toml");
        let loaded =
            parse_sealed_off(&text, &origin, SECRET).unwrap_or_else(|error| panic!("{name}:\n{error}"));
        let mut config = loaded.config;
        if !text.contains("workers") {
            // The default depends on the machine's cores.
            config.server.workers = std::num::NonZeroUsize::MIN;
        }
        let warnings = render_all(&loaded.warnings, false);
        snapshot("valid", &name, &format!("{warnings}{}", shown::differences(&config)));
    }
}

/// Uncomments all settings in `proxy.toml`.
fn everything_on(text: &str) -> String {
    let on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with([' ', '#']) => setting.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(|line| on(line) + "\n").collect()
}

/// Collects every `(table, key)` in a document.
fn written(table: &toml::Table, path: &str, keys: &mut Vec<(String, String)>) {
    for (name, value) in table {
        keys.push((path.to_owned(), name.clone()));
        let below = match path {
            "" => name.clone(),
            "upstream" => "upstream.NAME".to_owned(),
            _ => format!("{path}.{name}"),
        };
        match value {
            toml::Value::Table(table) => written(table, &below, keys),
            toml::Value::Array(list) => {
                for table in list.iter().filter_map(toml::Value::as_table) {
                    written(table, &below, keys);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn reference_file_is_valid_without_warnings() {
    let loaded = load(&root().join("proxy.toml")).unwrap();
    assert_eq!(render_all(&loaded.warnings, false), "");
    let upstream = &loaded.config.upstreams[0];
    let ids: Vec<_> = upstream.backends.iter().map(|backend| backend.id.as_str()).collect();
    assert_eq!(ids, ["node1", "node2", "node3"]);
}

#[test]
fn reference_file_shows_every_key_and_is_valid_uncommented() {
    let text = everything_on(&fs::read_to_string(root().join("proxy.toml")).unwrap());
    let loaded = parse_sealed_off(&text, "proxy.toml", SECRET).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(render_all(&loaded.warnings, false), "");
    let mut present = Vec::new();
    written(&text.parse().unwrap(), "", &mut present);
    for (table, key) in keys() {
        assert!(
            present.iter().any(|(path, name)| path == table && name == key),
            "`{key}` of [{table}] is missing in proxy.toml"
        );
    }
}

/// Returns the name, value and default of a commented-out setting in `proxy.toml`.
/// Settings of commented-out tables are examples, not defaults.
fn shows_default(table: &str, line: &str) -> Option<(&'static str, String, String)> {
    let (name, value) = line.strip_prefix('#')?.split_once(" = ")?;
    let known = schema::FILE.walk().into_iter().find(|known| known.path == table)?;
    let entry = known.keys.iter().find(|key| key.name() == name)?;
    let default = entry.default();
    let is_value = format!("x = {default}").parse::<toml::Table>().is_ok();
    is_value.then(|| (entry.name(), value.to_owned(), default))
}

/// Returns the schema path of a table header.
fn header(line: &str) -> Option<String> {
    (line.starts_with('[') || line.starts_with("#["))
        .then(|| line.trim_matches(['[', ']']).replacen("upstream.demo", "upstream.NAME", 1))
}

#[test]
fn commented_settings_in_the_reference_file_are_defaults() {
    let text = fs::read_to_string(root().join("proxy.toml")).unwrap();
    let (mut table, mut shown, mut on) = (String::new(), 0, String::new());
    for line in text.lines() {
        table = header(line).unwrap_or(table);
        match shows_default(&table, line) {
            Some((name, value, default)) => {
                assert_eq!(value, default, "`{name}` of [{table}] in proxy.toml");
                shown += 1;
                on.push_str(&line[1..]);
            }
            None => on.push_str(line),
        }
        on.push('\n');
    }
    assert!(shown > 30, "only {shown} defaults checked");
    let off = parse(&text, "proxy.toml").unwrap().config;
    let on = parse(&on, "proxy.toml").unwrap_or_else(|error| panic!("{error}")).config;
    assert_eq!(off, on, "an explicit default changes the configuration");
}

#[test]
fn paths_are_relative_to_the_configuration_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let text = "[access_log]\nformat = \"json\"\noutput = \"access.log\"\n\
                [[listener]]\nbind = \"127.0.0.1:0\"\n[upstream.web]\nbackends = [\"10.0.0.1:80\"]\n\
                [upstream.web.affinity]\nremember = \"cookie\"\ncookie = { keys_file = \"keys\" }\n\
                ring = { seed_file = \"seed\" }\n";
    fs::write(path("homing.toml"), text).unwrap();
    let LoadError::Invalid(diagnostics) = load(&path("homing.toml")).unwrap_err() else {
        panic!("expected errors for the missing files")
    };
    assert_eq!(diagnostics.errors(), 2, "{diagnostics}");
    fs::write(path("keys"), SECRET).unwrap();
    fs::write(path("seed"), "correct horse battery staple\n").unwrap();
    let loaded = load(&path("homing.toml")).unwrap();
    assert_eq!(loaded.config.access_log.output, crate::model::LogOutput::File(path("access.log")));
    let affinity = &loaded.config.upstreams[0].affinity;
    assert_ne!(affinity.seed, crate::affinity::Seed::default());
    let cookie = affinity.remember.cookie.as_ref().expect("a cookie");
    assert_eq!((cookie.keys.len(), cookie.keys_file.as_ref()), (1, Some(&path("keys"))));
    let mut files = loaded.files;
    files.sort();
    assert_eq!(files, [path("keys"), path("seed")]);
}

#[test]
fn binary_files_and_directories_are_read_errors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("homing.toml");
    fs::write(&path, b"\xff\xfe").unwrap();
    assert!(matches!(load(&path), Err(LoadError::Read { .. })));
    assert!(matches!(load(directory.path()), Err(LoadError::Read { .. })));
}
