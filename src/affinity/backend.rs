//! A backend as affinity sees it: identity, weight and state.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

/// A backend's identity on the ring, in cookies and in the table.
///
/// This is not its address: a backend that returns at another address with the same id keeps its
/// sessions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(Arc<str>);

impl BackendId {
    /// The maximum length of an id, in bytes.
    pub const MAX_LEN: usize = 64;

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BackendId {
    type Err = InvalidBackendId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=Self::MAX_LEN).contains(&text.len());
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-:[]/".contains(&b);
        if fits && text.bytes().all(allowed) { Ok(Self(Arc::from(text))) } else { Err(InvalidBackendId) }
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The error for text that is not a valid backend id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a backend id is 1 to 64 characters from A-Z a-z 0-9 . _ - : [ ] /")]
pub struct InvalidBackendId;

/// A backend's number, valid until the process exits.
///
/// Each new id in an upstream gets the next number, and no other id ever gets the same one.
/// Bindings therefore survive a reload that reorders, removes or restores backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// A backend's share of the ring, in units of `ring.vnodes` points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(NonZeroU16);

impl Weight {
    /// The default weight.
    pub const ONE: Self = Self(NonZeroU16::MIN);
    /// The maximum weight.
    pub const MAX: u16 = 256;

    /// Returns a weight, or `None` if `weight` is not between 1 and [`Weight::MAX`].
    pub fn new(weight: u16) -> Option<Self> {
        let weight = NonZeroU16::new(weight)?;
        (weight.get() <= Self::MAX).then_some(Self(weight))
    }

    /// Returns the weight as a number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// The state requested by an operator, or by the backend itself through `drain_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AdminState {
    /// Serves existing and new sessions.
    #[default]
    Ready,
    /// Keeps its sessions but gets no new ones.
    Drain,
    /// Serves nothing.
    Maint,
}

impl AdminState {
    /// Returns the name used in the configuration, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// The result of the health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// Passes its checks.
    #[default]
    Up,
    /// Fails its checks.
    Down,
}

impl Health {
    /// Returns the name used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Seconds since the Unix epoch: the only clock that affinity sees.
///
/// One-second resolution is enough, since bindings live for minutes, and four bytes per entry keep
/// millions of entries small. It wraps in 2106.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u32);

impl Timestamp {
    /// Converts a system time to whole seconds; a time before the epoch becomes 0.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }

    /// Returns the seconds from `earlier` to `self`; 0 if the clock went backwards.
    pub fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}
