//! Log lines about limits that turn clients away, at most one per limit and [`EVERY`].

use std::cell::Cell;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

/// The shortest time between two lines about the same limit.
const EVERY: Duration = Duration::from_secs(10);

/// A limit that turns clients away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `limits.connections`.
    Connections,
    /// `limits.connections_per_client`.
    PerClient,
    /// File descriptors.
    Descriptors,
    /// `limits.handshakes`.
    Handshakes,
    /// `limits.streams_per_client`.
    Streams,
    /// `limits.memory`.
    Memory,
    /// An upstream's `queue`.
    Queue,
}

impl Limit {
    const COUNT: usize = Self::Queue as usize + 1;

    fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "limits.connections",
            Self::PerClient => "limits.connections_per_client",
            Self::Descriptors => "file descriptors",
            Self::Handshakes => "limits.handshakes",
            Self::Streams => "limits.streams_per_client",
            Self::Memory => "limits.memory",
            Self::Queue => "queue",
        }
    }
}

/// A worker's notices, by limit.
#[derive(Debug, Default)]
pub(crate) struct Notices([Notice; Limit::COUNT]);

#[derive(Debug, Default)]
struct Notice {
    logged: Cell<Option<Instant>>,
    /// Clients turned away since the last line.
    unsaid: Cell<u64>,
}

impl Notices {
    /// Logs that a limit turned a client away. `of` is the latest client or the upstream.
    pub(crate) fn turned_away(&self, limit: Limit, now: Instant, of: &dyn Display) {
        if let Some(clients) = self.0[limit as usize].due(now) {
            let limit = limit.as_str();
            tracing::warn!(limit, %of, count = clients, "limit reached, clients turned away");
        }
    }
}

impl Notice {
    /// Counts a client. Returns the number of those to report, if it is time to.
    fn due(&self, now: Instant) -> Option<u64> {
        let count = self.unsaid.get() + 1;
        self.unsaid.set(count);
        let due = self.logged.get().is_none_or(|at| now.saturating_duration_since(at) >= EVERY);
        due.then(|| {
            self.logged.set(Some(now));
            self.unsaid.take()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crowd_of_refused_clients_is_one_line() {
        let (notice, now) = (Notice::default(), Instant::now());
        assert_eq!(notice.due(now), Some(1));
        assert!((0..1000).all(|n| notice.due(now + Duration::from_millis(n)).is_none()));
        assert_eq!(notice.due(now + EVERY), Some(1001), "the line must count those without a line");
    }
}
