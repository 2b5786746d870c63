//! What happens when file descriptors run short.
//!
//! Clients are kept from taking the last ones: some are left for connections to
//! backends, so that whoever is connected is served. A client that comes when
//! no more than those are left is let in in the place of a connection that only
//! waits, or told so. When even those are used up, one that is held in reserve
//! serves to accept and tell the next client, instead of letting all of them wait.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::acceptor::Acceptor;
use crate::proxy::backend::announced::Announced;
use crate::proxy::backend::http2;
use crate::proxy::backend::pool::{BackendPool, BackendStream};
use crate::proxy::wire::deadline::Class;
use crate::proxy::worker::Worker;
use crate::telemetry::Refusal;

/// A worker's view of the process's descriptors.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// Held to be given up.
    reserve: RefCell<Option<File>>,
    /// The first number that clients do not get.
    ceiling: u64,
}

impl Descriptors {
    /// As many as the process may have open now.
    pub(crate) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let left_to_backends = (limit / 8).clamp(4, 512);
        Self { reserve: RefCell::new(spare()), ceiling: limit.saturating_sub(left_to_backends) }
    }

    /// Is no more left than backends need? The system gives the lowest number
    /// that is free, so the newest one says how many are in use.
    fn are_short(&self, newest: &impl AsFd) -> bool {
        u64::try_from(newest.as_fd().as_raw_fd()).is_ok_and(|number| number >= self.ceiling)
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Did it fail for want of descriptors, here or in the whole system?
pub(crate) fn are_exhausted(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(http2::unshared(error)), Some(Errno::MFILE | Errno::NFILE))
}

impl Worker {
    /// May this client have its descriptor? Makes room for it if need be.
    pub(crate) fn has_room_for(&self, newest: &impl AsFd) -> bool {
        !self.descriptors.are_short(newest) || self.make_room()
    }

    /// Closes the connection, with a client or a backend, that has waited longest
    /// for its next request; false if none waits.
    fn make_room(&self) -> bool {
        self.deadlines.expire_oldest(Class::Idle, Duration::MAX)
            || self.view().upstreams.iter().flat_map(|u| &u.pools).any(|pool| pool.drop_oldest())
    }

    /// Accepts one client with the reserve and tells it that there is no room;
    /// false if that cannot be done either.
    pub(crate) async fn shed(&self, listener: &Acceptor, plain: bool) -> bool {
        self.make_room();
        drop(self.descriptors.reserve.take());
        let accepted = std::future::poll_fn(|cx| Poll::Ready(listener.poll_accept(cx))).await;
        let shed = match accepted {
            Poll::Ready(Ok(arrival)) => {
                self.refuse(&arrival.socket, plain, Refusal::Descriptors, arrival.peer);
                true
            }
            Poll::Ready(Err(_)) => false,
            Poll::Pending => true,
        };
        self.descriptors.reserve.replace(spare());
        shed
    }

    /// Connects to a backend, in the place of a connection that waits if there
    /// are no descriptors left.
    ///
    /// # Errors
    /// Those of [`BackendPool::connect`].
    pub(crate) async fn connect(
        &self,
        pool: &Rc<BackendPool>,
        timeout: Duration,
        announced: Option<Box<Announced>>,
    ) -> io::Result<BackendStream> {
        match pool.connect(timeout, announced.clone()).await {
            Err(error) if are_exhausted(&error) && self.make_room() => {
                // Whoever has just lost its place closes its connection in its turn.
                tokio::task::yield_now().await;
                pool.connect(timeout, announced).await
            }
            connected => connected,
        }
    }
}
