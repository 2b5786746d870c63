//! A worker's I/O buffers. A connection borrows one while it has unprocessed bytes, so idle
//! connections hold none.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll};

use super::stream::Stream;

/// Bytes in a small buffer. Fits most request heads, which stay buffered until the response.
const SMALL: usize = 4 * 1024;
/// Minimum bytes in a large buffer, for larger heads, responses and bodies.
const LARGE: usize = 32 * 1024;
/// Free buffers of each kind that a worker keeps.
const MAX_FREE: usize = 64;
/// Output buffers with a larger capacity than this are freed.
const MAX_FREE_OUTPUT: usize = 2 * LARGE;

/// The size of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// For heads.
    Small,
    /// For bodies and unusually large heads.
    Large,
}

/// A fixed-size buffer of bytes that were read and not yet consumed.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn new(memory: Box<[u8]>) -> Self {
        Self { memory, start: 0, end: 0 }
    }

    /// Returns the unconsumed bytes.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// Returns the size of the buffer.
    pub(crate) fn size(&self) -> usize {
        self.memory.len()
    }

    /// Discards the first `n` bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.end - self.start, "consumed more bytes than are buffered");
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Returns true if all bytes are consumed.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Returns the free space. Moves the unconsumed bytes to the front first if the end is reached.
    fn spare(&mut self) -> &mut [u8] {
        if self.end == self.memory.len() && self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.memory[self.end..]
    }
}

/// A worker's free buffers.
#[derive(Debug)]
pub(crate) struct Buffers {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    outputs: RefCell<Vec<Vec<u8>>>,
    large_bytes: Cell<usize>,
}

impl Buffers {
    /// Creates an empty set of buffers. Large ones will fit a head of `head_bytes`.
    pub(crate) fn new(head_bytes: usize) -> Self {
        Self {
            small: RefCell::default(),
            large: RefCell::default(),
            outputs: RefCell::default(),
            large_bytes: Cell::new(large_for(head_bytes)),
        }
    }

    /// Changes the largest head that must fit a large buffer.
    pub(crate) fn set_head_bytes(&self, head_bytes: usize) {
        if self.large_bytes.replace(large_for(head_bytes)) != large_for(head_bytes) {
            self.large.borrow_mut().clear();
        }
    }

    fn take(&self, size: Size) -> Buffer {
        let (kept, bytes) = match size {
            Size::Small => (&self.small, SMALL),
            Size::Large => (&self.large, self.large_bytes.get()),
        };
        Buffer::new(kept.borrow_mut().pop().unwrap_or_else(|| vec![0; bytes].into_boxed_slice()))
    }

    /// Returns a buffer to the worker. Its unconsumed bytes are lost.
    pub(crate) fn put(&self, buffer: Buffer) {
        let kept = match buffer.memory.len() {
            SMALL => &self.small,
            n if n == self.large_bytes.get() => &self.large,
            _ => return,
        };
        let mut kept = kept.borrow_mut();
        if kept.len() < MAX_FREE {
            kept.push(buffer.memory);
        }
    }

    /// Replaces the held buffer with one that contains `bytes`, to read them again. Returns false
    /// if they do not fit into a buffer.
    pub(crate) fn restore(&self, held: &mut Option<Buffer>, bytes: &[u8]) -> bool {
        let size = if bytes.len() <= SMALL { Size::Small } else { Size::Large };
        let mut buffer = self.take(size);
        let fits = bytes.len() <= buffer.memory.len();
        if fits {
            buffer.memory[..bytes.len()].copy_from_slice(bytes);
            buffer.end = bytes.len();
            self.put_back(held);
            *held = Some(buffer);
        } else {
            self.put(buffer);
        }
        fits
    }

    /// Returns a connection's buffer to the worker, if it holds one.
    pub(crate) fn put_back(&self, held: &mut Option<Buffer>) {
        if let Some(buffer) = held.take() {
            self.put(buffer);
        }
    }

    /// Takes an empty output buffer.
    pub(crate) fn take_output(&self) -> Vec<u8> {
        self.outputs.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SMALL))
    }

    /// Returns an output buffer to the worker.
    pub(crate) fn put_output(&self, mut output: Vec<u8>) {
        let mut kept = self.outputs.borrow_mut();
        if (1..=MAX_FREE_OUTPUT).contains(&output.capacity()) && kept.len() < MAX_FREE {
            output.clear();
            kept.push(output);
        }
    }

    /// Reads more bytes into the held buffer and returns their number. Takes a buffer, or a larger
    /// one, if needed; while nothing can be read, the connection holds none.
    ///
    /// # Errors
    /// I/O errors of the stream. `OutOfMemory` if a large buffer is full, which the limits on heads
    /// and bodies prevent.
    pub(crate) fn poll_fill(
        &self,
        held: &mut Option<Buffer>,
        size: Size,
        stream: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut buffer = match held.take() {
            Some(small) if size == Size::Large && small.is_empty() && small.memory.len() == SMALL => {
                self.put(small);
                self.take(size)
            }
            Some(buffer) => buffer,
            None => self.take(size),
        };
        if buffer.spare().is_empty() {
            let mut larger = self.take(Size::Large);
            if larger.memory.len() <= buffer.memory.len() {
                *held = Some(buffer);
                self.put(larger);
                return Poll::Ready(Err(io::ErrorKind::OutOfMemory.into()));
            }
            let bytes = buffer.filled();
            larger.memory[..bytes.len()].copy_from_slice(bytes);
            larger.end = bytes.len();
            self.put(buffer);
            buffer = larger;
        }
        let outcome = stream.poll_read(cx, buffer.spare());
        if let Poll::Ready(Ok(n)) = outcome {
            buffer.end += n;
        }
        if buffer.is_empty() {
            self.put(buffer);
        } else {
            *held = Some(buffer);
        }
        outcome
    }
}

fn large_for(head_bytes: usize) -> usize {
    // One byte more, to tell a head at the limit from one beyond it.
    LARGE.max(head_bytes + 1)
}
