//! From host and path to an upstream.

use ahash::AHashMap;

use crate::model::{HostPattern, Route};

/// The routes of a configuration, arranged for looking up.
///
/// The most specific host decides (exact, then the longest suffix, then any);
/// under it the longest path prefix. A host whose routes do not take the path
/// leaves it to the next less specific one.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    exact: AHashMap<String, Vec<(String, usize)>>,
    suffixes: Vec<(String, String, usize)>,
    any: Vec<(String, usize)>,
}

impl RouteTable {
    /// Arranges routes; their order does not matter.
    pub(crate) fn new(routes: &[Route]) -> Self {
        let mut table = Self::default();
        for route in routes {
            let path = route.path.clone();
            match &route.host {
                HostPattern::Any => table.any.push((path, route.upstream)),
                HostPattern::Exact(host) => {
                    table.exact.entry(host.clone()).or_default().push((path, route.upstream));
                }
                HostPattern::Suffix(suffix) => table.suffixes.push((suffix.clone(), path, route.upstream)),
            }
        }
        table.any.sort_by_key(|(path, _)| usize::MAX - path.len());
        for paths in table.exact.values_mut() {
            paths.sort_by_key(|(path, _)| usize::MAX - path.len());
        }
        table.suffixes.sort_by_key(|(suffix, path, _)| (usize::MAX - suffix.len(), usize::MAX - path.len()));
        table
    }

    /// The upstream for this Host (a port is ignored) and path.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<usize> {
        if !(self.exact.is_empty() && self.suffixes.is_empty()) {
            let name = without_port(host);
            let name = name.strip_suffix('.').unwrap_or(name);
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
                if let Some((_, _, upstream)) = self.suffixes.iter().find(by_suffix) {
                    return Some(*upstream);
                }
            }
        }
        first(&self.any, path)
    }
}

fn first(paths: &[(String, usize)], path: &str) -> Option<usize> {
    paths.iter().find(|(prefix, _)| takes(prefix, path)).map(|(_, upstream)| *upstream)
}

/// Does the route's prefix take this path, at a segment boundary?
fn takes(prefix: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?', ';'])
}

/// A host without its port; IPv6 addresses stay in brackets.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RouteTable {
        let route = |host, path: &str, upstream| Route { host, path: path.into(), upstream };
        RouteTable::new(&[
            route(HostPattern::Any, "/", 0),
            route(HostPattern::Any, "/app", 1),
            route(HostPattern::Suffix(".example.com".into()), "/", 2),
            route(HostPattern::Exact("www.example.com".into()), "/api/", 3),
            route(HostPattern::Suffix(".eu.example.com".into()), "/", 4),
        ])
    }

    #[test]
    fn the_most_specific_route_wins() {
        let table = table();
        assert_eq!(table.find("www.example.com", "/api/x"), Some(3));
        assert_eq!(table.find("WWW.Example.COM:8080", "/api/"), Some(3));
        assert_eq!(table.find("www.example.com.", "/api/"), Some(3));
        assert_eq!(table.find("www.example.com", "/other"), Some(2), "falls to the suffix");
        assert_eq!(table.find("a.eu.example.com", "/app"), Some(4));
        assert_eq!(table.find("example.com", "/"), Some(0), "a suffix does not take the name itself");
        assert_eq!(table.find("[::1]:80", "/"), Some(0));
        assert_eq!(table.find("", "/app"), Some(1));
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let table = table();
        for path in ["/app", "/app/", "/app/x", "/app?q", "/app;p=1"] {
            assert_eq!(table.find("h", path), Some(1), "{path}");
        }
        assert_eq!(table.find("h", "/apple"), Some(0));
    }

    proptest::proptest! {
        /// `explain` asks the configuration, the data plane this table.
        #[test]
        fn the_table_agrees_with_the_configuration(
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
                .enumerate()
                .map(|(upstream, (host, path))| Route { host: hosts[host].clone(), path: paths[path].into(), upstream })
                .collect();
            let by_order = routes.iter().find(|r| r.host.matches(&host) && r.takes_path(&path)).map(|r| r.upstream);
            proptest::prop_assert_eq!(RouteTable::new(&routes).find(&host, &path), by_order);
        }
    }
}
