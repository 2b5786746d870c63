//! Helpers that wait for a condition, never for a fixed time.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a test waits before it fails. Default 10 s; `HOMING_TEST_PATIENCE_MS` overrides it.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let millis = std::env::var("HOMING_TEST_PATIENCE_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(millis.unwrap_or(10_000))
});

/// Polling interval.
const STEP: Duration = Duration::from_millis(5);

/// Polls until the condition holds.
///
/// # Panics
/// If it does not hold within [`PATIENCE`].
#[track_caller]
pub(crate) fn eventually(
    what: impl Display,
    mut holds: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let end = Instant::now() + *PATIENCE;
        while !holds().await {
            assert!(Instant::now() < end, "timed out at {place}: {what}");
            tokio::time::sleep(STEP).await;
        }
    }
}

/// Polls until the number stays the same for ten polls in a row, and returns it.
pub(crate) async fn settles(what: impl Display, number: impl Fn() -> u64) -> u64 {
    let mut row = (number(), 0);
    eventually(what, async || {
        let now = number();
        row = if now == row.0 { (now, row.1 + 1) } else { (now, 0) };
        // Callers count bytes on loopback, which never pause for this long.
        tokio::time::sleep(2 * STEP).await;
        row.1 >= 10
    })
    .await;
    row.0
}

/// Returns the future's output.
///
/// # Panics
/// If the future does not complete within [`PATIENCE`].
#[track_caller]
pub(crate) fn in_time<T>(what: impl Display, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let outcome = tokio::time::timeout(*PATIENCE, future).await;
        outcome.unwrap_or_else(|_| panic!("timed out at {place} waiting for {what}"))
    }
}

/// A gate that scripts wait at and tests open.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    pub(crate) fn closed() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) async fn opened(&self) {
        // Cannot fail: `self` holds the sender.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
