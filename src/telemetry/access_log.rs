//! The access log: one line per request, written behind the workers' backs.
//!
//! Each handle has a buffer of its own, its *lane*. A worker formats a line
//! straight into it: no allocation, no system call, and no other worker near
//! its lock. A thread swaps the lanes' buffers for empty ones ten times a second,
//! or as soon as one is half full, and writes them out. When the output cannot
//! keep up, lanes fill and lines are dropped and counted; a worker never waits
//! for a disk. Lines of different workers may be out of order by as much as the
//! interval; each carries its time.

mod line;
mod output;
mod queue;
mod writer;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use parking_lot::{Condvar, Mutex};

use self::output::Output;
pub(crate) use self::queue::LogCounts;
use self::queue::{Lane, QueueState, Shared};
use super::Record;
use crate::model;
use crate::model::LogFormat;

/// A handle to the access log; clone one for each worker.
#[derive(Debug)]
pub struct AccessLog {
    /// `None`: the log is off.
    open: Option<Open>,
    counts: Arc<LogCounts>,
}

#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    lane: Arc<Mutex<Lane>>,
}

/// A waiting line may be this long on average; long ones use up the bound of
/// the lane sooner, so that clients with long paths cannot fill the memory.
const BYTES_PER_LINE: usize = 512;

/// How long [`AccessLog::close`] waits for an output that takes nothing.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

impl AccessLog {
    /// A log that is off.
    pub fn off() -> Self {
        Self { open: None, counts: Arc::default() }
    }

    /// Opens the output and starts the writer; does neither for format `off`.
    pub fn start(config: &model::AccessLog) -> io::Result<Self> {
        if config.format == LogFormat::Off {
            return Ok(Self::off());
        }
        let output = Output::open(&config.output)?;
        Self::start_with(config, output)
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

    /// Is a record worth building?
    pub fn enabled(&self) -> bool {
        self.open.is_some()
    }

    /// Logs a finished request, or drops it if too many lines wait. Never waits
    /// for the output.
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
        // Every line from there on: a call that finds the writer busy is lost.
        let wake = shared.is_half_full(&lane);
        drop(lane);
        if wake {
            shared.wake.notify_one();
        }
    }

    /// Opens a file output anew (after it was renamed); lines that wait go to the
    /// old one. On an error the old file goes on being written. Nothing happens
    /// with other outputs.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let target = open.shared.control.lock().target.clone();
        if let Some(target @ model::LogOutput::File(_)) = target {
            let output = Output::open(&target)?;
            open.shared.control.lock().reopened = Some(output);
            open.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Waits until all that was logged before is written; false if that took
    /// longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        let Some(open) = &self.open else { return true };
        let mut control = open.shared.control.lock();
        control.asked += 1;
        let wanted = control.asked;
        open.shared.wake.notify_one();
        let pending = |control: &mut QueueState| control.done < wanted && !control.ended;
        !open.shared.passed.wait_while_for(&mut control, pending, patience).timed_out()
    }

    /// Writes what waits and ends the writer; what is logged afterwards is lost.
    /// Waits no longer than two seconds for an output that takes nothing.
    pub fn close(&self) {
        let Some(open) = &self.open else { return };
        let mut control = open.shared.control.lock();
        control.closing = true;
        open.shared.wake.notify_one();
        open.shared.passed.wait_while_for(&mut control, |control| !control.ended, CLOSE_PATIENCE);
    }

    /// What was lost, for the metrics.
    pub(crate) fn counts(&self) -> Arc<LogCounts> {
        Arc::clone(&self.counts)
    }
}

/// Another handle to the same log, with a lane of its own.
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

/// With its last handle the log ends, too, having written what waits.
impl Drop for Open {
    fn drop(&mut self) {
        self.lane.lock().orphaned = true;
        self.shared.wake.notify_one();
    }
}
