//! Routes and the requests that they match.

use std::fmt;

/// `[[route]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Hosts that it matches.
    pub host: HostPattern,
    /// Path prefix that it matches, at a segment boundary: `/app` matches `/app`, `/app/x`, `/app;p`
    /// and `/app?q`, but not `/apple`.
    pub path: String,
    /// Index into [`Config::upstreams`](super::Config::upstreams).
    pub upstream: usize,
}

/// The hosts that a route matches, in lower case and without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Any host.
    Any,
    /// This host only.
    Exact(String),
    /// `*.example.com`, stored as `.example.com`: subdomains at any depth, but not the domain itself.
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
