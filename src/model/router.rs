//! Which route a request takes. The proxy and `homing explain` both ask here.

use ahash::AHashMap;

use super::{HostPattern, Route};

/// The routes of a configuration, arranged for looking up.
///
/// The most specific host decides (exact, then the longest suffix, then any);
/// under it the longest path prefix. A host whose routes do not take the path
/// leaves it to the next less specific one.
#[derive(Debug, Default)]
pub struct Router {
    exact: AHashMap<String, Vec<(String, usize)>>,
    suffixes: Vec<(String, String, usize)>,
    any: Vec<(String, usize)>,
}

impl Router {
    /// Arranges routes. Their order does not matter.
    pub fn new(routes: &[Route]) -> Self {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let path = route.path.clone();
            match &route.host {
                HostPattern::Any => table.any.push((path, index)),
                HostPattern::Exact(host) => table.exact.entry(host.clone()).or_default().push((path, index)),
                HostPattern::Suffix(suffix) => table.suffixes.push((suffix.clone(), path, index)),
            }
        }
        table.any.sort_by_key(|(path, _)| usize::MAX - path.len());
        for paths in table.exact.values_mut() {
            paths.sort_by_key(|(path, _)| usize::MAX - path.len());
        }
        table.suffixes.sort_by_key(|(suffix, path, _)| (usize::MAX - suffix.len(), usize::MAX - path.len()));
        table
    }

    /// Returns the index of the route for a Host header, in any case and with or without a
    /// port, and a path, with or without a query.
    pub fn find(&self, host: &str, path: &str) -> Option<usize> {
        if !(self.exact.is_empty() && self.suffixes.is_empty()) {
            let name = host_name(host);
            let mut lower = [0u8; 255];
            if let Some(lower) = lower.get_mut(..name.len()) {
                lower.copy_from_slice(name.as_bytes());
                lower.make_ascii_lowercase();
                let name = std::str::from_utf8(lower).unwrap_or_default();
                if let Some(found) = self.exact.get(name).and_then(|paths| first(paths, path)) {
                    return Some(found);
                }
                let by_suffix = |(suffix, prefix, _): &&(String, String, usize)| {
                    name.len() > suffix.len() && name.ends_with(suffix.as_str()) && takes(prefix, path)
                };
                if let Some((_, _, route)) = self.suffixes.iter().find(by_suffix) {
                    return Some(*route);
                }
            }
        }
        first(&self.any, path)
    }
}

fn first(paths: &[(String, usize)], path: &str) -> Option<usize> {
    paths.iter().find(|(prefix, _)| takes(prefix, path)).map(|(_, route)| *route)
}

/// Does the path begin with the prefix, at a segment boundary?
fn takes(prefix: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?', ';'])
}

/// The name in a Host header: without port and without the root's trailing dot.
pub fn host_name(host: &str) -> &str {
    let name = without_port(host);
    name.strip_suffix('.').unwrap_or(name)
}

/// A host without its port. IPv6 addresses keep their brackets.
pub fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Router {
        let route = |host, path: &str| Route { host, path: path.into(), upstream: 0 };
        Router::new(&[
            route(HostPattern::Any, "/"),
            route(HostPattern::Any, "/app"),
            route(HostPattern::Suffix(".example.com".into()), "/"),
            route(HostPattern::Exact("www.example.com".into()), "/api/"),
            route(HostPattern::Suffix(".eu.example.com".into()), "/"),
        ])
    }

    #[test]
    fn the_most_specific_route_wins() {
        let table = table();
        assert_eq!(table.find("www.example.com", "/api/x"), Some(3));
        assert_eq!(table.find("www.example.com", "/other"), Some(2), "falls back to the suffix");
        assert_eq!(table.find("a.eu.example.com", "/app"), Some(4));
        assert_eq!(table.find("example.com", "/"), Some(0), "a suffix does not match the name itself");
        assert_eq!(table.find("[::1]:80", "/"), Some(0));
        assert_eq!(table.find("", "/app"), Some(1));
    }

    #[test]
    fn case_port_and_trailing_dot_do_not_matter() {
        let table = table();
        let spellings =
            ["WWW.Example.COM:8080", "www.example.com.", "www.example.com:", "www.example.com.:80"];
        for host in spellings {
            assert_eq!(table.find(host, "/api/"), Some(3), "{host}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let table = table();
        for path in ["/app", "/app/", "/app/x", "/app?q", "/app;p=1"] {
            assert_eq!(table.find("h", path), Some(1), "{path}");
        }
        for path in ["/apple", "/ap", "/x/app", "/app%2f"] {
            assert_eq!(table.find("h", path), Some(0), "{path}");
        }
    }

    #[test]
    fn a_wildcard_matches_any_depth_below_but_not_the_name_itself() {
        let table = Router::new(&[Route {
            host: HostPattern::Suffix(".example.com".into()),
            path: "/".into(),
            upstream: 0,
        }]);
        for host in ["a.example.com", "a.b.example.com"] {
            assert_eq!(table.find(host, "/"), Some(0), "{host}");
        }
        for host in ["example.com", ".example.com", "a.example.com.evil", "aexample.com"] {
            assert_eq!(table.find(host, "/"), None, "{host}");
        }
        assert_eq!(table.find("a.example.com", "*"), None, "the asterisk form has no path");
    }

    /// The rules of `[[route]]`, read off one route at a time.
    fn matches(route: &Route, host: &str, path: &str) -> bool {
        let host = match &route.host {
            HostPattern::Any => true,
            HostPattern::Exact(name) => name == host,
            HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        };
        let rest = path.strip_prefix(route.path.trim_end_matches('/'));
        host && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ';', '?']))
    }

    proptest::proptest! {
        #[test]
        fn lookup_finds_the_first_match_of_the_most_specific_order(
            routes in proptest::collection::vec((0usize..5, 0usize..4), 1..8),
            host in "(a|b|x\\.a|y\\.x\\.a)",
            path in "(/|/p|/p/q|/pq|/p;x|/p\\?y)",
        ) {
            let hosts = [
                HostPattern::Any,
                HostPattern::Exact("a".into()),
                HostPattern::Exact("x.a".into()),
                HostPattern::Suffix(".a".into()),
                HostPattern::Suffix(".x.a".into()),
            ];
            let paths = ["/", "/p", "/p/q", "/pq"];
            let mut seen = std::collections::BTreeSet::new();
            let mut routes: Vec<_> = routes.into_iter().filter(|route| seen.insert(*route)).collect();
            // As the configuration has them: most specific first.
            routes.sort_by_key(|(host, path)| (match host { 1 | 2 => 0, 4 => 1, 3 => 2, _ => 3 }, usize::MAX - paths[*path].len()));
            let routes: Vec<_> = routes
                .into_iter()
                .map(|(host, path)| Route { host: hosts[host].clone(), path: paths[path].into(), upstream: 0 })
                .collect();
            let by_order = routes.iter().position(|route| matches(route, &host, &path));
            proptest::prop_assert_eq!(Router::new(&routes).find(&host, &path), by_order);
        }
    }
}
