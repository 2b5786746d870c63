//! What requests saw of one backend. Failures count by client, however many requests and session ids
//! a client makes up.

use std::collections::VecDeque;
use std::time::Duration;

use ahash::HashSet;

use crate::model::client_net::ClientNet;

/// The failures since the backend last answered a request.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// When the first of them was seen.
    since: Duration,
    clients: Vec<ClientNet>,
}

impl Silence {
    /// Records a failed request of `client`. Remembers up to `most` clients.
    pub(super) fn failed(&mut self, client: ClientNet, most: usize, now: Duration) {
        if self.clients.is_empty() {
            self.since = now;
        }
        if self.clients.len() < most && !self.clients.contains(&client) {
            self.clients.push(client);
        }
    }

    /// Records that the backend answered.
    pub(super) fn end(&mut self) {
        self.clients.clear();
    }

    /// Returns the number of clients whose requests failed.
    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// Returns for how long the backend has answered nobody.
    pub(super) fn lasted(&self, now: Duration) -> Duration {
        if self.clients.is_empty() { Duration::ZERO } else { now.saturating_sub(self.since) }
    }
}

/// The clients that got a 5xx response within the window.
#[derive(Debug, Default)]
pub(super) struct ServerErrors {
    /// Each client once, the oldest first.
    seen: VecDeque<(Duration, ClientNet)>,
    clients: HashSet<ClientNet>,
}

impl ServerErrors {
    /// Records a 5xx response to `client`. Returns the number of clients that got one within
    /// `window`.
    pub(super) fn add(&mut self, client: ClientNet, window: Duration, now: Duration) -> usize {
        while let Some((at, oldest)) = self.seen.front().copied()
            && now.saturating_sub(at) >= window
        {
            self.seen.pop_front();
            self.clients.remove(&oldest);
        }
        if self.clients.insert(client) {
            self.seen.push_back((now, client));
        }
        self.seen.len()
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.seen.clear();
        self.clients.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn client(n: u8) -> ClientNet {
        ClientNet::of([192, 0, 2, n].into())
    }

    #[test]
    fn silence_lasts_from_the_first_failure_to_the_next_answer() {
        let mut silence = Silence::default();
        assert_eq!((silence.clients(), silence.lasted(9 * S)), (0, Duration::ZERO));
        for (at, n) in [(10, 1), (11, 1), (12, 2), (13, 1), (14, 3)] {
            silence.failed(client(n), 2, at * S);
        }
        assert_eq!(silence.clients(), 2, "one client was counted twice, or more than the most");
        assert_eq!(silence.lasted(15 * S), 5 * S);
        silence.end();
        assert_eq!((silence.clients(), silence.lasted(20 * S)), (0, Duration::ZERO));
        silence.failed(client(1), 2, 30 * S);
        assert_eq!(silence.lasted(31 * S), S);
    }

    #[test]
    fn server_errors_count_each_client_once_within_the_window() {
        let mut errors = ServerErrors::default();
        let counted = |errors: &mut ServerErrors, n, at| errors.add(client(n), 10 * S, at * S);
        assert_eq!(counted(&mut errors, 1, 0), 1);
        assert_eq!(counted(&mut errors, 1, 1), 1);
        assert_eq!(counted(&mut errors, 2, 2), 2);
        assert_eq!(counted(&mut errors, 3, 10), 2, "the first client's error is out of the window");
        assert_eq!(counted(&mut errors, 1, 11), 3);
        errors.clear();
        assert_eq!(counted(&mut errors, 1, 11), 1);
    }
}
