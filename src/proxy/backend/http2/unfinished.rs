//! A stream whose request was abandoned. It gets a moment to finish before it is reset.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ::h2::RecvStream;
use ::h2::client::ResponseFuture;
use tokio::time::Instant;

use super::link::Link;
use crate::proxy::bridge::outlet::Outlet;

/// What is still to come from the backend.
pub(super) enum Tail {
    Head(ResponseFuture),
    Body(RecvStream),
}

/// An abandoned stream. Resets it when dropped, unless it has finished. `P` is its permit.
pub(super) struct Unfinished<P> {
    tail: Tail,
    outlet: Outlet,
    /// When it was abandoned.
    pub(super) since: Instant,
    /// Whether it counts against its client.
    pub(super) early: bool,
    pub(super) client: u64,
    pub(super) link: Rc<Link>,
    /// Given back last.
    _permit: P,
}

impl<P> Unfinished<P> {
    pub(super) fn new(
        tail: Tail,
        outlet: Outlet,
        early: bool,
        (client, link): (u64, &Rc<Link>),
        permit: P,
    ) -> Self {
        Self { tail, outlet, since: Instant::now(), early, client, link: Rc::clone(link), _permit: permit }
    }

    /// Discards what has arrived. Returns whether the stream has finished, so that no reset is
    /// needed. The stream's window stays closed, so a long response does not go on.
    pub(super) fn has_finished(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        if let Tail::Head(response) = &mut self.tail {
            match Pin::new(response).poll(&mut cx) {
                Poll::Ready(Ok(response)) => self.tail = Tail::Body(response.into_body()),
                Poll::Ready(Err(_)) => return true,
                Poll::Pending => return false,
            }
        }
        let Tail::Body(recv) = &mut self.tail else { return false };
        while let Poll::Ready(Some(piece)) = recv.poll_data(&mut cx) {
            if piece.is_err() {
                return true;
            }
        }
        recv.is_end_stream() && (self.outlet.has_ended() || self.outlet.poll_reset(&mut cx).is_ready())
    }
}

impl<P> fmt::Debug for Unfinished<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished").field("link", &self.link).finish_non_exhaustive()
    }
}
