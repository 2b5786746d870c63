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

impl Route {
    /// Does `path` (with or without query) begin with the route's, at the end
    /// of a segment?
    pub fn takes_path(&self, path: &str) -> bool {
        let Some(rest) = path.strip_prefix(self.path.trim_end_matches('/')) else { return false };
        rest.is_empty() || rest.starts_with(['/', ';', '?'])
    }
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

impl HostPattern {
    /// Is `host` (in lower case, without port) one of them?
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
    fn a_path_is_taken_at_the_end_of_a_segment_only() {
        let app = route(HostPattern::Any, "/app");
        for taken in ["/app", "/app/", "/app/x", "/app;p=1", "/app?q"] {
            assert!(app.takes_path(taken), "{taken}");
        }
        for other in ["/", "/apple", "/ap", "/x/app", "", "/app%2f"] {
            assert!(!app.takes_path(other), "{other}");
        }
        let root = route(HostPattern::Any, "/");
        assert!(root.takes_path("/") && root.takes_path("/x") && root.takes_path("/?q"));
        assert!(!root.takes_path("*"), "the asterisk form has no path");
    }

    #[test]
    fn a_wildcard_takes_any_depth_below_but_not_the_name_itself() {
        let below = HostPattern::Suffix(".example.com".to_owned());
        assert!(below.matches("a.example.com") && below.matches("a.b.example.com"));
        assert!(!below.matches("example.com") && !below.matches(".example.com"));
        assert!(!below.matches("a.example.com.evil") && !below.matches("aexample.com"));
    }
}
