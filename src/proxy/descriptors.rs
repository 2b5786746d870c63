//! What happens when file descriptors run short.
//!
//! Some descriptors are kept for connections to backends, so that connected clients are
//! served. A new client that finds only those left takes the place of an idle connection,
//! or is refused. When even those are gone, the reserve descriptor is used to accept the
//! next client and refuse it, instead of leaving all of them waiting.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::backend::announced::Announced;
use super::backend::connect_error::ConnectError;
use super::backend::lease::BackendStream;
use super::backend::pool::BackendPool;
use super::wire::deadline::Class;
use super::worker::Worker;

impl Worker {
    /// May this client keep its descriptor? Makes room for it if needed.
    pub(crate) fn has_room_for(&self, newest: &impl AsFd) -> bool {
        !self.descriptors.are_short(newest) || self.make_room()
    }

    /// Closes the longest idle connection, of a client or to a backend. False if none is idle.
    pub(crate) fn make_room(&self) -> bool {
        self.deadlines.expire_oldest(Class::Idle, Duration::MAX)
            || self.view().upstreams.iter().flat_map(|u| &u.pools).any(|pool| pool.drop_oldest())
    }

    /// Connects to a backend. If no descriptor is left, closes an idle connection and retries.
    ///
    /// # Errors
    /// Those of [`BackendPool::connect`].
    pub(crate) async fn connect(
        &self,
        pool: &Rc<BackendPool>,
        timeout: Duration,
        announced: Option<Box<Announced>>,
    ) -> Result<BackendStream, ConnectError> {
        match pool.connect(timeout, announced.clone()).await {
            Err(ConnectError::NoDescriptors) if self.make_room() => {
                // The connection that lost its place closes in its own task.
                tokio::task::yield_now().await;
                pool.connect(timeout, announced).await
            }
            connected => connected,
        }
    }
}
