//! Waiting: for a condition, never for a time.

use std::fmt::Display;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long a test waits for what must happen; `HOMING_TEST_PATIENCE_MS`.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let millis = std::env::var("HOMING_TEST_PATIENCE_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(millis.unwrap_or(10_000))
});

/// Time between two looks.
const STEP: Duration = Duration::from_millis(5);

/// Looks until the condition holds.
///
/// # Panics
/// If it does not within the patience.
#[track_caller]
pub(crate) fn eventually(
    what: impl Display,
    mut holds: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let end = Instant::now() + *PATIENCE;
        while !holds().await {
            assert!(Instant::now() < end, "waited in vain, at {place}: {what}");
            tokio::time::sleep(STEP).await;
        }
    }
}

/// Looks until the number is the same for ten looks in a row, and returns it.
pub(crate) async fn settles(what: impl Display, number: impl Fn() -> u64) -> u64 {
    let mut row = (number(), 0);
    eventually(what, async || {
        let now = number();
        row = if now == row.0 { (now, row.1 + 1) } else { (now, 0) };
        // What is to settle is bytes on loopback: they don't pause for so long.
        tokio::time::sleep(2 * STEP).await;
        row.1 >= 10
    })
    .await;
    row.0
}

/// The outcome, which must come within the patience.
///
/// # Panics
/// If it does not.
#[track_caller]
pub(crate) fn in_time<T>(what: impl Display, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = std::panic::Location::caller();
    async move {
        let outcome = tokio::time::timeout(*PATIENCE, future).await;
        outcome.unwrap_or_else(|_| panic!("waited in vain, at {place}: {what}"))
    }
}

/// Something that a script waits for and a test opens.
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
        // The sender is here, so it cannot be gone.
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}
