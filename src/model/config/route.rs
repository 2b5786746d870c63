//! Routes, and which requests they take.

use std::fmt;

/// `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which hosts.
    pub host: HostPattern,
    /// Which paths: this prefix, at a segment boundary (`/app` takes `/app`,
    /// `/app/x`, `/app;p`, `/app?q`, not `/apple`).
    pub path: String,
    /// Index into [`Config::upstreams`](super::Config::upstreams).
    pub upstream: usize,
}

/// The hosts of a route, in lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This one.
    Exact(String),
    /// `*.example.com` as `.example.com`: any depth below, not the name itself.
    Suffix(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}
