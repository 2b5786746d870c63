//! Formats measurements as Markdown.

use std::fmt::Write;

use super::{BEFORE, Case, Measurement, Plan, Subject};
use crate::table::{Table, median};

/// From this response length on, the report shows bytes per second instead of requests.
const LARGE: usize = 64 * 1024;

/// Returns one table per case, and one for memory.
pub fn report(plan: &Plan, subjects: &[Subject<'_>]) -> String {
    let mut text = String::new();
    for (index, case) in plan.cases.iter().enumerate() {
        let _ = writeln!(
            text,
            "### {}: {}\n\n{}",
            case.name(),
            case.description(),
            table(case.as_ref(), index, subjects)
        );
    }
    if plan.idle > 0 {
        let _ = writeln!(text, "### idle: {} keep-alive connections, one request each\n", plan.idle);
        let mut table = Table::new(["proxy", "resident bytes/connection"]);
        for subject in subjects {
            table.row([subject.name.to_owned(), format!("{:.0}", subject.idle.unwrap_or_default())]);
        }
        let _ = writeln!(text, "{table}");
    }
    text
}

fn table(case: &dyn Case, index: usize, subjects: &[Subject<'_>]) -> Table {
    let large = case.response_length() >= LARGE;
    let mut head = vec!["proxy", if large { "MB/s" } else { "requests/s" }];
    head.extend(case.latencies());
    head.extend(["errors", "CPU µs/req", "spread", "user µs"]);
    let of = |name: &str| {
        let subject = subjects.iter().find(|subject| subject.name == name);
        subject.map(|subject| &subject.measured[index]).filter(|rounds| !rounds.is_empty())
    };
    let blind = of("blind copy");
    if blind.is_some() {
        head.push("× blind copy");
    }
    let before = of(BEFORE);
    if before.is_some() {
        head.push("× before");
    }
    head.extend(["vs nginx", "vs HAProxy"]);
    let mut table = Table::new(head);
    for subject in subjects {
        let rounds = &subject.measured[index];
        if rounds.is_empty() {
            continue;
        }
        let middle = |value: &dyn Fn(&Measurement) -> f64| median(rounds.iter().map(value).collect());
        let rate = middle(&|m| if large { m.output.megabytes_per_second() } else { m.output.per_second() });
        let latency = |part: usize| format!("{:.2}", middle(&|m| thousandth(m.output.latency[part])));
        let versus = |name: &str| of(name).map(|other| ratio(other, rounds));
        let or_dash =
            |ratio: Option<f64>| ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let mut row = vec![subject.name.to_owned(), format!("{rate:.0}")];
        row.extend((0..case.latencies().len()).map(latency));
        row.extend([
            rounds.iter().map(|m| m.output.errors.total()).sum::<u64>().to_string(),
            format!("{:.1}", middle(&Measurement::cpu)),
            format!("±{:.0} %", spread(rounds)),
            format!("{:.1}", middle(&Measurement::user)),
        ]);
        row.extend(blind.map(|blind| format!("{:.2}", ratio(rounds, blind))));
        row.extend(before.map(|before| format!("{:.3}", ratio(rounds, before))));
        row.extend([or_dash(versus("nginx")), or_dash(versus("HAProxy"))]);
        table.row(row);
    }
    table
}

/// Divides the CPU time per request of one subject by that of another, within each round, and
/// returns the median over the rounds.
fn ratio(rounds: &[Measurement], by: &[Measurement]) -> f64 {
    median(rounds.iter().zip(by).map(|(one, other)| one.cpu() / other.cpu().max(f64::MIN_POSITIVE)).collect())
}

/// Returns half the distance between the extremes of CPU per request, in percent of the median.
fn spread(rounds: &[Measurement]) -> f64 {
    let costs: Vec<f64> = rounds.iter().map(Measurement::cpu).collect();
    let (low, high) =
        costs.iter().fold((f64::MAX, 0f64), |(low, high), cost| (low.min(*cost), high.max(*cost)));
    50.0 * (high - low) / median(costs).max(f64::MIN_POSITIVE)
}

#[expect(clippy::cast_precision_loss, reason = "latencies stay far below 2^52 µs")]
fn thousandth(value: u64) -> f64 {
    value as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cost::output::Output;
    use crate::cost::wrk;
    use crate::proxies::Affinity;
    use crate::proxies::blind::Blind;

    fn measured(cpu_micros: [u64; 3]) -> Vec<Vec<Measurement>> {
        let measurement = |cpu| Measurement {
            output: Output { requests: 1000, micros: 1_000_000, latency: vec![0; 4], ..Output::default() },
            user: Duration::from_micros(cpu * 400),
            system: Duration::from_micros(cpu * 600),
        };
        vec![cpu_micros.map(measurement).to_vec()]
    }

    #[test]
    fn ratios_are_computed_within_a_round() {
        // The machine was slower in each round; the ratios did not change.
        let subject = |name, cpu| Subject {
            measured: measured(cpu),
            idle: Some(1234.4),
            ..Subject::new(name, &Blind, Affinity::HashCookie)
        };
        let subjects = [
            subject("blind copy", [10, 20, 40]),
            subject("nginx", [20, 40, 80]),
            subject("HAProxy", [15, 30, 60]),
        ];
        let plan = Plan {
            length: Duration::ZERO,
            rounds: 3,
            cases: vec![Box::new(wrk::Case::Small)],
            idle: 5000,
            pin: false,
        };
        let text = report(&plan, &subjects);
        let row = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("| {name}"))).unwrap();
            line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(row("HAProxy")[8..14], ["30.0", "±75 %", "12.0", "1.50", "1.33", "1.00"]);
        assert_eq!(row("nginx")[11..14], ["2.00", "1.00", "0.75"]);
        assert!(text.contains("1234"));
    }
}
