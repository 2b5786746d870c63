//! What h2spec reports, in the form of `JUnit`.

use anyhow::{Context, Result, ensure};
use roxmltree::{Document, Node};

/// A case that h2spec has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// h2spec's name for it: `http2/5.1/3`.
    pub id: String,
    /// What h2spec does in it.
    pub what: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a case; the later, the worse.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// As it should be, though h2spec says otherwise: the connection is to be
    /// closed, and was, by a reset. h2spec means to count that, but looks for
    /// a bare `ECONNRESET`, which Go has been wrapping since.
    Reset,
    /// h2spec could not try it.
    Skipped,
    /// Not as it should be; what happened instead.
    Failed(String),
}

impl Outcome {
    /// Its place among the kinds of outcome.
    pub fn kind(&self) -> usize {
        match self {
            Self::Passed => 0,
            Self::Reset => 1,
            Self::Skipped => 2,
            Self::Failed(_) => 3,
        }
    }
}

/// Reads a report.
pub fn read(text: &str) -> Result<Vec<Case>> {
    let document = Document::parse(text)?;
    let mut cases = vec![];
    for suite in document.descendants().filter(|node| node.has_tag_name("testsuite")) {
        let package = suite.attribute("package").context("a suite without a name")?;
        let tests = suite.children().filter(|node| node.has_tag_name("testcase"));
        for (number, test) in (1..).zip(tests) {
            let what = test.attribute("classname").context("a case without a name")?;
            let id = format!("{package}/{number}");
            cases.push(Case { id, what: what.to_owned(), outcome: outcome(test) });
        }
    }
    ensure!(!cases.is_empty(), "no cases");
    Ok(cases)
}

fn outcome(test: Node<'_, '_>) -> Outcome {
    let Some(node) = test.first_element_child() else { return Outcome::Passed };
    if node.has_tag_name("skipped") {
        return Outcome::Skipped;
    }
    // What was expected, a line each, and at last what happened.
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
    fn cases_have_their_names_and_outcomes() {
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
    fn a_report_of_nothing_is_an_error() {
        assert!(read("<testsuites></testsuites>").is_err());
        assert!(read("").is_err());
    }
}
