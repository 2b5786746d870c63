//! Whether shared caches may store a response.

use crate::affinity::key::cookies::unquote;
use crate::affinity::message::ResponseView;
use crate::affinity::message::trim;

/// Response headers that instruct caches of one kind and override Cache-Control there (RFC 9213, the
/// Edge Architecture Specification, and vendors' own), in lower case.
const TARGETED: [&str; 6] = [
    "cdn-cache-control",
    "surrogate-control",
    "cloudflare-cdn-cache-control",
    "netlify-cdn-cache-control",
    "vercel-cdn-cache-control",
    "edge-control",
];

/// nginx's own: a number of seconds, `@` and a time, or `off`.
const X_ACCEL_EXPIRES: &str = "x-accel-expires";

/// Returns true for the headers that instruct some shared caches and override Cache-Control there.
pub fn is_targeted_field(name: &str) -> bool {
    TARGETED.iter().chain([&X_ACCEL_EXPIRES]).any(|targeted| name.eq_ignore_ascii_case(targeted))
}

/// Returns true if a shared cache may store this response, according to its own headers (RFC 9111
/// §3). A cookie set on it would be served to every client of that cache.
///
/// This is true for a GET or HEAD (including a response that updates a stored one, such as 304) if
/// the response says `public` or has a lifetime (`s-maxage`, else `max-age`, else `Expires`), and
/// has none of `private`, `no-store` and `no-cache`. A `private` or `no-cache` with a list of
/// fields counts only if `Set-Cookie` is in the list.
///
/// A targeted header is read alone in the same way. The cache in front may be of its kind or of
/// another, so the response is cacheable if any of these headers says so.
///
/// Heuristic freshness (RFC 9111 §4.2.2) does not count: most applications send responses without
/// any caching headers, and without a cookie on those there would be no affinity. A cache that uses
/// heuristics must not store responses with Set-Cookie; all common ones comply.
pub fn is_publicly_cacheable(method: &str, status: u16, response: &impl ResponseView) -> bool {
    if status < 200 || !matches!(method, "GET" | "HEAD") {
        return false;
    }
    // Applications write `0` and `-1` for "expired". To be safe, any date counts as a future one.
    let expires = || response.field_values("expires").any(|value| trim(value).len() > 2);
    match Verdict::of(response, "cache-control") {
        Verdict::Cacheable => return true,
        Verdict::Silent if expires() => return true,
        Verdict::Silent | Verdict::Forbidden => {}
    }
    TARGETED.iter().any(|name| Verdict::of(response, name) == Verdict::Cacheable)
        || response.field_values(X_ACCEL_EXPIRES).any(is_positive)
}

/// What the directives of one header say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// `public`, or a positive lifetime.
    Cacheable,
    /// A directive that forbids it, or a lifetime of zero.
    Forbidden,
    /// Neither.
    Silent,
}

impl Verdict {
    fn of(response: &impl ResponseView, name: &str) -> Self {
        let mut public = false;
        let mut shared_lifetime = None;
        let mut lifetime = None;
        for directive in response.field_values(name).flat_map(Directives::of) {
            let is = |name: &str| directive.name.eq_ignore_ascii_case(name.as_bytes());
            if is("no-store") {
                return Self::Forbidden;
            } else if is("private") || is("no-cache") {
                match directive.argument {
                    None => return Self::Forbidden,
                    Some(fields) if lists_set_cookie(fields) => return Self::Forbidden,
                    Some(_) => {}
                }
            } else if is("public") {
                public = true;
            } else if is("s-maxage") {
                shared_lifetime = directive.argument;
            } else if is("max-age") {
                lifetime = directive.argument;
            }
        }
        match (public, shared_lifetime.or(lifetime)) {
            (true, _) => Self::Cacheable,
            (false, Some(seconds)) if is_positive(seconds) => Self::Cacheable,
            (false, Some(_)) => Self::Forbidden,
            (false, None) => Self::Silent,
        }
    }
}

/// Returns true unless a number is zero: one of its digits is not.
fn is_positive(seconds: &[u8]) -> bool {
    seconds.iter().any(|b| (b'1'..=b'9').contains(b))
}

fn lists_set_cookie(fields: &[u8]) -> bool {
    fields.split(|b| *b == b',').any(|field| trim(field).eq_ignore_ascii_case(b"set-cookie"))
}

struct Directive<'a> {
    name: &'a [u8],
    /// Without quotes.
    argument: Option<&'a [u8]>,
}

/// The directives of one Cache-Control line. A comma in quotes does not separate.
struct Directives<'a> {
    rest: &'a [u8],
}

impl<'a> Directives<'a> {
    fn of(line: &'a [u8]) -> Self {
        Self { rest: line }
    }
}

impl<'a> Iterator for Directives<'a> {
    type Item = Directive<'a>;

    fn next(&mut self) -> Option<Directive<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let mut quoted = false;
        let end = self.rest.iter().position(|b| {
            quoted ^= *b == b'"';
            *b == b',' && !quoted
        });
        let (text, rest) = match end {
            Some(end) => (&self.rest[..end], &self.rest[end + 1..]),
            None => (self.rest, &[][..]),
        };
        self.rest = rest;
        let (name, argument) = match memchr::memchr(b'=', text) {
            Some(equals) => (&text[..equals], Some(unquote(trim(&text[equals + 1..])))),
            None => (text, None),
        };
        Some(Directive { name: trim(name), argument })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affinity::key::tests::TestRequest;

    fn cacheable(fields: &[(&'static str, &str)]) -> bool {
        is_publicly_cacheable("GET", 200, &TestRequest::new("", fields))
    }

    fn control(value: &str) -> bool {
        cacheable(&[("cache-control", value)])
    }

    #[test]
    fn explicit_lifetimes_and_public_are_cacheable() {
        for value in ["public", "max-age=60", "Public, Max-Age=0", "s-maxage=\"1\"", "x=\"a,b\" ,s-maxage=10"]
        {
            assert!(control(value), "{value}");
        }
        assert!(cacheable(&[("cache-control", "must-revalidate"), ("cache-control", "public")]));
        assert!(cacheable(&[("expires", "Thu, 01 Dec 2050 16:00:00 GMT")]));
    }

    #[test]
    fn private_no_store_and_no_cache_are_not_cacheable() {
        for value in ["private, max-age=60", "public, no-store", "NO-CACHE, max-age=60", "max-age=1,private"]
        {
            assert!(!control(value), "{value}");
        }
        assert!(!cacheable(&[("cache-control", "public"), ("cache-control", "private")]));
    }

    #[test]
    fn response_without_a_lifetime_is_not_cacheable() {
        for value in
            ["", "max-age=0", "max-age=60, s-maxage=0", "x-public", "foo=\"public, max-age=1\"", ",,"]
        {
            assert!(!control(value), "{value}");
        }
        assert!(!cacheable(&[]), "heuristic freshness does not count");
        assert!(!cacheable(&[("expires", "0")]) && !cacheable(&[("expires", "-1")]));
        assert!(!cacheable(&[("cache-control", "max-age=0"), ("expires", "Thu, 01 Dec 2050 16:00:00 GMT")]));
    }

    #[test]
    fn field_lists_count_only_if_they_include_set_cookie() {
        assert!(!control("max-age=60, no-cache=\"x-a, Set-Cookie\""));
        assert!(!control("private=\"set-cookie\", public"));
        assert!(control("max-age=60, no-cache=\"x-a, x-b\""));
    }

    #[test]
    fn targeted_headers_count_whatever_cache_control_says() {
        for (control, name, value) in [
            ("no-store", "cdn-cache-control", "max-age=600"),
            ("max-age=0, must-revalidate", "cdn-cache-control", "public, max-age=600"),
            ("private", "surrogate-control", "max-age=600+30, content=\"ESI/1.0\""),
            ("no-cache", "cloudflare-cdn-cache-control", "max-age=600"),
            ("private", "netlify-cdn-cache-control", "public, s-maxage=1, durable"),
            ("private", "vercel-cdn-cache-control", "max-age=1"),
            ("no-store", "edge-control", "max-age=1d"),
            ("no-cache", "x-accel-expires", "600"),
            ("no-cache", "x-accel-expires", "@1900000000"),
        ] {
            assert!(cacheable(&[("cache-control", control), (name, value)]), "{control}; {name}: {value}");
            assert!(cacheable(&[(name, value)]), "{name}: {value}");
            assert!(is_targeted_field(&name.to_uppercase()));
        }
    }

    #[test]
    fn targeted_headers_that_forbid_do_not_count() {
        for (name, value) in [
            ("cdn-cache-control", "no-store, max-age=600"),
            ("cdn-cache-control", "max-age=0"),
            ("surrogate-control", "content=\"ESI/1.0\""),
            ("x-accel-expires", "0"),
            ("x-accel-expires", "off"),
        ] {
            assert!(!cacheable(&[("cache-control", "private"), (name, value)]), "{name}: {value}");
            assert!(
                cacheable(&[("cache-control", "public"), (name, value)]),
                "a cache of another kind obeys Cache-Control"
            );
        }
        assert!(!is_targeted_field("cache-control"));
    }

    #[test]
    fn only_final_responses_to_get_and_head_are_cacheable() {
        let response = TestRequest::new("", &[("cache-control", "public, max-age=60")]);
        assert!(is_publicly_cacheable("HEAD", 304, &response));
        assert!(is_publicly_cacheable("GET", 404, &response));
        assert!(!is_publicly_cacheable("POST", 200, &response));
        assert!(!is_publicly_cacheable("GET", 101, &response));
    }
}
