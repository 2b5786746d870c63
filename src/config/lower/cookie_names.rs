//! Warns about sealed cookies that replace each other, or an application's session, at the client.

use crate::affinity::key::KeySource;
use crate::config::diagnostics::Complaint;
use crate::config::reader::Section;
use crate::model::{HostPattern, Route, Upstream};

/// Warns about the sealed cookies of upstreams that share a host. A browser keeps one cookie of a
/// name for a host, so the sessions of both would move.
pub(super) fn check(root: &Section<'_>, upstreams: &[&Upstream], routes: &[Route]) {
    let sealed = upstreams.iter().enumerate().filter_map(|(index, upstream)| {
        let cookie = upstream.affinity.remember.cookie.as_ref()?;
        Some((index, *upstream, cookie))
    });
    for (index, upstream, cookie) in sealed {
        for (other, neighbour) in upstreams.iter().enumerate().filter(|(other, _)| *other != index) {
            let same = neighbour.affinity.remember.cookie.as_ref().filter(|same| same.name == cookie.name);
            let named = KeySource::Cookie(cookie.name.clone());
            let is_key = neighbour.affinity.key.contains(&named);
            // Report two cookies of one name once.
            let clash = match same {
                Some(same) if other > index && !apart(&cookie.path, &same.path) => "affinity cookie",
                _ if is_key => "application's cookie",
                _ => continue,
            };
            let own = hosts(routes, index, cookie.domain.as_deref());
            let theirs = hosts(routes, other, same.and_then(|same| same.domain.as_deref()));
            if !own.iter().any(|host| theirs.iter().any(|other| meet(host, other))) {
                continue;
            }
            root.complain(
                Complaint::warning(format!(
                    "the affinity cookie \"{}\" of upstream `{}` replaces the {clash} of upstream `{}` on the same \
                     host; sessions will move",
                    cookie.name, upstream.name, neighbour.name
                ))
                .help("give each upstream its own `cookie.name`, or remove it to use the default"),
            );
        }
    }
}

/// Returns the hosts to which clients send a cookie that this upstream sets.
fn hosts(routes: &[Route], upstream: usize, domain: Option<&str>) -> Vec<HostPattern> {
    if let Some(domain) = domain {
        return vec![HostPattern::Exact(domain.to_owned()), HostPattern::Suffix(format!(".{domain}"))];
    }
    routes.iter().filter(|route| route.upstream == upstream).map(|route| route.host.clone()).collect()
}

/// Returns true if a host matches both patterns.
fn meet(one: &HostPattern, other: &HostPattern) -> bool {
    match (one, other) {
        (HostPattern::Any, _) | (_, HostPattern::Any) => true,
        (HostPattern::Exact(one), HostPattern::Exact(other)) => one == other,
        (HostPattern::Exact(name), HostPattern::Suffix(suffix))
        | (HostPattern::Suffix(suffix), HostPattern::Exact(name)) => name.ends_with(suffix),
        (HostPattern::Suffix(one), HostPattern::Suffix(other)) => {
            one.ends_with(other.as_str()) || other.ends_with(one.as_str())
        }
    }
}

/// Returns true if no request has cookies of both paths (RFC 6265 §5.1.4).
fn apart(one: &str, other: &str) -> bool {
    let covers = |path: &str, longer: &str| {
        longer
            .strip_prefix(path)
            .is_some_and(|rest| path.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
    };
    !covers(one, other) && !covers(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_meet_where_a_host_matches_both_patterns() {
        let exact = |name: &str| HostPattern::Exact(name.into());
        let suffix = |name: &str| HostPattern::Suffix(name.into());
        assert!(meet(&HostPattern::Any, &exact("a.example")));
        assert!(meet(&exact("a.example"), &exact("a.example")));
        assert!(!meet(&exact("a.example"), &exact("b.example")));
        assert!(meet(&exact("a.b.example"), &suffix(".example")));
        assert!(!meet(&exact("example"), &suffix(".example")));
        assert!(meet(&suffix(".b.example"), &suffix(".example")));
        assert!(!meet(&suffix(".a.example"), &suffix(".b.example")));
    }

    #[test]
    fn paths_are_apart_at_segment_boundaries() {
        assert!(apart("/a", "/b") && apart("/a", "/ab"));
        assert!(!apart("/", "/b") && !apart("/a", "/a/b") && !apart("/a", "/a"));
    }
}
