//! Buffers belong to the worker: a connection borrows one while it has bytes
//! in hand and gives it back when it waits, so that an idle one holds none.

use std::cell::{Cell, RefCell};
use std::io;
use std::task::{Context, Poll};

use super::stream::Stream;

/// Most request heads fit into this, and requests wait for their response with
/// their head in hand.
const SMALL: usize = 4 * 1024;
/// Heads that do not fit, responses and bodies.
const LARGE: usize = 32 * 1024;
/// Buffers of a kind that a worker keeps for later.
const KEPT: usize = 64;
/// An output buffer that grew beyond this is not kept.
const OUTPUT_KEPT: usize = 2 * LARGE;

/// Which buffer to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// For a head.
    Small,
    /// For a body, or a head that is larger than most.
    Large,
}

/// A fixed piece of memory with the bytes that were read and not yet used.
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

    /// The bytes in hand.
    pub(crate) fn filled(&self) -> &[u8] {
        &self.memory[self.start..self.end]
    }

    /// The first `n` bytes are done with.
    pub(crate) fn consume(&mut self, n: usize) {
        debug_assert!(n <= self.end - self.start, "no more than there is");
        self.start += n;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// No bytes in hand?
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Room for more, after moving what is in hand to the front if need be.
    fn spare(&mut self) -> &mut [u8] {
        if self.end == self.memory.len() && self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.memory[self.end..]
    }
}

/// A worker's buffers.
#[derive(Debug)]
pub(crate) struct Buffers {
    small: RefCell<Vec<Box<[u8]>>>,
    large: RefCell<Vec<Box<[u8]>>>,
    outputs: RefCell<Vec<Vec<u8>>>,
    large_bytes: Cell<usize>,
}

impl Buffers {
    /// No buffers yet; a head of `head_bytes` will fit into a large one.
    pub(crate) fn new(head_bytes: usize) -> Self {
        Self {
            small: RefCell::default(),
            large: RefCell::default(),
            outputs: RefCell::default(),
            large_bytes: Cell::new(large_for(head_bytes)),
        }
    }

    /// The limit of heads has changed.
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

    /// Gives a buffer back; bytes still in it are lost.
    pub(crate) fn put(&self, buffer: Buffer) {
        let kept = match buffer.memory.len() {
            SMALL => &self.small,
            n if n == self.large_bytes.get() => &self.large,
            _ => return,
        };
        let mut kept = kept.borrow_mut();
        if kept.len() < KEPT {
            kept.push(buffer.memory);
        }
    }

    /// Puts bytes that were read before back in hand, in place of what is held;
    /// false if there is no room for them.
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

    /// Gives back what a connection holds, if anything.
    pub(crate) fn put_back(&self, held: &mut Option<Buffer>) {
        if let Some(buffer) = held.take() {
            self.put(buffer);
        }
    }

    /// An empty output buffer.
    pub(crate) fn take_output(&self) -> Vec<u8> {
        self.outputs.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(SMALL))
    }

    /// Gives an output buffer back.
    pub(crate) fn put_output(&self, mut output: Vec<u8>) {
        let mut kept = self.outputs.borrow_mut();
        if (1..=OUTPUT_KEPT).contains(&output.capacity()) && kept.len() < KEPT {
            output.clear();
            kept.push(output);
        }
    }

    /// Reads more into what is held, taking a buffer (or a larger one) only
    /// once there is something to read.
    ///
    /// # Errors
    /// The socket's; `OutOfMemory` if a large buffer is full, which the head and
    /// body limits keep from happening.
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
    // One byte more, so that a head at its limit is told from one beyond it.
    LARGE.max(head_bytes + 1)
}
