//! Time that passes, for tests of what time alone must not do.

use std::time::Duration;

use super::{Backend, Proxy};

/// A proxy that tells the time: of connections to it that say nothing it ends
/// each in due time.
pub(crate) struct Clock {
    _nobody: Backend,
    proxy: Proxy,
}

impl Clock {
    /// What [`Self::tick`] takes at least.
    const TICK: Duration = Duration::from_millis(50);

    pub(crate) async fn start() -> Self {
        let nobody = Backend::start("nobody").await;
        let timeouts = format!("request_head = \"{}ms\"", Self::TICK.as_millis());
        let proxy = Proxy::builder().timeouts(&timeouts).upstream("web", &[&nobody]).start().await;
        Self { _nobody: nobody, proxy }
    }

    /// Waits for 50 ms at least.
    pub(crate) async fn tick(&self) {
        self.proxy.raw().await.read_to_any_end().await;
    }

    /// Waits for this time at least.
    pub(crate) async fn pass(&self, time: Duration) {
        for _ in 0..time.as_millis().div_ceil(Self::TICK.as_millis()) {
            self.tick().await;
        }
    }
}
