//! What happens when file descriptors run short.
//!
//! Some descriptors are reserved for connections to backends, so that connected clients can be
//! served. When only those are left, a new client replaces an idle connection or is refused.
//! When even those are used up, the reserve descriptor is released to accept the next client
//! and refuse it, so that clients do not hang in the backlog.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::backend::announced::Announced;
use super::backend::asker::Asker;
use super::backend::lease::BackendStream;
use super::backend::pool::BackendPool;
use super::worker::Worker;
use crate::dial::connect_error::ConnectError;

impl Worker {
    /// Returns true if this client may keep its descriptor. Makes room for it if needed.
    pub(crate) fn has_room_for(&self, newest: &impl AsFd) -> bool {
        !self.descriptors.are_short(newest) || self.make_room()
    }

    /// Closes the client connection that has been idle longest, of the client with the most idle
    /// ones, or else an idle backend connection. Returns false if no connection is idle.
    pub(crate) fn make_room(&self) -> bool {
        self.deadlines.expire_longest_wait()
            || self.view().upstreams.iter().flat_map(|u| &u.pools).any(|pool| pool.drop_oldest())
    }

    /// Connects to a backend. If no descriptor is left, closes an idle connection and retries.
    ///
    /// # Errors
    /// Those of [`BackendPool::connect`].
    pub(crate) async fn connect(
        &self,
        pool: &Rc<BackendPool>,
        asker: Asker,
        timeout: Duration,
        announced: Option<Box<Announced>>,
    ) -> Result<BackendStream, ConnectError> {
        match pool.connect(asker, timeout, announced.clone()).await {
            Err(ConnectError::NoDescriptors) if self.make_room() => {
                // The idle connection is closed by its own task.
                tokio::task::yield_now().await;
                pool.connect(asker, timeout, announced).await
            }
            connected => connected,
        }
    }
}
