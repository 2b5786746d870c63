//! The Prometheus text format, version 0.0.4.
//!
//! This is our own encoder because metrics libraries do not fit: the counters are per-worker cells,
//! and a scrape borrows a snapshot while a registry wants to own what it collects. Every scraper
//! reads this format.

use std::fmt::{Display, Write as _};

use super::histogram::Histogram;

/// Content type of `GET /metrics`.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A value that only grows until the process restarts.
    Counter,
    /// A value that goes up and down.
    Gauge,
    /// A distribution of durations in buckets.
    Histogram,
}

impl Kind {
    /// Returns the word in the `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric family: a name and the labels of its samples.
#[derive(Debug)]
pub struct Family {
    /// Its name, including the unit and `_total`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Label names, in the order of the values in samples.
    pub labels: &'static [&'static str],
    /// Help text, one sentence.
    pub help: &'static str,
}

/// A builder of the metrics page.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

/// A builder of one family. The format requires all samples of a family to be consecutive.
#[derive(Debug)]
pub(crate) struct Samples<'a> {
    text: &'a mut String,
    family: &'static Family,
}

impl Exposition {
    pub(crate) fn family(&mut self, family: &'static Family) -> Samples<'_> {
        self.text.push_str("# HELP ");
        self.text.push_str(family.name);
        self.text.push(' ');
        push_escaped(&mut self.text, family.help, false);
        let _ = writeln!(self.text, "\n# TYPE {} {}", family.name, family.kind.as_str());
        Samples { text: &mut self.text, family }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

impl Samples<'_> {
    /// Appends a sample. `values` are the label values in the family's order.
    pub(crate) fn sample(&mut self, values: &[&str], value: impl Display) {
        debug_assert_ne!(self.family.kind, Kind::Histogram, "a histogram is more than one sample");
        self.line("", values, None, value);
    }

    /// Appends a histogram.
    pub(crate) fn histogram(&mut self, values: &[&str], histogram: &Histogram) {
        debug_assert_eq!(self.family.kind, Kind::Histogram);
        let mut cumulative = 0;
        for (index, count) in histogram.counts().into_iter().enumerate() {
            cumulative += count;
            if index < Histogram::BOUNDS {
                let bound = Histogram::bound_seconds(index).to_string();
                self.line("_bucket", values, Some(&bound), cumulative);
            } else {
                self.line("_bucket", values, Some("+Inf"), cumulative);
            }
        }
        self.line("_sum", values, None, histogram.sum_seconds());
        self.line("_count", values, None, cumulative);
    }

    fn line(&mut self, suffix: &str, values: &[&str], le: Option<&str>, value: impl Display) {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        self.text.push_str(self.family.name);
        self.text.push_str(suffix);
        let labels = self.family.labels.iter().copied().zip(values.iter().copied());
        let mut separator = '{';
        for (name, value) in labels.chain(le.map(|bound| ("le", bound))) {
            self.text.push(separator);
            self.text.push_str(name);
            self.text.push_str("=\"");
            push_escaped(self.text, value, true);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Appends `value` with backslashes and line feeds escaped, and quotes too if `quote`. Label values
/// need `quote`.
fn push_escaped(text: &mut String, value: &str, quote: bool) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quote => text.push_str("\\\""),
            c => text.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    static PLAIN: Family =
        Family { name: "plain_total", kind: Kind::Counter, labels: &[], help: "A \\ and a\nbreak." };
    static LABELLED: Family =
        Family { name: "labelled", kind: Kind::Gauge, labels: &["a", "b"], help: "Two \"labels\"." };
    static TIMES: Family = Family { name: "times", kind: Kind::Histogram, labels: &["a"], help: "Times." };

    #[test]
    fn help_and_label_values_are_escaped() {
        let mut exposition = Exposition::default();
        exposition.family(&PLAIN).sample(&[], 3);
        exposition.family(&LABELLED).sample(&["x\"} 1\nforged 2", "c:\\"], 0.5);
        assert_eq!(
            exposition.finish(),
            concat!(
                "# HELP plain_total A \\\\ and a\\nbreak.\n# TYPE plain_total counter\nplain_total 3\n",
                "# HELP labelled Two \"labels\".\n# TYPE labelled gauge\n",
                "labelled{a=\"x\\\"} 1\\nforged 2\",b=\"c:\\\\\"} 0.5\n",
            )
        );
    }

    #[test]
    fn histogram_is_cumulative_and_ends_with_its_count() {
        let histogram = Histogram::default();
        for micros in [50, 150, 150, 200_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut exposition = Exposition::default();
        exposition.family(&TIMES).histogram(&["u"], &histogram);
        let text = exposition.finish();
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(lines.len(), Histogram::BOUNDS + 3);
        assert_eq!(lines[0], "times_bucket{a=\"u\",le=\"0.0001\"} 1");
        assert_eq!(lines[1], "times_bucket{a=\"u\",le=\"0.0002\"} 3");
        assert_eq!(lines[20], "times_bucket{a=\"u\",le=\"104.8576\"} 3");
        assert_eq!(lines[21], "times_bucket{a=\"u\",le=\"+Inf\"} 4");
        assert_eq!(lines[22], "times_sum{a=\"u\"} 200.00035");
        assert_eq!(lines[23], "times_count{a=\"u\"} 4");
    }
}
