//! Parser for h2spec's `JUnit` report.

use anyhow::{Context, Result, ensure};
use roxmltree::{Document, Node};

/// A case run by h2spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// h2spec's name for the case, such as `http2/5.1/3`.
    pub id: String,
    /// h2spec's description of the case.
    pub what: String,
    /// The outcome.
    pub outcome: Outcome,
}

/// The outcome of a case, ordered from best to worst.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The case passed.
    Passed,
    /// h2spec reports a failure, but the case passed: the connection must be closed, and
    /// was, by a reset. h2spec means to accept that, but looks for a bare `ECONNRESET`,
    /// which newer versions of Go wrap.
    Reset,
    /// h2spec skipped the case.
    Skipped,
    /// The case failed, with h2spec's explanation.
    Failed(String),
}

impl Outcome {
    /// Returns the index of this kind of outcome, from best to worst.
    pub fn kind(&self) -> usize {
        match self {
            Self::Passed => 0,
            Self::Reset => 1,
            Self::Skipped => 2,
            Self::Failed(_) => 3,
        }
    }
}

/// Parses a report.
pub fn read(text: &str) -> Result<Vec<Case>> {
    let document = Document::parse(text)?;
    let mut cases = vec![];
    for suite in document.descendants().filter(|node| node.has_tag_name("testsuite")) {
        let package = suite.attribute("package").context("testsuite without a package")?;
        let tests = suite.children().filter(|node| node.has_tag_name("testcase"));
        for (number, test) in (1..).zip(tests) {
            let what = test.attribute("classname").context("testcase without a classname")?;
            let id = format!("{package}/{number}");
            cases.push(Case { id, what: what.to_owned(), outcome: outcome(test) });
        }
    }
    ensure!(!cases.is_empty(), "report without cases");
    Ok(cases)
}

fn outcome(test: Node<'_, '_>) -> Outcome {
    let Some(node) = test.first_element_child() else { return Outcome::Passed };
    if node.has_tag_name("skipped") {
        return Outcome::Skipped;
    }
    // The expected results, one per line; the last line is the actual result.
    let text = node.text().unwrap_or_default().trim();
    let (expected, actual) = text.rsplit_once('\n').unwrap_or_default();
    let closing = expected.lines().any(|line| line.trim() == "Connection closed");
    if closing && actual.ends_with("connection reset by peer") {
        return Outcome::Reset;
    }
    Outcome::Failed(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites>
  <testsuite name="3.5. Preface" package="http2/3.5" id="3.5" tests="2" skipped="0" failures="0" errors="1">
    <testcase package="http2/3.5" classname="Sends client connection preface" time="0.0001"></testcase>
    <testcase package="http2/3.5" classname="Sends &#34;this&#34;" time="0.0002">
      <error>Connection closed
Error: read tcp 127.0.0.1:36308-&gt;127.0.0.1:18777: read: connection reset by peer</error>
    </testcase>
  </testsuite>
  <testsuite name="5.1.2. Concurrency" package="http2/5.1.2" id="5.1.2" tests="3" skipped="1" failures="0" errors="0">
    <testcase package="http2/5.1.2" classname="Sends HEADERS" time="0.0002">
      <skipped></skipped>
    </testcase>
    <testcase package="http2/5.1.2" classname="Sends DATA" time="2">
      <error>GOAWAY Frame (Error Code: PROTOCOL_ERROR)
Connection closed
Timeout</error>
    </testcase>
    <testcase package="http2/5.1.2" classname="Sends PING" time="2">
      <error>PING Frame
Error: read tcp 127.0.0.1:36308->127.0.0.1:18777: read: connection reset by peer</error>
    </testcase>
  </testsuite>
</testsuites>"#;

    #[test]
    fn report_has_case_names_and_outcomes() {
        let cases = read(REPORT).unwrap();
        let found: Vec<_> = cases.iter().map(|case| (case.id.as_str(), case.outcome.kind())).collect();
        let wanted = [
            ("http2/3.5/1", 0),
            ("http2/3.5/2", 1),
            ("http2/5.1.2/1", 2),
            ("http2/5.1.2/2", 3),
            ("http2/5.1.2/3", 3),
        ];
        assert_eq!(found, wanted);
        assert_eq!(cases[1].what, "Sends \"this\"");
        let Outcome::Failed(how) = &cases[3].outcome else { panic!("{:?}", cases[3]) };
        assert_eq!(how, "GOAWAY Frame (Error Code: PROTOCOL_ERROR) Connection closed Timeout");
    }

    #[test]
    fn empty_report_is_an_error() {
        assert!(read("<testsuites></testsuites>").is_err());
        assert!(read("").is_err());
    }
}
