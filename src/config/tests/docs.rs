//! Checks the documentation against the program.

use super::*;

const BEGIN: &str = "<!-- begin: printed by the program, `UPDATE_DOCS=1 cargo test --lib config` -->\n";
const END: &str = "<!-- end -->";

#[test]
fn key_reference_is_up_to_date() {
    let path = root().join("docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (printed, after) = rest.split_once(END).unwrap();
    let reference = format!("\n{}", reference());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{reference}{END}{after}")).unwrap();
        return;
    }
    assert!(
        printed == reference,
        "docs/configuration.md is out of date; run `UPDATE_DOCS=1 cargo test --lib config`"
    );
}

/// Returns the TOML blocks of a page with their line numbers.
fn toml_blocks(page: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(page.lines()) {
        match (&mut open, line.trim()) {
            (None, "```toml") => open = Some((number + 1, String::new())),
            (Some(_), "```") => blocks.extend(open.take()),
            (Some((_, block)), _) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

#[test]
fn complete_examples_in_the_documentation_are_valid_without_warnings() {
    let mut pages: Vec<PathBuf> =
        fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.push(root().join("README.md"));
    let mut checked = 0;
    for page in pages.iter().filter(|page| page.extension().is_some_and(|e| e == "md") && page.exists()) {
        for (line, block) in toml_blocks(&fs::read_to_string(page).unwrap()) {
            // A block without a listener is only an excerpt.
            if !block.contains("[[listener]]") {
                continue;
            }
            let origin = format!("{}:{line}", page.file_name().unwrap().display());
            let loaded = parse_sealed_off(&block, &origin, SECRET).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(render_all(&loaded.warnings, false), "", "{origin}");
            checked += 1;
        }
    }
    assert!(checked >= 4, "only {checked} complete examples found");
}

#[test]
fn examples_are_accepted_without_a_warning_and_listed() {
    let folder = root().join("examples");
    let index = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut examples = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "README.md" {
            continue;
        }
        assert!(index.contains(&format!("]({name})")), "examples/README.md does not list {name}");
        let text = fs::read_to_string(&path).unwrap();
        let loaded = parse_sealed_off(&text, &name, SECRET).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(render_all(&loaded.warnings, false), "", "{name}");
        examples += 1;
    }
    let listed = index.lines().filter(|line| line.starts_with("| [`")).count();
    assert_eq!(listed, examples, "examples/README.md lists a file that is missing");
}
