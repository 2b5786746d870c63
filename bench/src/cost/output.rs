//! The result of a load generator run.

/// The result of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Output {
    /// Responses received.
    pub requests: u64,
    /// Duration, in µs.
    pub micros: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Error counts.
    pub errors: Errors,
    /// Latencies in µs, in the order of [`super::Case::latencies`].
    pub latency: Vec<u64>,
}

/// Error counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Errors {
    /// Failed connects.
    pub connect: u64,
    /// Failed reads, including closed connections.
    pub read: u64,
    /// Failed writes.
    pub write: u64,
    /// Responses with status 400 or above.
    pub status: u64,
    /// Requests that timed out.
    pub timeout: u64,
}

impl Errors {
    /// Returns the sum of all errors.
    pub fn total(&self) -> u64 {
        self.connect + self.read + self.write + self.status + self.timeout
    }
}

impl Output {
    /// Returns the requests per second.
    pub fn per_second(&self) -> f64 {
        rate(self.requests, self.micros)
    }

    /// Returns the megabytes (10⁶ bytes) received per second.
    pub fn megabytes_per_second(&self) -> f64 {
        rate(self.bytes, self.micros) / 1e6
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn rate(count: u64, micros: u64) -> f64 {
    count as f64 * 1e6 / micros.max(1) as f64
}
