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

impl Route {
    /// Returns whether `path` (with or without a query) starts with the route's prefix and continues
    /// at a segment boundary.
    pub fn takes_path(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(self.path.trim_end_matches('/')) else { return false };
        rest.is_empty() || rest.starts_with(['/', ';', '?'])
    }
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

impl HostPattern {
    /// Returns whether `host`, in lower case and without a port, matches.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name == host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn route(host: HostPattern, path: &str) -> Route {
        Route { host, path: path.to_owned(), upstream: 0 }
    }

    #[test]
    fn path_matches_at_segment_boundaries_only() {
        let app = route(HostPattern::Any, "/app");
        for taken in ["/app", "/app/", "/app/x", "/app;p=1", "/app?q"] {
            assert!(app.takes_path(taken), "{taken}");
        }
        for other in ["/", "/apple", "/ap", "/x/app", "", "/app%2f"] {
            assert!(!app.takes_path(other), "{other}");
        }
        let root = route(HostPattern::Any, "/");
        assert!(root.takes_path("/") && root.takes_path("/x") && root.takes_path("/?q"));
        assert!(!root.takes_path("*"), "`*` has no path");
    }

    #[test]
    fn wildcard_matches_subdomains_but_not_the_domain_itself() {
        let below = HostPattern::Suffix(".example.com".to_owned());
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        assert!(!below.matches("example.com") && !below.matches(".example.com"));
        assert!(!below.matches("a.example.com.evil") && !below.matches("aexample.com"));
    }
}
