//! The cookie in headers: set on responses, removed from requests.

use arrayvec::ArrayVec;

use super::config::{CookieConfig, SameSite, SecureAttribute};
use super::jar::OwnCookies;
use crate::affinity::key::cookies::{cookie_pieces, parse_pair};
use crate::affinity::message::trim;

/// Returns the Set-Cookie value that gives `sealed` to the client, under the name for early ones if
/// it is `early`. `secure` says whether the
/// request came over TLS; it is used if `cfg.secure` is `Auto`.
///
/// There is no Max-Age and no Expires: the client keeps the cookie as long as the application's
/// session cookie, and the lifetime of the binding is sealed inside, where the client cannot extend
/// it. Cookies that browsers reject without Secure (`__Host-`, `__Secure-`, SameSite=None,
/// Partitioned) always have it.
pub fn set_cookie_value(cfg: &CookieConfig, early: bool, sealed: &str, secure: bool) -> String {
    let name = if early { &cfg.early_name } else { &cfg.name };
    value_with(cfg, name, sealed, "", secure)
}

/// Returns the Set-Cookie value that deletes our cookie at the client. Its attributes are those it
/// was set with, since a browser tells cookies apart by them.
pub fn delete_cookie_value(cfg: &CookieConfig, early: bool, secure: bool) -> String {
    let name = if early { &cfg.early_name } else { &cfg.name };
    value_with(cfg, name, "", "; Max-Age=0", secure)
}

fn value_with(cfg: &CookieConfig, name: &str, sealed: &str, lifetime: &str, secure: bool) -> String {
    let prefixed =
        |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let secure = match cfg.secure {
        SecureAttribute::Auto => secure,
        SecureAttribute::Always => true,
        SecureAttribute::Never => false,
    } || cfg.partitioned
        || cfg.same_site == SameSite::None
        || prefixed("__Host-")
        || prefixed("__Secure-");
    let mut value = String::with_capacity(name.len() + sealed.len() + cfg.path.len() + 90);
    for part in [name, "=", sealed, lifetime, "; Path=", &cfg.path] {
        value.push_str(part);
    }
    if let Some(domain) = &cfg.domain {
        value.push_str("; Domain=");
        value.push_str(domain);
    }
    if secure {
        value.push_str("; Secure");
    }
    if cfg.http_only {
        value.push_str("; HttpOnly");
    }
    value.push_str(match cfg.same_site {
        SameSite::Lax => "; SameSite=Lax",
        SameSite::Strict => "; SameSite=Strict",
        SameSite::None => "; SameSite=None",
    });
    if cfg.partitioned {
        value.push_str("; Partitioned");
    }
    value
}

/// The result of [`strip_cookie`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stripped {
    /// The line does not contain our cookie. Nothing was written.
    Unchanged,
    /// The rest of the line was appended to `out`.
    Changed,
    /// Nothing is left, so the line must be dropped. Nothing was written.
    Empty,
}

/// Removes our cookies from a Cookie line, since they are between Homing and the client only. The
/// rest of the line is kept byte for byte, including nameless and malformed pieces, and cookies
/// with our name that were not sealed here: they are another proxy's.
///
/// `is_named` recognizes our name, `own` says which of the cookies with it are ours, and `seen`
/// counts them over the lines of a request.
pub fn strip_cookie(
    out: &mut Vec<u8>,
    line: &[u8],
    is_named: impl Fn(&[u8]) -> bool,
    own: OwnCookies,
    seen: &mut usize,
) -> Stripped {
    let mut ours = ArrayVec::<usize, { OwnCookies::MAX }>::new();
    for (at, piece) in cookie_pieces(line).enumerate() {
        if parse_pair(piece).is_some_and(|pair| is_named(pair.name)) {
            if own.contains(*seen) {
                ours.push(at);
            }
            *seen += 1;
        }
    }
    if ours.is_empty() {
        return Stripped::Unchanged;
    }
    let rest =
        || cookie_pieces(line).enumerate().filter(|(at, _)| !ours.contains(at)).map(|(_, piece)| piece);
    if rest().all(|piece| trim(piece).is_empty()) {
        return Stripped::Empty;
    }
    for (n, piece) in rest().enumerate() {
        if n == 0 {
            // Skips the space after the removed semicolon.
            let start = piece.iter().position(|b| *b != b' ' && *b != b'\t').unwrap_or(piece.len());
            out.extend_from_slice(&piece[start..]);
        } else {
            out.push(b';');
            out.extend_from_slice(piece);
        }
    }
    Stripped::Changed
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::affinity::cookie::OnCacheable;

    fn config(name: &str) -> CookieConfig {
        CookieConfig {
            name: name.into(),
            early_name: CookieConfig::early_name_of(name),
            former_name: None,
            keys_file: None,
            keys: Vec::new(),
            max_age: None,
            max_idle: Duration::from_secs(1),
            path: "/".into(),
            domain: None,
            secure: SecureAttribute::Auto,
            same_site: SameSite::Lax,
            http_only: true,
            partitioned: false,
            on_cacheable: OnCacheable::Skip,
        }
    }

    #[test]
    fn attributes_are_as_configured() {
        let mut cfg = config("homing");
        assert_eq!(set_cookie_value(&cfg, false, "v", false), "homing=v; Path=/; HttpOnly; SameSite=Lax");
        cfg.path = "/app".into();
        cfg.domain = Some("example.com".into());
        cfg.same_site = SameSite::Strict;
        cfg.http_only = false;
        assert_eq!(
            set_cookie_value(&cfg, false, "v", true),
            "homing=v; Path=/app; Domain=example.com; Secure; SameSite=Strict"
        );
    }

    #[test]
    fn secure_auto_follows_the_request() {
        let secure = |attribute, tls| {
            let cfg = CookieConfig { secure: attribute, ..config("homing") };
            set_cookie_value(&cfg, false, "v", tls).contains("; Secure")
        };
        assert!(secure(SecureAttribute::Auto, true) && !secure(SecureAttribute::Auto, false));
        assert!(secure(SecureAttribute::Always, false));
        assert!(!secure(SecureAttribute::Never, true));
    }

    #[test]
    fn cookies_that_browsers_reject_without_secure_have_it() {
        let none = CookieConfig { same_site: SameSite::None, ..config("homing") };
        let partitioned = CookieConfig { partitioned: true, ..config("homing") };
        for cfg in [config("__Host-homing"), config("__secure-homing"), none, partitioned.clone()] {
            assert!(set_cookie_value(&cfg, false, "v", false).contains("; Secure"), "{}", cfg.name);
        }
        assert!(set_cookie_value(&partitioned, false, "v", false).ends_with("; Partitioned"));
    }

    fn strip(line: &str) -> Result<String, Stripped> {
        let mut out = b"cookie: ".to_vec();
        match strip_cookie(&mut out, line.as_bytes(), |name| name == b"H", OwnCookies::ALL, &mut 0) {
            Stripped::Changed => Ok(String::from_utf8(out.split_off(8)).unwrap()),
            other => {
                assert_eq!(out, b"cookie: ", "nothing was written");
                Err(other)
            }
        }
    }

    #[test]
    fn our_cookie_is_removed_and_others_are_unchanged() {
        assert_eq!(strip("a=1; H=x; b=2").as_deref(), Ok("a=1; b=2"));
        assert_eq!(strip("H=x; a=\"1\";b=2;  c").as_deref(), Ok("a=\"1\";b=2;  c"));
        assert_eq!(strip("a=1; H=x").as_deref(), Ok("a=1"));
        assert_eq!(strip("H=x;H=y;a=1; H = z ;b").as_deref(), Ok("a=1;b"));
        assert_eq!(strip("H=; \u{ff}=1").as_deref(), Ok("\u{ff}=1"));
    }

    #[test]
    fn cookies_with_our_name_that_others_sealed_are_passed_on() {
        let (mut out, mut seen) = (Vec::new(), 0);
        let mut strip = |out: &mut Vec<u8>, line: &str, own| {
            strip_cookie(out, line.as_bytes(), |name| name == b"H", own, &mut seen)
        };
        let second = OwnCookies::only(1);
        assert_eq!(strip(&mut out, "a=1; H=theirs", second), Stripped::Unchanged);
        assert_eq!(strip(&mut out, "H=ours; H=theirs; b", second), Stripped::Changed);
        assert_eq!(String::from_utf8_lossy(&out), "H=theirs; b");
    }

    #[test]
    fn deletion_has_the_attributes_of_the_cookie() {
        let cfg = CookieConfig { domain: Some("example.com".into()), path: "/app".into(), ..config("h") };
        assert_eq!(
            delete_cookie_value(&cfg, false, true),
            "h=; Max-Age=0; Path=/app; Domain=example.com; Secure; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn line_with_only_our_cookie_is_dropped() {
        assert_eq!(strip("H=x"), Err(Stripped::Empty));
        assert_eq!(strip(" H=x; H=y;; "), Err(Stripped::Empty));
    }

    #[test]
    fn line_without_our_cookie_is_unchanged() {
        for line in ["", "a=1; b=2", "HH=1; XH=2; h=3", "H", "a=H=1", "=H", "a=1;; b="] {
            assert_eq!(strip(line), Err(Stripped::Unchanged), "{line}");
        }
    }
}
