//! Response bodies of the demo application: a buffer or a stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A response body.
#[derive(Debug)]
pub(super) enum DemoBody {
    Full(Option<Bytes>),
    Ticks(Ticks),
}

/// A bounded number of server-sent events, one per tick.
#[derive(Debug)]
pub(super) struct Ticks {
    id: String,
    sent: u32,
    count: u32,
    interval: Interval,
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl DemoBody {
    pub(super) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::Full(Some(bytes.into()).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn ticks(id: &str, count: u32, period: Duration, cancel: CancellationToken) -> Self {
        let mut interval = interval(period);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancelled = Box::pin(cancel.cancelled_owned());
        Self::Ticks(Ticks { id: id.to_owned(), sent: 0, count, interval, cancelled })
    }
}

impl Body for DemoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Ticks(ticks) => {
                ticks.poll_next(context).map(|event| event.map(|event| Ok(Frame::data(event))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Ticks(ticks) => ticks.sent == ticks.count,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Ticks(_) => SizeHint::default(),
        }
    }
}

impl Ticks {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.sent == self.count || self.cancelled.as_mut().poll(context).is_ready() {
            self.sent = self.count;
            return Poll::Ready(None);
        }
        ready!(self.interval.poll_tick(context));
        self.sent += 1;
        let event = format!("id: {0}\ndata: {1} tick {0}\n\n", self.sent, self.id);
        Poll::Ready(Some(Bytes::from(event)))
    }
}
