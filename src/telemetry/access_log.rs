//! The access log: one line per request, written by a background thread.
//!
//! Each handle has its own buffer, its *lane*. A worker formats lines straight into it, without
//! allocations, system calls or lock contention with other workers. The writer thread swaps the
//! lanes' buffers for empty ones ten times a second, or as soon as one is half full, and writes them
//! out. When the output cannot keep up, lanes fill up and further lines are dropped and counted.
//! Workers never wait for the disk. Lines of different workers may be out of order by up to one
//! interval. Each line has a timestamp.

mod line;
mod output;
mod queue;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

pub(crate) use self::line::timestamp;
use self::output::Output;
pub(crate) use self::queue::LogCounts;
use self::queue::{Lane, QueueState, Shared};
use super::Record;
use crate::model;
use crate::model::LogFormat;

/// A handle to the access log. Clone it for each worker.
#[derive(Debug)]
pub struct AccessLog {
    /// The open log; `None` if the log is off.
    open: Option<Open>,
    counts: Arc<LogCounts>,
}

#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    lane: Arc<Mutex<Lane>>,
}

/// Average size of a queued line in bytes. It limits the size of a lane, so that clients with long
/// paths cannot fill the memory.
const BYTES_PER_LINE: usize = 512;

/// How long [`AccessLog::close`] waits for a blocked output.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

impl AccessLog {
    /// Returns a log that is off.
    pub fn off() -> Self {
        Self { open: None, counts: Arc::default() }
    }

    /// Opens the output and starts the writer. Does nothing for format `off`.
    pub fn start(config: &model::AccessLog) -> io::Result<Self> {
        if config.format == LogFormat::Off {
            return Ok(Self::off());
        }
        let output = Output::open(&config.output)?;
        Self::start_with(config, output)
    }

    /// Tries whether the log could write to the file, without creating it.
    ///
    /// # Errors
    /// Any error from opening the file.
    pub fn rehearse(path: &Path) -> io::Result<()> {
        match std::fs::OpenOptions::new().append(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => crate::may_create(path),
            opened => opened.map(drop),
        }
    }

    fn start_with(config: &model::AccessLog, output: Output) -> io::Result<Self> {
        let lane = Arc::<Mutex<Lane>>::default();
        let max_lines = config.queue.max(1);
        let shared = Arc::new(Shared {
            format: config.format,
            max_lines,
            max_bytes: max_lines.saturating_mul(BYTES_PER_LINE),
            control: Mutex::new(QueueState {
                lanes: vec![Arc::clone(&lane)],
                target: Some(config.output.clone()),
                ..QueueState::default()
            }),
            wake: Condvar::new(),
            passed: Condvar::new(),
        });
        let counts = Arc::<LogCounts>::default();
        writer::spawn(Arc::clone(&shared), Arc::clone(&counts), output)?;
        Ok(Self { open: Some(Open { shared, lane }), counts })
    }

    /// Returns whether the log is on. If not, callers need not build a record.
    pub fn enabled(&self) -> bool {
        self.open.is_some()
    }

    /// Logs a finished request, or drops it if too many lines are queued. Never waits for the output.
    pub fn log(&self, record: &Record<'_>) {
        let Some(open) = &self.open else { return };
        let shared = &open.shared;
        let mut lane = open.lane.lock();
        if lane.lines >= shared.max_lines || lane.text.len() >= shared.max_bytes {
            drop(lane);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let Lane { text, lines, clock, .. } = &mut *lane;
        line::format(text, shared.format, clock, SystemTime::now(), record);
        *lines += 1;
        // Notify for every line beyond the mark, because a notification is lost while the writer is busy.
        let wake = shared.is_half_full(&lane);
        drop(lane);
        if wake {
            shared.wake.notify_one();
        }
    }

    /// Reopens a file output, for log rotation. Queued lines still go to the old file. On an error, the
    /// old file stays in use. Does nothing for other outputs, and returns false.
    pub fn reopen(&self) -> io::Result<bool> {
        let Some(open) = &self.open else { return Ok(false) };
        let target = open.shared.control.lock().target.clone();
        if let Some(target @ model::LogOutput::File(_)) = target {
            let output = Output::open(&target)?;
            open.shared.control.lock().reopened = Some(output);
            open.shared.wake.notify_one();
            return Ok(true);
        }
        Ok(false)
    }

    /// Waits until all earlier lines are written. Returns false if that takes longer than `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let Some(open) = &self.open else { return true };
        let mut control = open.shared.control.lock();
        control.asked += 1;
        let wanted = control.asked;
        open.shared.wake.notify_one();
        let pending = |control: &mut QueueState| control.done < wanted && !control.ended;
        !open.shared.passed.wait_while_for(&mut control, pending, timeout).timed_out()
    }

    /// Writes all queued lines and stops the writer. Later lines are lost. Waits at most two seconds for
    /// a blocked output.
    pub fn close(&self) {
        let Some(open) = &self.open else { return };
        let mut control = open.shared.control.lock();
        control.closing = true;
        open.shared.wake.notify_one();
        open.shared.passed.wait_while_for(&mut control, |control| !control.ended, CLOSE_TIMEOUT);
    }

    /// Returns the counts of lost lines and errors, for the metrics.
    pub(crate) fn counts(&self) -> Arc<LogCounts> {
        Arc::clone(&self.counts)
    }
}

/// Creates another handle to the same log, with its own lane.
impl Clone for AccessLog {
    fn clone(&self) -> Self {
        let open = self.open.as_ref().map(|open| {
            let lane = Arc::<Mutex<Lane>>::default();
            open.shared.control.lock().lanes.push(Arc::clone(&lane));
            Open { shared: Arc::clone(&open.shared), lane }
        });
        Self { open, counts: Arc::clone(&self.counts) }
    }
}

/// The writer writes the remaining lines. It stops after the last handle is dropped.
impl Drop for Open {
    fn drop(&mut self) {
        self.lane.lock().orphaned = true;
        self.shared.wake.notify_one();
    }
}
