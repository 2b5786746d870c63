//! Ctrl-C and SIGTERM. They are checked where the program waits, so that it cleans up
//! the same way as after an error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Installs handlers for SIGINT, SIGTERM and SIGHUP.
pub fn listen() -> Result<()> {
    let asked = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(asked))?;
    }
    Ok(())
}

/// Returns an error if the program was interrupted.
pub fn check() -> Result<()> {
    if ASKED.get().is_some_and(|asked| asked.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps for `time`. Returns an error if the program is interrupted.
pub fn pause(time: Duration) -> Result<()> {
    until(time, || Ok(false)).map(|_| ())
}

/// Polls a condition for at most `patience`. Returns true if it became true.
pub fn until(patience: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        check()?;
        if condition()? {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        nap(left.min(Duration::from_millis(10)));
    }
}

/// Sleeps without checking for interrupts; use it for short times only.
#[expect(
    clippy::disallowed_methods,
    reason = "scenarios consist of pauses, and /proc and child processes send no wake-ups"
)]
pub fn nap(time: Duration) {
    std::thread::sleep(time);
}
