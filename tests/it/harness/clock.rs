//! Lets real time pass, for tests of what must not happen while it does.

use std::time::Duration;

use super::{Backend, Proxy};

/// A clock built from a proxy: it closes every silent connection after [`Clock::TICK`].
pub(crate) struct Clock {
    _backend: Backend,
    proxy: Proxy,
}

impl Clock {
    /// Minimum duration of [`Self::tick`].
    const TICK: Duration = Duration::from_millis(50);

    pub(crate) async fn start() -> Self {
        let backend = Backend::start("clock").await;
        let timeouts = format!("request_head = \"{}ms\"", Self::TICK.as_millis());
        let proxy = Proxy::builder().timeouts(&timeouts).upstream("web", &[&backend]).start().await;
        Self { _backend: backend, proxy }
    }

    /// Waits at least 50 ms.
    pub(crate) async fn tick(&self) {
        self.proxy.raw().await.read_to_any_end().await;
    }

    /// Waits at least `time`.
    pub(crate) async fn pass(&self, time: Duration) {
        for _ in 0..time.as_millis().div_ceil(Self::TICK.as_millis()) {
            self.tick().await;
        }
    }
}
