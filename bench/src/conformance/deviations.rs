//! The list of intentional deviations from h2spec.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A case that Homing fails intentionally.
#[derive(Debug, PartialEq, Eq)]
pub struct Deviation {
    /// Listener on which the case fails.
    pub listener: String,
    /// h2spec's name for the case.
    pub case: String,
    /// Reason for the deviation.
    pub reason: String,
}

/// Reads the list from a file.
pub fn read(path: &Path, listeners: &[&str]) -> Result<Vec<Deviation>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse(&text, listeners).with_context(|| path.display().to_string())
}

/// Parses a list with one deviation per line: listener, case, reason. `#` starts a comment.
pub fn parse(text: &str, listeners: &[&str]) -> Result<Vec<Deviation>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let deviation = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::trim);
        let (Some(listener), Some(case), Some(reason)) = (words.next(), words.next(), words.next()) else {
            bail!("expected LISTENER CASE REASON, found `{line}`");
        };
        if !listeners.contains(&listener) {
            bail!("unknown listener `{listener}` in `{line}`");
        }
        Ok(Deviation { listener: listener.into(), case: case.into(), reason: reason.into() })
    };
    lines.map(deviation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_listener_case_and_reason() {
        let list = parse("# why\n\nh2c http2/1/2 For a reason.\n", &["h2c"]).unwrap();
        let wanted =
            Deviation { listener: "h2c".into(), case: "http2/1/2".into(), reason: "For a reason.".into() };
        assert_eq!(list, [wanted]);
    }

    #[test]
    fn missing_reason_or_unknown_listener_is_an_error() {
        assert!(parse("h2c http2/1/2\n", &["h2c"]).is_err());
        assert!(parse("h3 http2/1/2 Why.\n", &["h2c"]).is_err());
    }

    #[test]
    fn project_list_is_valid() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/deviations");
        read(&path, &super::super::LISTENERS).unwrap();
    }
}
