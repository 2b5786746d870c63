//! The list of what is deliberately otherwise.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A case that is not passed, on purpose.
#[derive(Debug, PartialEq, Eq)]
pub struct Deviation {
    /// On which listener.
    pub listener: String,
    /// h2spec's name of the case.
    pub case: String,
    /// Why.
    pub reason: String,
}

/// Reads the file.
pub fn read(path: &Path, listeners: &[&str]) -> Result<Vec<Deviation>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text, listeners).with_context(|| path.display().to_string())
}

/// One deviation a line: listener, case, reason. `#` begins a comment.
pub fn parse(text: &str, listeners: &[&str]) -> Result<Vec<Deviation>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let deviation = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::trim);
        let (Some(listener), Some(case), Some(reason)) = (words.next(), words.next(), words.next()) else {
            bail!("not LISTENER CASE REASON: {line}");
        };
        if !listeners.contains(&listener) {
            bail!("there is no listener {listener}: {line}");
        }
        Ok(Deviation { listener: listener.into(), case: case.into(), reason: reason.into() })
    };
    lines.map(deviation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_listener_case_and_reason() {
        let list = parse("# why\n\nh2c http2/1/2 For a reason.\n", &["h2c"]).unwrap();
        let wanted =
            Deviation { listener: "h2c".into(), case: "http2/1/2".into(), reason: "For a reason.".into() };
        assert_eq!(list, [wanted]);
    }

    #[test]
    fn a_deviation_without_a_reason_or_of_no_listener_is_refused() {
        assert!(parse("h2c http2/1/2\n", &["h2c"]).is_err());
        assert!(parse("h3 http2/1/2 Why.\n", &["h2c"]).is_err());
    }

    #[test]
    fn the_list_of_this_project_can_be_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/deviations");
        read(&path, &super::super::LISTENERS).unwrap();
    }
}
