//! What a reload changed, for the log and for whoever asked for it.

use std::fmt;
use std::sync::Arc;

use crate::affinity::BackendId;

/// What a reload changed. Listeners are not the control plane's business.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReloadSummary {
    /// The generation of the snapshot that has the new configuration.
    pub generation: u64,
    /// Upstreams that were added, removed or changed, by name.
    pub upstreams: Vec<UpstreamChange>,
    /// Did anything outside the upstreams change (routes, limits, timeouts …)?
    pub settings: bool,
}

impl ReloadSummary {
    /// Was the new configuration equal to the old?
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

/// What a reload changed in one upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamChange {
    /// Its name.
    pub name: Arc<str>,
    /// Is it new, gone or changed?
    pub kind: UpstreamChangeKind,
    /// Backends that joined.
    pub added: Vec<BackendId>,
    /// Backends that left.
    pub removed: Vec<BackendId>,
    /// Backends whose address, weight, state or limit changed.
    pub changed: Vec<BackendId>,
    /// Was the ring built anew (ids, weights, points or seed changed)?
    pub ring: bool,
    /// Were the bindings kept so far forgotten (seed or kind of memory changed)?
    pub forgotten: bool,
}

/// What became of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamChangeKind {
    /// It is new.
    Added,
    /// It is gone, with its bindings.
    Removed,
    /// It is configured differently.
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
            f.write_str(", bindings forgotten")?;
        }
        Ok(())
    }
}
