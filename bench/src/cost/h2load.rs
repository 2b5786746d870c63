//! HTTP/2 load with h2load.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use tempfile::TempDir;

use super::output::{Errors, Output};
use super::run_to_end;
use crate::process::Cpu;
use crate::proxies::Front;

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// 8 connections with 32 streams each, without TLS, 100-byte responses.
    Small,
    /// As `small`, over TLS.
    Tls,
    /// As `small`, with 1 KiB request bodies.
    Post,
    /// 8 connections with 4 streams each, 1 MiB responses.
    Large,
    /// New TLS connections with one request each.
    Handshake,
}

/// Number of connections in one run of `handshake`.
const HANDSHAKES: usize = 2000;

impl super::Case for Case {
    fn name(&self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Tls => "tls",
            Self::Post => "post",
            Self::Large => "large",
            Self::Handshake => "handshake",
        }
    }

    fn description(&self) -> &'static str {
        match self {
            Self::Small => "8 connections × 32 streams, h2c, 100-byte responses",
            Self::Tls => "8 connections × 32 streams over TLS 1.3, 100-byte responses",
            Self::Post => "8 connections × 32 streams, h2c, 1 KiB request bodies, 100-byte responses",
            Self::Large => "8 connections × 4 streams, h2c, 1 MiB responses",
            Self::Handshake => "2,000 full TLS 1.3 handshakes, one request each",
        }
    }

    fn front(&self) -> Front {
        if matches!(self, Self::Tls | Self::Handshake) { Front::H2 } else { Front::H2c }
    }

    fn connections(&self) -> usize {
        if *self == Self::Handshake { HANDSHAKES } else { 8 }
    }

    fn response_length(&self) -> usize {
        if *self == Self::Large { 1 << 20 } else { 100 }
    }

    fn latencies(&self) -> &'static [&'static str] {
        &["mean ms", "max ms"]
    }

    fn run(&self, address: SocketAddr, length: Duration, cpu: Cpu) -> Result<Output> {
        let dir = TempDir::new()?;
        let mut command = Command::new("h2load");
        command.args(["--threads=1", &format!("--clients={}", self.connections())]);
        let streams = if *self == Self::Large { 4 } else { 32 };
        command.arg(format!("--max-concurrent-streams={streams}"));
        if *self == Self::Handshake {
            command.arg(format!("--requests={HANDSHAKES}"));
        } else {
            command.arg(format!("--duration={}", length.as_secs().max(1)));
        }
        if *self == Self::Post {
            let body = dir.path().join("body");
            fs::write(&body, [b'x'; 1024])?;
            command.arg("--data").arg(body);
        }
        let scheme = if self.front().tls() { "https" } else { "http" };
        command.arg(format!("{scheme}://{address}/"));
        let patience = length + Duration::from_secs(60);
        let output = run_to_end(&command, cpu, &dir.path().join("output"), patience)?;
        parse(&output, self.front()).with_context(|| format!("parse the output of h2load:\n{output}"))
    }
}

/// Parses the summary of h2load.
fn parse(text: &str, front: Front) -> Result<Output> {
    let line = |start: &str| {
        text.lines()
            .find_map(|line| line.trim_start().strip_prefix(start))
            .with_context(|| format!("missing line {start:?}"))
    };
    let protocol = line("Application protocol: ")?;
    ensure!(protocol == if front.tls() { "h2" } else { "h2c" }, "unexpected protocol {protocol}");
    let finished = line("finished in ")?.split(',').next().unwrap_or_default();
    let requests = counts(line("requests: ")?);
    let statuses = counts(line("status codes: ")?);
    let number = |counts: &[(u64, &str)], name: &str| {
        let found = counts.iter().find(|(_, what)| *what == name);
        found.map(|(count, _)| *count).with_context(|| format!("missing count {name:?}"))
    };
    let traffic = line("traffic: ")?;
    let bytes = traffic
        .split(['(', ')'])
        .nth(1)
        .and_then(|bytes| bytes.parse().ok())
        .context("missing byte count")?;
    let times: Vec<&str> = line("time for request:")?.split_whitespace().collect();
    let time = |index: usize| duration(times.get(index).copied().unwrap_or_default());
    Ok(Output {
        requests: number(&requests, "succeeded")?,
        micros: duration(finished)?,
        bytes,
        errors: Errors {
            read: number(&requests, "errored")?,
            timeout: number(&requests, "timeout")?,
            status: number(&statuses, "4xx")? + number(&statuses, "5xx")?,
            ..Errors::default()
        },
        // The columns are min, max, mean and standard deviation.
        latency: vec![time(2)?, time(1)?],
    })
}

/// Parses counts such as `12 total, 11 done`.
fn counts(text: &str) -> Vec<(u64, &str)> {
    let count = |part| {
        let (count, what) = str::trim(part).split_once(' ')?;
        Some((count.parse().ok()?, what))
    };
    text.split(',').filter_map(count).collect()
}

/// Parses a duration such as `1.50s`, `20.1ms` or `300us` and returns it in µs.
fn duration(text: &str) -> Result<u64> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Duration::try_from_secs_f64(number * seconds).ok()
    });
    let micros = parsed.with_context(|| format!("invalid duration {text:?}"))?.as_micros();
    Ok(u64::try_from(micros)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "starting benchmark...\nspawning thread #0: 8 total client(s). Timing-based test\n\
        Application protocol: h2c\nprogress: 10% of clients started\n\n\
        finished in 3.00s, 33112.67 req/s, 4.33MB/s\n\
        requests: 99338 total, 99594 started, 99338 done, 99330 succeeded, 8 failed, 3 errored, 2 timeout\n\
        status codes: 99330 2xx, 0 3xx, 1 4xx, 4 5xx\n\
        traffic: 12.98MB (13612345) total, 1.23MB (1291394) headers (space savings 90.00%), 9.47MB (9933800) data\n\
        \u{20}                    min         max         mean         sd        +/- sd\n\
        time for request:     1.05ms     1.02s      7.71ms      1.67ms    80.73%\n\
        time for connect:      300us      9.97ms      3.53ms      1.13ms    62.50%\n";

    #[test]
    fn summary_is_parsed() {
        let output = parse(TEXT, Front::H2c).unwrap();
        assert_eq!((output.requests, output.micros, output.bytes), (99_330, 3_000_000, 13_612_345));
        assert_eq!(output.latency, [7710, 1_020_000]);
        assert_eq!(output.errors, Errors { read: 3, status: 5, timeout: 2, ..Errors::default() });
    }

    #[test]
    fn wrong_protocol_or_incomplete_run_is_an_error() {
        assert!(parse(TEXT, Front::H2).is_err());
        assert!(parse(&TEXT.replace("h2c", "http/1.1"), Front::H2c).is_err());
        assert!(parse(&TEXT[..TEXT.find("finished").unwrap()], Front::H2c).is_err());
        assert!(parse(&TEXT.replace("7.71ms", "soon"), Front::H2c).is_err());
    }
}
