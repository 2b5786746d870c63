//! What affinity knows of a backend: its identity, weight and state.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

/// A backend's identity on the ring, in cookies and in the table.
///
/// It is not the address: a backend that comes back at another address under
/// the same id keeps its sessions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId(Arc<str>);

impl BackendId {
    /// The longest id, in bytes.
    pub const MAX_LEN: usize = 64;

    /// The id as text.
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

/// Text that cannot be a backend id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a backend id is 1 to 64 characters out of A-Z a-z 0-9 . _ - : [ ] /")]
pub struct InvalidBackendId;

/// A backend's number for as long as the process lives.
///
/// Given to an id when it is first configured in an upstream and never given
/// to another, so that bindings survive a reload that reorders, removes or
/// brings back backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// A backend's share of the ring, in units of `ring.vnodes` points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(NonZeroU16);

impl Weight {
    /// The weight of a backend that names none.
    pub const ONE: Self = Self(NonZeroU16::MIN);
    /// The greatest weight.
    pub const MAX: u16 = 256;

    /// A weight from 1 to [`Weight::MAX`].
    pub fn new(weight: u16) -> Option<Self> {
        let weight = NonZeroU16::new(weight)?;
        (weight.get() <= Self::MAX).then_some(Self(weight))
    }

    /// The weight as a number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// What a person (or the backend itself, by `drain_status`) wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AdminState {
    /// Serves existing and new sessions.
    #[default]
    Ready,
    /// Keeps its sessions, gets no new ones.
    Drain,
    /// Serves nothing.
    Maint,
}

impl AdminState {
    /// The word used in config, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// What the checks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// Answers its checks.
    #[default]
    Up,
    /// Does not.
    Down,
}

impl Health {
    /// The word used in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// Seconds since the Unix epoch: the only clock that affinity sees.
///
/// Coarse on purpose: bindings live for minutes, and four bytes an entry pay
/// for millions of them. It wraps in 2106.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u32);

impl Timestamp {
    /// The whole seconds of a system time; 0 before the epoch.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
    }

    /// Seconds from `earlier` to `self`; 0 if the clock went backwards.
    pub fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}
