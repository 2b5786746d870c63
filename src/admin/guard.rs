//! Access control of the admin API.
//!
//! Two kinds of attackers are kept out without a password:
//!
//! * **A web page in a browser on this host.** It can make the browser send requests to loopback
//!   (request forgery), or read responses after pointing its own domain at loopback (DNS rebinding).
//!   Against forgery, requests with an `Origin` are rejected, and changes require the
//!   `X-Homing-Admin` header, which a page cannot send without a CORS preflight. Preflights are never
//!   granted. Against rebinding, `Host` must be `localhost` or an IP address: a rebound request has
//!   the page's domain there.
//! * **Another host**, if `server.admin` is not a loopback address (for example to collect metrics
//!   over the network). It may read, but changes are only accepted from loopback.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode};

/// The header that changes require, with any value.
const ADMIN_HEADER: &str = "x-homing-admin";

/// The reason why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denial {
    Host,
    Origin,
    Header,
    Peer,
}

impl Denial {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin | Self::Header | Self::Peer => StatusCode::FORBIDDEN,
        }
    }

    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Host => "host must be localhost or an IP address\n",
            Self::Origin => "requests from web pages are not allowed\n",
            Self::Header => "missing header \"X-Homing-Admin: 1\"\n",
            Self::Peer => "changes are only accepted from this host\n",
        }
    }
}

/// Checks whether a request may be answered at all.
pub(super) fn admit<B>(request: &Request<B>) -> Result<(), Denial> {
    if request.headers().contains_key(ORIGIN) {
        return Err(Denial::Origin);
    }
    // An absolute target overrides Host (RFC 9112 section 3.2.2), so both must be addresses.
    let target = request.uri().authority().is_none_or(is_address);
    if target && host(request.headers()).is_some_and(|host| is_address(&host)) {
        Ok(())
    } else {
        Err(Denial::Host)
    }
}

/// Checks whether an admitted request may change state.
pub(super) fn admit_change<B>(request: &Request<B>, peer: IpAddr) -> Result<(), Denial> {
    if !peer.to_canonical().is_loopback() {
        Err(Denial::Peer)
    } else if !request.headers().contains_key(ADMIN_HEADER) {
        Err(Denial::Header)
    } else {
        Ok(())
    }
}

/// Returns the value of the Host header if there is exactly one.
fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut values = headers.get_all(HOST).iter();
    let host = values.next().filter(|_| values.next().is_none())?;
    host.to_str().ok()?.parse().ok()
}

fn is_address(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // Userinfo is not allowed.
    !authority.as_str().contains('@')
        && (host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request")
    }

    #[test]
    fn addresses_and_localhost_are_admitted() {
        for host in
            ["127.0.0.1", "127.0.0.1:9900", "[::1]:9900", "localhost", "LOCALHOST:9900", "10.2.3.4:9900"]
        {
            assert_eq!(admit(&request("/status", &[("host", host)])), Ok(()), "{host}");
        }
    }

    #[test]
    fn rebound_names_are_rejected() {
        for host in [
            "evil.example",
            "evil.example:9900",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil@127.0.0.1",
            "",
            "[::1",
            "0x7f.1",
        ] {
            assert_eq!(admit(&request("/status", &[("host", host)])), Err(Denial::Host), "{host}");
        }
        assert_eq!(admit(&request("/status", &[])), Err(Denial::Host));
        let two = [("host", "127.0.0.1"), ("host", "evil.example")];
        assert_eq!(admit(&request("/status", &two)), Err(Denial::Host));
        let absolute = request("http://evil.example/status", &[("host", "127.0.0.1")]);
        assert_eq!(admit(&absolute), Err(Denial::Host));
    }

    #[test]
    fn requests_from_web_pages_are_rejected() {
        for origin in ["https://evil.example", "null", "http://127.0.0.1:9900"] {
            let request = request("/status", &[("host", "127.0.0.1"), ("origin", origin)]);
            assert_eq!(admit(&request), Err(Denial::Origin));
        }
    }

    #[test]
    fn changes_require_the_header_and_loopback() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let with = request("/reload", &[("x-homing-admin", "1")]);
        assert_eq!(admit_change(&with, local), Ok(()));
        assert_eq!(admit_change(&with, "::ffff:127.0.0.1".parse().expect("an address")), Ok(()));
        assert_eq!(admit_change(&with, IpAddr::from([10, 0, 0, 1])), Err(Denial::Peer));
        assert_eq!(admit_change(&request("/reload", &[]), local), Err(Denial::Header));
    }
}
