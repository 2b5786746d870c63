//! HTTP/1.1 load with wrk.

use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use tempfile::TempDir;

use super::output::{Errors, Output};
use super::run_to_end;
use crate::process::Cpu;
use crate::proxies::Front;

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// 64 connections, Host and the session cookie, 100-byte responses.
    Small,
    /// As `small`, with a browser's headers.
    Browser,
    /// As `small`, with 512 connections.
    Conn512,
    /// As `small`, with 1 KiB request bodies.
    Post,
    /// As `small`, with 1 MiB responses.
    Large,
    /// As `small`, over TLS.
    Tls,
    /// As `tls`, with one connection per request.
    Resume,
}

/// Number of distinct sessions.
const SESSIONS: u32 = 10_000;

/// Headers that a browser sends in addition to Host and Cookie.
const BROWSER: [(&str, &str); 13] = [
    ("Connection", "keep-alive"),
    ("Cache-Control", "max-age=0"),
    ("sec-ch-ua", "\\\"Chromium\\\";v=\\\"142\\\", \\\"Not_A Brand\\\";v=\\\"99\\\""),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\\\"Linux\\\""),
    ("Upgrade-Insecure-Requests", "1"),
    (
        "User-Agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    ),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
    ("Sec-Fetch-Site", "same-origin"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Referer", "http://shop.example.com/catalogue?page=3"),
    ("Accept-Language", "en-GB,en;q=0.9,de;q=0.8"),
];

impl super::Case for Case {
    fn name(&self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Browser => "browser",
            Self::Conn512 => "conn512",
            Self::Post => "post",
            Self::Large => "large",
            Self::Tls => "tls",
            Self::Resume => "resume",
        }
    }

    fn description(&self) -> &'static str {
        match self {
            Self::Small => "64 connections, ~70-byte requests, 100-byte responses",
            Self::Browser => "64 connections, 15 browser headers (~700 bytes), 100-byte responses",
            Self::Conn512 => "512 connections, otherwise as small",
            Self::Post => "64 connections, 1 KiB request bodies, 100-byte responses",
            Self::Large => "64 connections, 1 MiB responses",
            Self::Tls => "64 connections over TLS 1.3, otherwise as small",
            Self::Resume => "over TLS 1.3, one connection per request, TLS sessions resumed",
        }
    }

    fn front(&self) -> Front {
        if matches!(self, Self::Tls | Self::Resume) { Front::Https } else { Front::Http1 }
    }

    fn connections(&self) -> usize {
        if *self == Self::Conn512 { 512 } else { 64 }
    }

    fn response_length(&self) -> usize {
        if *self == Self::Large { 1 << 20 } else { 100 }
    }

    fn latencies(&self) -> &'static [&'static str] {
        &["p50 ms", "p90 ms", "p99 ms", "max ms"]
    }

    fn run(&self, address: SocketAddr, length: Duration, cpu: Cpu) -> Result<Output> {
        let dir = TempDir::new()?;
        let script = dir.path().join("case.lua");
        fs::write(&script, self.script())?;
        let mut command = Command::new("wrk");
        // wrk accepts whole seconds only. The script prints the actual duration in `done`.
        let seconds = length.as_secs().max(1);
        let connections = self.connections();
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "--timeout", "10s"]);
        let scheme = if self.front().tls() { "https" } else { "http" };
        command.arg("-s").arg(&script).arg(format!("{scheme}://{address}/"));
        let patience = Duration::from_secs(seconds + 30);
        let output = run_to_end(&command, cpu, &dir.path().join("output"), patience)?;
        parse(&output).with_context(|| format!("parse the output of wrk:\n{output}"))
    }
}

impl Case {
    /// Returns the script for wrk. It builds the requests once, before the clock starts.
    fn script(self) -> String {
        let method = if self == Self::Post { "POST" } else { "GET" };
        let body = if self == Self::Post { "string.rep('x', 1024)" } else { "nil" };
        let mut headers = String::new();
        let mut cookie = "SID=";
        if self == Self::Browser {
            cookie = "_ga=GA1.2.1234567890.1700000000; theme=dark; consent=yes; SID=";
            for (name, value) in BROWSER {
                let _ = writeln!(headers, "  headers[\"{name}\"] = \"{value}\"");
            }
        }
        if self == Self::Resume {
            headers += "  headers[\"Connection\"] = \"close\"\n";
        }
        format!(
            r#"local requests = {{}}
local turn = 0
function init(args)
  local headers = {{}}
{headers}  for i = 1, {SESSIONS} do
    local id = string.format("%08x%08x", (i * 2654435761) % 4294967296, (i * 2246822519) % 4294967296)
    headers["Cookie"] = "{cookie}" .. id
    requests[i] = wrk.format("{method}", "/", headers, {body})
  end
end
function request()
  turn = turn % {SESSIONS} + 1
  return requests[turn]
end
function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    "homing-bench requests=%d micros=%d bytes=%d connect=%d read=%d write=%d status=%d timeout=%d p50=%d p90=%d p99=%d max=%d",
    summary.requests, summary.duration, summary.bytes,
    errors.connect, errors.read, errors.write, errors.status, errors.timeout,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max))
end
"#
        )
    }
}

/// Parses the line printed by the script.
fn parse(text: &str) -> Result<Output> {
    let line =
        text.lines().find_map(|line| line.strip_prefix("homing-bench ")).context("missing result line")?;
    let number = |name: &str| -> Result<u64> {
        let pair = line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        pair.with_context(|| format!("missing {name}"))?
            .parse()
            .with_context(|| format!("{name} is not a number"))
    };
    Ok(Output {
        requests: number("requests")?,
        micros: number("micros")?,
        bytes: number("bytes")?,
        errors: Errors {
            connect: number("connect")?,
            read: number("read")?,
            write: number("write")?,
            status: number("status")?,
            timeout: number("timeout")?,
        },
        latency: vec![number("p50")?, number("p90")?, number("p99")?, number("max")?],
    })
}

#[cfg(test)]
mod tests {
    use super::super::Case as _;
    use super::*;

    #[test]
    fn browser_requests_have_fifteen_headers() {
        // Host and Cookie are added to these.
        assert_eq!(BROWSER.len() + 2, 15);
        assert_eq!(Case::Browser.script().matches("headers[\"").count(), 14);
        assert_eq!(Case::Small.script().matches("headers[\"").count(), 1);
    }

    #[test]
    fn only_post_has_a_body() {
        assert!(Case::Post.script().contains("\"POST\""));
        assert!(Case::Large.script().contains("headers, nil"));
        assert_eq!(Case::Large.response_length(), 1_048_576);
    }

    const TEXT: &str = "Running 1s test @ http://127.0.0.2:40000/\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.88ms  305.62us   9.97ms   94.31%\n\
        Requests/sec:  33837.41\nTransfer/sec:      5.64MB\n\
        homing-bench requests=37231 micros=1100289 bytes=6515425 connect=1 read=2 write=3 status=4 timeout=5 \
        p50=1856 p90=2010 p99=2601 max=9972\n";

    #[test]
    fn result_line_is_parsed() {
        let output = parse(TEXT).unwrap();
        assert_eq!((output.requests, output.micros, output.bytes), (37_231, 1_100_289, 6_515_425));
        assert_eq!(output.latency, [1856, 2010, 2601, 9972]);
        assert_eq!(output.errors, Errors { connect: 1, read: 2, write: 3, status: 4, timeout: 5 });
        assert_eq!(output.errors.total(), 15);
        assert!((output.per_second() - 33_837.4).abs() < 0.1);
        assert!((output.megabytes_per_second() - 5.921).abs() < 0.001);
    }

    #[test]
    fn incomplete_run_is_an_error() {
        assert!(parse("unable to connect to 127.0.0.2:1 Connection refused").is_err());
        assert!(parse(&TEXT.replace("p99=2601 ", "")).is_err());
        assert!(parse(&TEXT.replace("p99=2601", "p99=nan")).is_err());
    }
}
