//! What the parts of a running proxy share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use parking_lot::Mutex;

use super::listeners::Listeners;
use super::workers::Workers;
use crate::admin::LastReload;
use crate::control::ControlHandle;
use crate::dial::names::Names;
use crate::telemetry::{AccessLog, Metrics};

/// State shared by the admin listener, the signal handlers and [`Running`].
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) control: ControlHandle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: AccessLog,
    pub(super) names: Arc<Names>,
    pub(super) workers: Workers,
    pub(super) listeners: Listeners,
    pub(super) draining: AtomicBool,
    /// When the process started to serve.
    pub(super) started: SystemTime,
    /// The file that a reload reads.
    pub(super) file: Option<PathBuf>,
    /// The latest reload of the file; `None` before the first.
    pub(super) last_reload: Mutex<Option<LastReload>>,
    /// Allows one reload at a time.
    pub(super) reloading: tokio::sync::Semaphore,
}
