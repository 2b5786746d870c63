//! A tunnel: copies bytes in both directions after an upgrade, until both sides have ended, the
//! tunnel is idle for too long, its route is removed, or Homing stops.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::client::{After, Client};
use super::error::ProxyError;
use super::removal::TunnelRoute;
use super::state::Request;
use crate::model::UpstreamTimeouts;
use crate::proxy::backend::lease::BackendStream;
use crate::proxy::backend::pool::BackendPermit;
use crate::proxy::notices::Limit;
use crate::proxy::wire::buffer::{Buffer, Buffers, Size};
use crate::proxy::wire::stream::Stream;
use crate::proxy::wire::websocket::{self, Boundary};

/// The backend's side of a tunnel, right after the 101.
pub(crate) struct Upgraded {
    pub backend: BackendStream,
    /// Bytes that the backend sent after its response head.
    pub held: Option<Buffer>,
    /// The head of the 101, to be sent to the client.
    pub out: Vec<u8>,
}

/// One direction of a tunnel.
#[derive(Debug, Default)]
struct Pipe {
    /// Bytes to write before any that are read.
    out: Vec<u8>,
    /// Bytes of `out` already written.
    written: usize,
    /// Whether the source has ended.
    ended: bool,
    /// Whether the sink was shut down.
    shut: bool,
    /// Bytes written.
    moved: u64,
    boundary: Boundary,
}

/// The side of a pipe that failed.
#[derive(Debug)]
enum Failed {
    Source,
    Sink,
}

/// Runs a tunnel until it ends.
pub(crate) async fn run(
    request: &mut Request<'_>,
    client: &mut Client,
    permit: BackendPermit,
    upgraded: Upgraded,
    timeouts: &UpstreamTimeouts,
) -> Result<After, ProxyError> {
    let Upgraded { mut backend, mut held, out } = upgraded;
    let worker = request.worker;
    let buffers = &worker.buffers;
    request.tally.tunnel = true;
    worker.metrics().tunnel_opened();
    let head = out.len() as u64;
    let mut down = Pipe { out, ..Pipe::default() };
    let mut up = Pipe::default();
    let mut route = TunnelRoute::of(request);
    // When to send Close frames because the route was removed, and whether that time has come.
    let (mut close_at, mut close_due): (Option<Instant>, bool) = (None, false);
    client.deadline.set(timeouts.tunnel_idle);
    let mut closing = false;
    let client_failed = std::future::poll_fn(|cx| {
        let before = (up.moved, down.moved);
        let must_end = route.as_mut().and_then(|route| route.must_end_by(worker));
        let new_close_at = must_end.map(|end| end.checked_sub(CLOSE_TIMEOUT).unwrap_or(end));
        if new_close_at != close_at {
            (close_at, close_due) = (new_close_at, false);
            client.deadline.set(idle_limit(timeouts.tunnel_idle, close_at));
        }
        if (worker.closing() || close_due) && !closing {
            closing = true;
            client.deadline.set(CLOSE_TIMEOUT);
        }
        if closing {
            // A Close frame can only be sent between two frames.
            up.send_close(websocket::GOING_AWAY_MASKED);
            down.send_close(websocket::GOING_AWAY);
        }
        let upward = up.poll(cx, buffers, &mut client.stream, &mut client.held, &mut backend);
        let downward = down.poll(cx, buffers, &mut backend, &mut held, &mut client.stream);
        match (upward, downward) {
            (Err(Failed::Source), _) | (_, Err(Failed::Sink)) => return Poll::Ready(true),
            // The backend is gone, but bytes that it sent before may still go to the client.
            (_, Err(Failed::Source)) => {
                (up.shut, down.ended) = (true, true);
                cx.waker().wake_by_ref();
            }
            (Err(Failed::Sink), _) => up.shut = true,
            _ => {}
        }
        if closing {
            let upward = up.send_close(websocket::GOING_AWAY_MASKED);
            let downward = down.send_close(websocket::GOING_AWAY);
            if upward || downward {
                // Nothing else wakes this task to write the frame.
                cx.waker().wake_by_ref();
            }
        }
        if up.shut && down.shut {
            return Poll::Ready(false);
        }
        if before != (up.moved, down.moved) && !closing {
            client.deadline.set(idle_limit(timeouts.tunnel_idle, close_at));
        }
        client.deadline.charge(client.held_bytes() + held.as_ref().map_or(0, Buffer::size));
        if !client.deadline.expired(cx) {
            return Poll::Pending;
        }
        if client.deadline.is_shed() {
            worker.notices.turned_away(Limit::Memory, worker.coarse_now(), &client.origin.peer);
            return Poll::Ready(true);
        }
        if close_at.is_some() && !closing {
            close_due = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(false)
    })
    .await;
    worker.metrics().tunnel_closed();
    buffers.put_back(&mut held);
    request.tally.bytes_in += up.moved;
    request.tally.bytes_out += down.moved.max(head);
    drop((backend, permit));
    Ok(if client_failed { After::Abort } else { After::Linger })
}

/// How long both sides have to end after a Close frame.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns how long a tunnel may be idle, up to the time when it must close.
fn idle_limit(idle: Duration, close_at: Option<Instant>) -> Duration {
    close_at.map_or(idle, |close_at| idle.min(close_at.saturating_duration_since(Instant::now())))
}

impl Pipe {
    /// Copies as much as is possible without waiting.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        buffers: &Buffers,
        source: &mut Stream,
        held: &mut Option<Buffer>,
        sink: &mut Stream,
    ) -> Result<(), Failed> {
        while !self.shut {
            if self.written < self.out.len() {
                match sink.poll_write(cx, &self.out[self.written..]) {
                    Poll::Ready(Ok(n)) => {
                        self.written += n;
                        self.moved += n as u64;
                    }
                    Poll::Ready(Err(_)) => return Err(Failed::Sink),
                    Poll::Pending => return Ok(()),
                }
            } else if let Some(buffer) = held.as_mut().filter(|b| !b.is_empty() && !self.ended) {
                match sink.poll_write(cx, buffer.filled()) {
                    Poll::Ready(Ok(n)) => {
                        self.boundary.advance(&buffer.filled()[..n]);
                        self.moved += n as u64;
                        buffer.consume(n);
                    }
                    Poll::Ready(Err(_)) => return Err(Failed::Sink),
                    Poll::Pending => return Ok(()),
                }
            } else if self.ended {
                match sink.poll_shutdown(cx) {
                    Poll::Ready(_) => self.shut = true,
                    Poll::Pending => return Ok(()),
                }
            } else {
                match buffers.poll_fill(held, Size::Large, source, cx) {
                    Poll::Ready(Ok(0)) => self.ended = true,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Err(Failed::Source),
                    Poll::Pending => {
                        return match sink.poll_flush(cx) {
                            Poll::Ready(Err(_)) => Err(Failed::Sink),
                            _ => Ok(()),
                        };
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends this direction with a Close frame if it is between two frames. Returns whether it did.
    fn send_close(&mut self, frame: &[u8]) -> bool {
        let ends = !self.ended && self.written == self.out.len() && self.boundary.is_between_frames();
        if ends {
            self.ended = true;
            self.out.clear();
            self.out.extend_from_slice(frame);
            self.written = 0;
        }
        ends
    }
}
