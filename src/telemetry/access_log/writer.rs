//! The thread that writes the access log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::output::Output;
use super::queue::{LogCounts, QueueState, Shared};

/// Maximum time that a line is queued while the output keeps up.
const INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn spawn(shared: Arc<Shared>, counts: Arc<LogCounts>, output: Output) -> io::Result<()> {
    let writer = Writer { shared, counts, output, failing: false, torn: false, lost: 0 };
    thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
    Ok(())
}

struct Writer {
    shared: Arc<Shared>,
    counts: Arc<LogCounts>,
    output: Output,
    /// Whether the last write failed. The error is logged once, not ten times a second.
    failing: bool,
    /// Whether the last line in the output is incomplete.
    torn: bool,
    /// Lines lost since the last write that succeeded.
    lost: u64,
}

impl Writer {
    fn run(mut self) {
        let mut buffer = Vec::new();
        loop {
            let (asked, closing, reopened, lanes) = {
                let mut control = self.shared.control.lock();
                (control.asked, control.closing, control.reopened.take(), control.lanes.clone())
            };
            let mut orphans = 0;
            for lane in &lanes {
                let mut lane = lane.lock();
                orphans += usize::from(lane.orphaned);
                lane.lines = 0;
                // The lane gets the buffer that was written last, so nothing is allocated once the buffers have
                // grown.
                std::mem::swap(&mut lane.text, &mut buffer);
                drop(lane);
                self.write(&buffer);
                buffer.clear();
            }
            if let Some(output) = reopened {
                self.output = output;
                (self.failing, self.torn) = (false, false);
            }

            let mut control = self.shared.control.lock();
            if orphans > 0 {
                forget_orphans(&mut control);
            }
            control.done = asked;
            control.ended = closing || control.lanes.is_empty();
            self.shared.passed.notify_all();
            if control.ended {
                return;
            }
            let something_to_do =
                control.asked > control.done || control.closing || control.reopened.is_some();
            if !something_to_do {
                self.shared.wake.wait_for(&mut control, INTERVAL);
            }
        }
    }

    fn write(&mut self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        if self.torn {
            // Ends the line that a full disk cut off, so that the next one is whole.
            self.torn = self.output.write(b"\n").1.is_err();
        }
        let (written, result) =
            if self.torn { (0, Err(io::ErrorKind::StorageFull.into())) } else { self.output.write(text) };
        match result {
            Ok(()) => {
                if self.failing {
                    tracing::warn!(lost = self.lost, "access log is written again");
                }
                (self.failing, self.lost) = (false, 0);
            }
            Err(error) => {
                let lost = memchr::memchr_iter(b'\n', &text[written..]).count() as u64;
                self.torn |= written > 0 && text[written - 1] != b'\n';
                self.lost += lost;
                self.counts.errors.fetch_add(1, Ordering::Relaxed);
                self.counts.dropped.fetch_add(lost, Ordering::Relaxed);
                if !self.failing {
                    tracing::error!(%error, "cannot write access log; lines are lost");
                }
                self.failing = true;
            }
        }
    }
}

/// Removes orphaned lanes that are empty. The next pass writes the others.
fn forget_orphans(control: &mut QueueState) {
    control.lanes.retain(|lane| {
        let lane = lane.lock();
        !lane.orphaned || !lane.text.is_empty()
    });
}
