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
    let writer = Writer { shared, counts, output, failing: false };
    thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run())?;
    Ok(())
}

struct Writer {
    shared: Arc<Shared>,
    counts: Arc<LogCounts>,
    output: Output,
    /// Whether the last write failed. The error is logged once, not ten times a second.
    failing: bool,
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
                self.failing = false;
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
        match self.output.write(text) {
            Ok(()) => self.failing = false,
            Err(error) => {
                self.counts.errors.fetch_add(1, Ordering::Relaxed);
                if !self.failing {
                    tracing::error!(%error, "cannot write access log");
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
