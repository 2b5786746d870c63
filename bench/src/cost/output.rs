//! What a run of the load says.

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Responses received.
    pub requests: u64,
    /// Duration, in µs.
    pub micros: u64,
    /// Bytes received.
    pub bytes: u64,
    /// What went wrong.
    pub errors: Errors,
    /// Latencies, in µs, as [`super::Case::latencies`] names them.
    pub latency: Vec<u64>,
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

impl Output {
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
