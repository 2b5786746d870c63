//! Protects against floods of frames that are cheap to send and expensive to handle.
//!
//! Resets, pings, settings, empty frames and the like are a few bytes each, need work, and are not
//! subject to flow control. Each connection therefore has a budget. Such frames spend it; requests,
//! data and time refill it. A connection that exceeds its budget is closed with
//! `ENHANCE_YOUR_CALM`.
//!
//! A second budget is for requests that the client abandons after a backend was asked, by whatever
//! frame: a reset, or an error that makes Homing reset the stream. Only what a backend has answered
//! and time refill it, so cheap requests cannot buy it back.

use std::time::Duration;

use tokio::time::Instant;

/// The connection preface, which a client sends before its first frame (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The full budget. A browser that cancels a whole page does not come close to spending it.
const FULL: u32 = 1000;
/// Refill per second.
const PER_SECOND: u32 = 50;
/// Bytes of data, in either direction, that refill 1.
const DATA: u32 = 1024;
/// Refill per response HEADERS or DATA frame sent. The client may respond to it with two
/// `WINDOW_UPDATE` frames.
const SENT: u32 = 2;
/// Cost of a reset. A request that is immediately reset refills only 1 and causes work for a
/// backend.
const RESET: u32 = 4;

/// Cost of a request that was abandoned after a backend was asked. A request that a backend has
/// answered refills 1.
const ABANDONED: u32 = 3;

/// Length of a frame header in bytes (RFC 9113 §4.1).
const FRAME_HEADER: usize = 9;

/// Frame types that have their own cost (RFC 9113 §6).
const DATA_FRAME: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// The fields of a frame header that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHeader {
    kind: u8,
    flags: u8,
    len: u32,
}

/// Tracks frame boundaries in one direction.
#[derive(Debug)]
pub(crate) struct Frames {
    head: [u8; FRAME_HEADER],
    /// Number of bytes in `head`.
    seen: u8,
    /// Remaining bytes of the current payload, or of the preface.
    skip: u32,
}

impl Frames {
    /// Tracks what a client sends, starting with the preface.
    pub(crate) fn of_client() -> Self {
        Self { skip: u32::try_from(PREFACE.len()).unwrap_or(u32::MAX), ..Self::of_server() }
    }

    /// Tracks what a server sends.
    pub(crate) fn of_server() -> Self {
        Self { head: [0; FRAME_HEADER], seen: 0, skip: 0 }
    }

    /// Advances past these bytes. Calls `began` for each frame header.
    fn advance(&mut self, mut bytes: &[u8], mut began: impl FnMut(FrameHeader)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = bytes.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
                bytes = &bytes[skipped..];
                continue;
            }
            let seen = usize::from(self.seen);
            let n = bytes.len().min(FRAME_HEADER - seen);
            self.head[seen..seen + n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.seen += u8::try_from(n).unwrap_or(0);
            if usize::from(self.seen) == FRAME_HEADER {
                let [a, b, c, kind, flags, ..] = self.head;
                let len = u32::from_be_bytes([0, a, b, c]);
                (self.skip, self.seen) = (len, 0);
                began(FrameHeader { kind, flags, len });
            }
        }
    }
}

/// A connection's budget of frames.
#[derive(Debug)]
pub(crate) struct Budget {
    left: u32,
    /// Bytes of data that have not refilled the budget yet.
    data: u32,
    clock: RefillClock,
    exceeded: bool,
}

/// A connection's budget of abandoned requests.
#[derive(Debug)]
pub(crate) struct AskedBudget {
    left: u32,
    clock: RefillClock,
}

/// Tells how much a budget refills by time.
#[derive(Debug)]
struct RefillClock(Instant);

impl RefillClock {
    /// Returns what to refill since the last call.
    fn refill(&mut self, now: Instant) -> u32 {
        let seconds = u32::try_from(now.saturating_duration_since(self.0).as_secs()).unwrap_or(u32::MAX);
        self.0 += Duration::from_secs(seconds.into());
        seconds.saturating_mul(PER_SECOND)
    }
}

impl AskedBudget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: FULL, clock: RefillClock(now) }
    }

    /// Counts a request that a backend has answered.
    pub(crate) fn answered(&mut self) {
        self.left = self.left.saturating_add(1).min(FULL);
    }

    /// Counts a request that the client has abandoned. Returns false if the budget is exceeded.
    pub(crate) fn abandoned(&mut self, now: Instant) -> bool {
        self.left = self.left.saturating_add(self.clock.refill(now)).min(FULL);
        let left = self.left.checked_sub(ABANDONED);
        self.left = left.unwrap_or(0);
        left.is_some()
    }
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: FULL, data: 0, clock: RefillClock(now), exceeded: false }
    }

    /// Accounts for bytes received from the peer. Returns false once the peer has exceeded its
    /// budget, and from then on.
    pub(crate) fn received(&mut self, frames: &mut Frames, bytes: &[u8], now: Instant) -> bool {
        let by_time = self.clock.refill(now);
        self.refill(by_time);
        frames.advance(bytes, |frame| match frame.kind {
            DATA_FRAME if frame.len > 0 => self.refill_by_data(frame.len),
            DATA_FRAME if frame.flags & END_STREAM != 0 => {}
            HEADERS => self.refill(1),
            RST_STREAM => self.spend(RESET),
            CONTINUATION => self.spend(2),
            _ => self.spend(1),
        });
        !self.exceeded
    }

    /// Accounts for bytes sent to the peer.
    pub(crate) fn sent(&mut self, frames: &mut Frames, bytes: &[u8]) {
        frames.advance(bytes, |frame| {
            if matches!(frame.kind, DATA_FRAME | HEADERS) {
                self.refill(SENT);
                self.refill_by_data(frame.len);
            }
        });
    }

    fn refill(&mut self, n: u32) {
        self.left = self.left.saturating_add(n).min(FULL);
    }

    fn refill_by_data(&mut self, bytes: u32) {
        self.data += bytes;
        self.refill(self.data / DATA);
        self.data %= DATA;
    }

    fn spend(&mut self, n: u32) {
        match self.left.checked_sub(n) {
            Some(left) => self.left = left,
            None => self.exceeded = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, len: u32) -> Vec<u8> {
        let [_, a, b, c] = len.to_be_bytes();
        let mut frame = vec![a, b, c, kind, flags, 0, 0, 0, 1];
        frame.resize(FRAME_HEADER + len as usize, 7);
        frame
    }

    /// Returns how many repetitions of `frames` stay within the budget, up to 10,000.
    fn rounds(frames: &[Vec<u8>]) -> usize {
        let now = Instant::now();
        let (mut budget, mut tracker) = (Budget::new(now), Frames::of_server());
        let round = frames.concat();
        (0..10_000).take_while(|_| budget.received(&mut tracker, &round, now)).count()
    }

    #[test]
    fn frame_boundaries_do_not_depend_on_chunking() {
        let sent = [frame(0, 1, 0), frame(1, 4, 300), frame(0, 0, 70_000), frame(9, 0, 1)];
        let mut bytes = PREFACE.to_vec();
        bytes.extend(sent.concat());
        for piece in [1, 7, 9, 10, 4096, 1 << 20] {
            let (mut tracker, mut found) = (Frames::of_client(), Vec::new());
            for bytes in bytes.chunks(piece) {
                tracker.advance(bytes, |frame| found.push((frame.kind, frame.flags, frame.len)));
            }
            assert_eq!(found, [(0, 1, 0), (1, 4, 300), (0, 0, 70_000), (9, 0, 1)], "in pieces of {piece}");
        }
    }

    #[test]
    fn every_kind_of_flood_exceeds_the_budget() {
        let (headers, reset) = (frame(HEADERS, 5, 20), frame(RST_STREAM, 0, 4));
        assert_eq!(rounds(&[headers, reset]), 333, "rapid reset");
        assert_eq!(rounds(&[frame(6, 0, 8)]), 1000, "ping");
        assert_eq!(rounds(&[frame(4, 0, 0)]), 1000, "settings");
        assert_eq!(rounds(&[frame(2, 0, 5)]), 1000, "priority");
        assert_eq!(rounds(&[frame(8, 0, 4)]), 1000, "window update");
        assert_eq!(rounds(&[frame(DATA_FRAME, 0, 0)]), 1000, "empty data");
        assert_eq!(rounds(&[frame(CONTINUATION, 0, 0)]), 500, "continuation");
    }

    #[test]
    fn abandoned_requests_exceed_a_budget_that_only_backends_and_time_refill() {
        let now = Instant::now();
        let rounds = |answered: u32| {
            let mut budget = AskedBudget::new(now);
            let round = |budget: &mut AskedBudget| {
                (0..answered).for_each(|_| budget.answered());
                budget.abandoned(now)
            };
            (0..10_000).take_while(|_| round(&mut budget)).count()
        };
        assert_eq!(rounds(0), 333);
        assert_eq!(rounds(2), 998, "two in three are abandoned");
        assert_eq!(rounds(3), 10_000, "one in four is abandoned");
        let mut budget = AskedBudget::new(now);
        for second in 0..100 {
            let later = now + Duration::from_secs(second);
            assert!((0..16).all(|_| budget.abandoned(later)), "after {second}s");
        }
    }

    #[test]
    fn normal_use_stays_within_the_budget() {
        let data = frame(DATA_FRAME, 0, 16_384);
        assert_eq!(rounds(&[frame(HEADERS, 5, 50)]), 10_000, "requests");
        assert_eq!(rounds(&[data, frame(6, 0, 8)]), 10_000, "an upload, with pings");
        let page = (0..10).map(|_| frame(HEADERS, 5, 50)).chain([frame(RST_STREAM, 0, 4)]);
        assert_eq!(rounds(&page.collect::<Vec<_>>()), 10_000, "one request in ten is cancelled");
    }

    #[test]
    fn window_updates_for_small_messages_stay_within_the_budget() {
        let now = Instant::now();
        let mut budget = Budget::new(now);
        let (mut there, mut back) = (Frames::of_server(), Frames::of_server());
        for _ in 0..10_000 {
            budget.sent(&mut there, &frame(DATA_FRAME, 0, 10));
            assert!(budget.received(&mut back, &[frame(8, 0, 4), frame(8, 0, 4)].concat(), now));
        }
    }

    #[test]
    fn budget_refills_over_time_but_a_flood_is_final() {
        let now = Instant::now();
        let (mut budget, mut tracker) = (Budget::new(now), Frames::of_server());
        for second in 0..100 {
            let pings = frame(6, 0, 8).repeat(50);
            assert!(budget.received(&mut tracker, &pings, now + Duration::from_secs(second)));
        }
        let flood = frame(6, 0, 8).repeat(2000);
        assert!(!budget.received(&mut tracker, &flood, now + Duration::from_secs(100)));
        assert!(!budget.received(&mut tracker, &[], now + Duration::from_secs(1000)));
    }
}
