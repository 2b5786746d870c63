//! The Prometheus text format, version 0.0.4.
//!
//! An own encoder of a hundred lines rather than a metrics library's: the
//! counters are per-worker cells that no library's registry fits, a snapshot is
//! borrowed for one scrape while a registry wants to own what it collects,
//! and every scraper reads this format.

use std::fmt::{Display, Write as _};

use super::histogram::Histogram;

/// What `GET /metrics` says it is.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of metric a family holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process restarts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// The word in the `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric family: a name and what its samples are told apart by.
#[derive(Debug)]
pub struct Family {
    /// Its name, unit and `_total` included.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Label names, in the order in which samples give their values.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// Text under construction.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
}

/// A family under construction: its samples follow one another, as the format
/// demands.
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
    /// One sample; `values` belong to the family's labels, in order.
    pub(crate) fn sample(&mut self, values: &[&str], value: impl Display) {
        debug_assert_ne!(self.family.kind, Kind::Histogram, "a histogram is not one sample");
        self.line("", values, None, value);
    }

    /// One histogram.
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

/// Backslash and line feed are escaped everywhere, the quote in label values.
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
    fn a_histogram_is_cumulative_and_ends_with_its_count() {
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
