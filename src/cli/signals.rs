//! The signals that a running command answers.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Shut down gracefully; once more: at once.
    Stop,
    /// Reload the configuration and reopen the access log.
    Reload,
    /// Reopen the access log.
    Reopen,
    /// Start an upgrade, which does not exist yet.
    Upgrade,
}

/// The handlers of all signals. While it lives, none of them kills the process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Installs the handlers. Needs a tokio runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop,
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.quit.recv() => Request::Stop,
            _ = self.hangup.recv() => Request::Reload,
            _ = self.user1.recv() => Request::Reopen,
            _ = self.user2.recv() => Request::Upgrade,
        }
    }

    /// Waits for a signal to stop. Ignores the others.
    pub(super) async fn stop(&mut self) {
        while self.next().await != Request::Stop {}
    }
}
