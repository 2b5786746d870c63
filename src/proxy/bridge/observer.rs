//! Follows the frames that a peer sends, before the `h2` crate reads them, and marks streams whose
//! header blocks have what `h2` would drop without a word.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use http::HeaderMap;

use super::header_block::{Found, HeaderBlocks};

/// Length of a frame header in bytes (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// What each field of a list counts besides its bytes (RFC 9113 §6.5.2).
pub(crate) const FIELD: usize = 32;
/// The setting with the limit on such a list.
const MAX_HEADER_LIST_SIZE: &[u8] = &[0, 6];
/// The most marks that wait to be seen. A client that gets further is not served.
const MAX_MARKS: usize = 1024;

/// What `h2` does not tell of a peer, shared by a connection and its streams.
#[derive(Debug)]
pub(crate) struct Marks {
    /// The streams with malformed header blocks.
    marked: RefCell<Vec<u32>>,
    /// The peer's `SETTINGS_MAX_HEADER_LIST_SIZE`.
    header_list: Cell<u32>,
}

impl Default for Marks {
    fn default() -> Self {
        Self { marked: RefCell::default(), header_list: Cell::new(u32::MAX) }
    }
}

impl Marks {
    /// Returns whether the peer accepts a list of these fields (RFC 9113 §6.5.2). The pseudo-headers
    /// are the size of `pseudo`.
    pub(crate) fn accept(&self, fields: &HeaderMap, pseudo: usize) -> bool {
        let limit = usize::try_from(self.header_list.get()).unwrap_or(usize::MAX);
        if limit == u32::MAX as usize {
            return true;
        }
        let sizes = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD);
        sizes.sum::<usize>().saturating_add(pseudo) <= limit
    }

    /// Returns whether a stream is marked, and removes the mark.
    pub(crate) fn take(&self, stream: u32) -> bool {
        let mut marks = self.marked.borrow_mut();
        let at = marks.iter().position(|marked| *marked == stream);
        at.map(|at| marks.swap_remove(at)).is_some()
    }

    fn add(&self, stream: u32) {
        let mut marks = self.marked.borrow_mut();
        if !marks.contains(&stream) {
            marks.push(stream);
        }
    }
}

/// A stream's place among the marks. Its mark goes when it does.
#[derive(Debug)]
pub(crate) struct Mark {
    pub(crate) marks: Rc<Marks>,
    pub(crate) stream: u32,
}

impl Mark {
    /// Returns whether the stream is marked, and removes the mark.
    pub(crate) fn take(&self) -> bool {
        self.marks.take(self.stream)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.take();
    }
}

/// Follows what one peer sends.
#[derive(Debug)]
pub(crate) struct Observer {
    /// Bytes to skip: the preface, or the payload of a frame that does not matter.
    skip: usize,
    head: [u8; FRAME_HEADER],
    /// Number of bytes in `head`.
    seen: usize,
    /// Bytes left of the payload of a header frame.
    payload: usize,
    /// The header block, as far as it has arrived.
    block: Vec<u8>,
    /// The largest block that `h2` accepts.
    max_block: usize,
    blocks: HeaderBlocks,
    /// The highest stream with a head, if the peer is a client.
    last_stream: Option<u32>,
    marks: Rc<Marks>,
}

impl Observer {
    /// Follows a client, whose first `preface` bytes are no frame. `h2` accepts blocks of `max_block`
    /// bytes.
    pub(crate) fn of_client(preface: usize, max_block: usize, marks: Rc<Marks>) -> Self {
        Self {
            skip: preface,
            head: [0; FRAME_HEADER],
            seen: 0,
            payload: 0,
            block: Vec::new(),
            max_block,
            blocks: HeaderBlocks::default(),
            last_stream: Some(0),
            marks,
        }
    }

    /// Follows a backend.
    pub(crate) fn of_backend(max_block: usize, marks: Rc<Marks>) -> Self {
        Self { last_stream: None, ..Self::of_client(0, max_block, marks) }
    }

    /// Follows these bytes. Returns false if the peer must not be served further.
    pub(crate) fn observe(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = self.skip.min(bytes.len());
                self.skip -= n;
                bytes = &bytes[n..];
            } else if self.payload > 0 {
                let n = self.payload.min(bytes.len());
                self.block.extend_from_slice(&bytes[..n]);
                self.payload -= n;
                bytes = &bytes[n..];
                if self.payload == 0 && !self.end_frame() {
                    return false;
                }
            } else {
                let n = (FRAME_HEADER - self.seen).min(bytes.len());
                self.head[self.seen..self.seen + n].copy_from_slice(&bytes[..n]);
                self.seen += n;
                bytes = &bytes[n..];
                if self.seen == FRAME_HEADER && !self.begin_frame() {
                    return false;
                }
            }
        }
        true
    }

    fn begin_frame(&mut self) -> bool {
        self.seen = 0;
        let [a, b, c, kind, ..] = self.head;
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
        match kind {
            HEADERS | SETTINGS => self.block.clear(),
            CONTINUATION => {}
            _ => {
                self.skip = length;
                return true;
            }
        }
        // The next frame of a block may be empty.
        if length == 0 {
            return self.end_frame();
        }
        self.payload = length;
        self.block.len() + length <= self.max_block
    }

    /// Handles the end of a header frame, and of its block if this was the last.
    fn end_frame(&mut self) -> bool {
        let [_, _, _, kind, flags, stream @ ..] = self.head;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        if kind == SETTINGS {
            self.read_settings();
            return true;
        }
        if kind == HEADERS && !self.strip(flags) {
            // `h2` closes the connection.
            return true;
        }
        if flags & END_HEADERS == 0 {
            return true;
        }
        let found = self.blocks.read(&self.block).unwrap_or_default();
        self.block.clear();
        let Found { request_pseudo, status, fragment } = found;
        let malformed = match &mut self.last_stream {
            Some(last) if stream > *last => {
                *last = stream;
                fragment
            }
            // Trailers of a request.
            Some(_) => request_pseudo || status,
            None => request_pseudo,
        };
        if malformed {
            self.marks.add(stream);
        }
        self.marks.marked.borrow().len() <= MAX_MARKS
    }

    fn read_settings(&mut self) {
        for setting in self.block.chunks_exact(6) {
            let (id, value) = setting.split_at(2);
            if let (MAX_HEADER_LIST_SIZE, Ok(value)) = (id, value.try_into()) {
                self.marks.header_list.set(u32::from_be_bytes(value));
            }
        }
        self.block.clear();
    }

    /// Removes padding and priority from a HEADERS frame. Returns false if they do not fit.
    fn strip(&mut self, flags: u8) -> bool {
        let (mut start, mut padding) = (0, 0);
        if flags & PADDED != 0 {
            let Some(first) = self.block.first() else { return false };
            (start, padding) = (1, usize::from(*first));
        }
        if flags & PRIORITY != 0 {
            start += 5;
        }
        if start + padding > self.block.len() {
            return false;
        }
        self.block.truncate(self.block.len() - padding);
        self.block.drain(..start);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    #[test]
    fn streams_with_fragments_and_with_pseudo_trailers_are_marked_however_the_bytes_arrive() {
        let bytes = [
            vec![b'p'; 24],
            frame(4, 0, 0, b"123456"),
            frame(HEADERS, END_HEADERS, 1, b"\x82\x04\x02/a"),
            frame(0, 0, 1, b"\x00\x00\x01\x01\x04"),
            frame(HEADERS, END_HEADERS | 1, 1, b"\x84"),
            frame(HEADERS, PADDED | PRIORITY, 3, b"\x0212345\x04\x03/\xff\xff"),
            frame(CONTINUATION, 0, 3, b""),
            frame(CONTINUATION, END_HEADERS, 3, b"#a"),
            frame(HEADERS, END_HEADERS, 5, b"\x84"),
            frame(HEADERS, END_HEADERS | 1, 5, b"\x00\x01x\x01y"),
            frame(HEADERS, END_HEADERS, 7, b"\x84"),
            frame(HEADERS, END_HEADERS | 1, 7, b"\x88"),
        ]
        .concat();
        for piece in [1, 2, 3, 7, 10, 1000] {
            let marks = Rc::new(Marks::default());
            let mut observer = Observer::of_client(24, 1000, Rc::clone(&marks));
            assert!(bytes.chunks(piece).all(|bytes| observer.observe(bytes)));
            let marked: Vec<u32> = (0..10).filter(|stream| marks.take(*stream)).collect();
            assert_eq!(marked, [1, 3, 7], "by {piece}");
        }
    }

    #[test]
    fn responses_with_request_pseudo_headers_are_marked_and_settings_are_read() {
        let marks = Rc::new(Marks::default());
        let mut observer = Observer::of_backend(1000, Rc::clone(&marks));
        let fields = HeaderMap::from_iter([("x".parse().unwrap(), "0123456789".parse().unwrap())]);
        assert!(marks.accept(&fields, 1 << 30));
        let bytes = [
            frame(SETTINGS, 0, 0, b"\0\x01\0\0\0\0\0\x06\0\0\0\x64"),
            frame(SETTINGS, 1, 0, b""),
            frame(HEADERS, END_HEADERS, 1, b"\x88\x84"),
            frame(HEADERS, END_HEADERS, 3, b"\x88"),
            frame(HEADERS, END_HEADERS, 3, b"\x00\x01x\x01y"),
            frame(HEADERS, END_HEADERS, 5, b"\x88"),
            frame(HEADERS, END_HEADERS, 5, b"\x84"),
        ];
        assert!(observer.observe(&bytes.concat()));
        assert_eq!((marks.take(1), marks.take(3), marks.take(5)), (true, false, true));
        assert_eq!((marks.accept(&fields, 57), marks.accept(&fields, 58)), (true, false));
    }

    #[test]
    fn neither_blocks_nor_marks_grow_without_bound() {
        let mut observer = Observer::of_client(0, 1000, Rc::default());
        assert!(observer.observe(&frame(HEADERS, 0, 1, &[0x82; 900])));
        assert!(!observer.observe(&frame(CONTINUATION, 0, 1, &[0x82; 900])));
        let mut observer = Observer::of_client(0, 1000, Rc::default());
        let mut flood = (1..).step_by(2).map(|stream| frame(HEADERS, END_HEADERS, stream, b"\x04\x02/#"));
        assert!(flood.by_ref().take(MAX_MARKS).all(|frame| observer.observe(&frame)));
        assert!(!flood.take(1).all(|frame| observer.observe(&frame)));
    }

    #[test]
    fn mark_goes_with_its_stream() {
        let marks = Rc::new(Marks::default());
        marks.add(1);
        marks.add(3);
        let mark = Mark { marks: Rc::clone(&marks), stream: 1 };
        assert!(mark.take() && !mark.take());
        drop(Mark { marks: Rc::clone(&marks), stream: 3 });
        assert!(!marks.take(3));
    }
}
