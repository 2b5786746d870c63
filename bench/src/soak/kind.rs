//! What clients do, and how often they have done it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Pause between two rounds of a client.
pub const PAUSE: Duration = Duration::from_millis(4);

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sends the requests of one session on one connection.
    Kept,
    /// Starts a new session on a new connection each time.
    New,
    /// Uploads bodies.
    Post,
    /// Reads a large response slowly.
    Slow,
    /// Disconnects at an awkward moment.
    Abort,
    /// Opens a WebSocket, uses it, and closes or drops it.
    Socket,
}

impl Kind {
    /// All kinds, with their names and numbers of clients.
    pub const ALL: [(Self, &'static str, usize); 6] = [
        (Self::Kept, "kept sessions", 8),
        (Self::New, "new connections", 2),
        (Self::Post, "POST bodies", 2),
        (Self::Slow, "slow readers", 4),
        (Self::Abort, "aborts", 2),
        (Self::Socket, "WebSockets", 4),
    ];
}

/// Round counters of one group.
#[derive(Debug, Default)]
pub struct Tally {
    /// Completed rounds.
    pub done: AtomicU64,
    /// Failed rounds.
    pub failed: AtomicU64,
}

impl Tally {
    /// Counts a round.
    pub fn count(&self, good: bool) {
        let counter = if good { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
