//! Bounds what waits to be sent on one HTTP/2 connection, over all its streams: bytes and frames.
//!
//! Flow control bounds the bytes of a stream, but a frame of one byte takes hundreds of bytes of
//! memory. Each frame is therefore counted with that overhead.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

/// The most that may wait per connection, in bytes with overhead. The last frame may exceed it.
const MOST: usize = 512 * 1024;
/// The memory that a frame takes besides its data, in bytes.
const OVERHEAD: usize = 512;

/// The unsent frames of one connection. All its streams share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unsent(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// Bytes of unsent frames, with overhead.
    used: usize,
    /// Wakes the streams that wait for room.
    wakers: Vec<Waker>,
}

/// The data of an unsent frame. Dropped when it was sent or its stream was reset.
struct Frame {
    data: Vec<u8>,
    unsent: Unsent,
}

impl Unsent {
    /// Ready when another frame may be queued.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut waiting = self.0.lock();
        if waiting.used < MOST {
            return Poll::Ready(());
        }
        if !waiting.wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Counts `data` as one frame until the result is dropped.
    pub(super) fn frame(&self, data: Vec<u8>) -> Bytes {
        self.0.lock().used += data.len() + OVERHEAD;
        Bytes::from_owner(Frame { data, unsent: self.clone() })
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let wakers = {
            let mut waiting = self.unsent.0.lock();
            waiting.used = waiting.used.saturating_sub(self.data.len() + OVERHEAD);
            // Not at once: a stream that wakes finds room for more than one frame.
            if waiting.wakers.is_empty() || waiting.used > MOST / 2 {
                return;
            }
            std::mem::take(&mut waiting.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues frames of `size` bytes until there is no room. Returns them.
    fn fill(unsent: &Unsent, size: usize) -> Vec<Bytes> {
        let cx = Context::from_waker(Waker::noop());
        let mut frames = Vec::new();
        while unsent.poll_room(&cx).is_ready() {
            frames.push(unsent.frame(vec![7; size]));
        }
        frames
    }

    #[test]
    fn tiny_frames_count_with_their_overhead() {
        for (size, most) in [(1, 1024), (16 * 1024, 32)] {
            let frames = fill(&Unsent::default(), size);
            assert!(frames.len() <= most, "{} frames of {size} bytes", frames.len());
            assert!(frames.len() > most / 2, "only {} frames of {size} bytes", frames.len());
        }
    }

    #[test]
    fn streams_wake_once_half_was_sent() {
        let unsent = Unsent::default();
        let mut frames = fill(&unsent, 1000);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        assert!(unsent.poll_room(&cx).is_pending() && unsent.poll_room(&cx).is_pending());
        let half = frames.len() / 2;
        frames.truncate(half + 2);
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "woken early");
        frames.truncate(half - 2);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "not woken once");
        assert!(unsent.poll_room(&cx).is_ready());
        drop(frames);
        assert_eq!(unsent.0.lock().used, 0);
    }

    #[test]
    fn slices_of_a_frame_keep_it_counted() {
        let unsent = Unsent::default();
        let mut frame = unsent.frame(vec![7; 100]);
        let part = frame.split_to(40);
        drop(frame);
        assert!(unsent.0.lock().used > 0);
        drop(part);
        assert_eq!(unsent.0.lock().used, 0);
    }
}
