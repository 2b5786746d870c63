//! Ctrl-C and SIGTERM: noticed where the program waits, so that everything it
//! started is ended by the same path as after an error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Listens for SIGINT, SIGTERM and SIGHUP from now on.
pub fn listen() -> Result<()> {
    let asked = ASKED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(asked))?;
    }
    Ok(())
}

/// An error once the program was asked to end.
pub fn check() -> Result<()> {
    if ASKED.get().is_some_and(|asked| asked.load(Ordering::Relaxed)) {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits; an error if the program is asked to end meanwhile.
pub fn pause(time: Duration) -> Result<()> {
    until(time, || Ok(false)).map(|_| ())
}

/// Asks again and again, for at most `patience`; did it come true?
pub fn until(patience: Duration, mut come_true: impl FnMut() -> Result<bool>) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        check()?;
        if come_true()? {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        nap(left.min(Duration::from_millis(10)));
    }
}

/// Sleeps for a moment that is too short to be interrupted.
#[expect(
    clippy::disallowed_methods,
    reason = "a scenario is made of pauses, and /proc and child processes wake nobody"
)]
pub fn nap(time: Duration) {
    std::thread::sleep(time);
}
