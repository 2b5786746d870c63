//! The summary of a reload, for the log and the admin API.

use std::fmt;
use std::sync::Arc;

use crate::affinity::BackendId;

/// The changes that a reload made, except to listeners, which the control plane does not manage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReloadSummary {
    /// Generation of the snapshot with the new configuration.
    pub generation: u64,
    /// Upstreams that were added, removed or changed, sorted by name.
    pub upstreams: Vec<UpstreamChange>,
    /// Whether anything outside the upstreams changed (routes, limits, timeouts …).
    pub settings: bool,
}

impl ReloadSummary {
    /// Returns whether the new configuration equals the old one.
    pub fn is_empty(&self) -> bool {
        self.upstreams.is_empty() && !self.settings
    }
}

impl fmt::Display for ReloadSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("nothing changed");
        }
        let mut separator = "";
        for upstream in &self.upstreams {
            write!(f, "{separator}{upstream}")?;
            separator = "; ";
        }
        if self.settings {
            write!(f, "{separator}settings changed")?;
        }
        Ok(())
    }
}

/// The changes that a reload made to one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamChange {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it was added, removed or changed.
    pub kind: UpstreamChangeKind,
    /// Backends that joined.
    pub added: Vec<BackendId>,
    /// Backends that left.
    pub removed: Vec<BackendId>,
    /// Backends whose address, weight, state or limit changed.
    pub changed: Vec<BackendId>,
    /// Whether the ring was rebuilt because ids, weights, points or the seed changed.
    pub ring: bool,
    /// Whether the bindings were lost because the seed or the kind of memory changed.
    pub forgotten: bool,
}

/// What became of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamChangeKind {
    /// The upstream is new.
    Added,
    /// The upstream and its bindings were removed.
    Removed,
    /// The configuration of the upstream changed.
    Changed,
}

impl fmt::Display for UpstreamChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            UpstreamChangeKind::Added => "added",
            UpstreamChangeKind::Removed => "removed",
            UpstreamChangeKind::Changed => "changed",
        };
        write!(f, "upstream {} {kind}", self.name)?;
        if self.kind == UpstreamChangeKind::Changed {
            for (word, ids) in
                [("added", &self.added), ("removed", &self.removed), ("changed", &self.changed)]
            {
                for (i, id) in ids.iter().enumerate() {
                    if i == 0 {
                        write!(f, ", {word} {id}")?;
                    } else {
                        write!(f, " {id}")?;
                    }
                }
            }
        }
        if self.forgotten {
            f.write_str(", bindings lost")?;
        }
        Ok(())
    }
}
