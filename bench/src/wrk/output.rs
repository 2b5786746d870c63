//! What wrk prints at its end, by the script's `done`.

use anyhow::{Context, Result};

/// One run of wrk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WrkOutput {
    /// Responses received.
    pub requests: u64,
    /// Duration, in µs.
    pub micros: u64,
    /// Bytes received.
    pub bytes: u64,
    /// What went wrong.
    pub errors: Errors,
    /// Latencies, in µs: 50 %, 90 %, 99 % and the longest.
    pub latency: [u64; 4],
}

/// Counts of what went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Errors {
    /// Connections not made.
    pub connect: u64,
    /// Reads failed, closed connections included.
    pub read: u64,
    /// Writes failed.
    pub write: u64,
    /// Responses of 400 and above.
    pub status: u64,
    /// Requests without an answer in time.
    pub timeout: u64,
}

impl Errors {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.connect + self.read + self.write + self.status + self.timeout
    }
}

impl WrkOutput {
    /// Finds the script's line among the rest.
    pub fn parse(text: &str) -> Result<Self> {
        let line =
            text.lines().find_map(|line| line.strip_prefix("homing-bench ")).context("no result line")?;
        let number = |name: &str| -> Result<u64> {
            let pair = line.split(' ').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            pair.with_context(|| format!("{name} is missing"))?
                .parse()
                .with_context(|| format!("{name} is no number"))
        };
        Ok(Self {
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
            latency: [number("p50")?, number("p90")?, number("p99")?, number("max")?],
        })
    }

    /// Requests per second.
    pub fn per_second(&self) -> f64 {
        rate(self.requests, self.micros)
    }

    /// Megabytes (10⁶ bytes) received per second.
    pub fn megabytes_per_second(&self) -> f64 {
        rate(self.bytes, self.micros) / 1e6
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn rate(count: u64, micros: u64) -> f64 {
    count as f64 * 1e6 / micros.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Running 1s test @ http://127.0.0.2:40000/\n  1 threads and 64 connections\n  \
        Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.88ms  305.62us   9.97ms   94.31%\n\
        Requests/sec:  33837.41\nTransfer/sec:      5.64MB\n\
        homing-bench requests=37231 micros=1100289 bytes=6515425 connect=1 read=2 write=3 status=4 timeout=5 \
        p50=1856 p90=2010 p99=2601 max=9972\n";

    #[test]
    fn result_line_is_found_and_read() {
        let output = WrkOutput::parse(TEXT).unwrap();
        assert_eq!((output.requests, output.micros, output.bytes), (37_231, 1_100_289, 6_515_425));
        assert_eq!(output.latency, [1856, 2010, 2601, 9972]);
        assert_eq!(output.errors, Errors { connect: 1, read: 2, write: 3, status: 4, timeout: 5 });
        assert_eq!(output.errors.total(), 15);
        assert!((output.per_second() - 33_837.4).abs() < 0.1);
        assert!((output.megabytes_per_second() - 5.921).abs() < 0.001);
    }

    #[test]
    fn a_run_that_did_not_finish_is_an_error() {
        assert!(WrkOutput::parse("unable to connect to 127.0.0.2:1 Connection refused").is_err());
        assert!(WrkOutput::parse(&TEXT.replace("p99=2601 ", "")).is_err());
        assert!(WrkOutput::parse(&TEXT.replace("p99=2601", "p99=nan")).is_err());
    }
}
