//! Who is let in.
//!
//! Two kinds of stranger are kept out without a password:
//!
//! * **A web page in a browser on this host.** It can make the browser send
//!   requests to loopback (request forgery), or read the answers after pointing its own name
//!   at loopback (DNS rebinding). Against the first, no request with an `Origin` is
//!   answered, and a change needs the field `X-Homing-Admin`, which no page can
//!   add without asking first (a CORS preflight, never granted). Against the second, `Host` must be
//!   `localhost` or an IP address: a rebound name would show there.
//! * **Another host**, where `server.admin` is not a loopback address, so that
//!   metrics can be collected over the network: it may read, but changes are taken
//!   from loopback only.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode};

/// The field that a change must carry, with any value.
const ADMIN_HEADER: &str = "x-homing-admin";

/// Why a request is not answered.
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
            Self::Host => "Host must be localhost or an IP address.\n",
            Self::Origin => "Requests from web pages are not answered.\n",
            Self::Header => "A change needs the field \"X-Homing-Admin: 1\".\n",
            Self::Peer => "Changes are taken from this host only.\n",
        }
    }
}

/// May the request be answered at all?
pub(super) fn admit<B>(request: &Request<B>) -> Result<(), Denial> {
    if request.headers().contains_key(ORIGIN) {
        return Err(Denial::Origin);
    }
    // An absolute target overrides Host (RFC 9112 section 3.2.2); both must do.
    let target = request.uri().authority().is_none_or(is_address);
    if target && host(request.headers()).is_some_and(|host| is_address(&host)) {
        Ok(())
    } else {
        Err(Denial::Host)
    }
}

/// May the request, once admitted, change something?
pub(super) fn admit_change<B>(request: &Request<B>, peer: IpAddr) -> Result<(), Denial> {
    if !peer.to_canonical().is_loopback() {
        Err(Denial::Peer)
    } else if !request.headers().contains_key(ADMIN_HEADER) {
        Err(Denial::Header)
    } else {
        Ok(())
    }
}

/// The one Host field.
fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut values = headers.get_all(HOST).iter();
    let host = values.next().filter(|_| values.next().is_none())?;
    host.to_str().ok()?.parse().ok()
}

fn is_address(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // Userinfo has no place here.
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
    fn addresses_and_localhost_are_let_in() {
        for host in
            ["127.0.0.1", "127.0.0.1:9900", "[::1]:9900", "localhost", "LOCALHOST:9900", "10.2.3.4:9900"]
        {
            assert_eq!(admit(&request("/status", &[("host", host)])), Ok(()), "{host}");
        }
    }

    #[test]
    fn a_rebound_name_is_kept_out() {
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
    fn a_web_page_is_kept_out() {
        for origin in ["https://evil.example", "null", "http://127.0.0.1:9900"] {
            let request = request("/status", &[("host", "127.0.0.1"), ("origin", origin)]);
            assert_eq!(admit(&request), Err(Denial::Origin));
        }
    }

    #[test]
    fn changes_need_the_field_and_loopback() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let with = request("/reload", &[("x-homing-admin", "1")]);
        assert_eq!(admit_change(&with, local), Ok(()));
        assert_eq!(admit_change(&with, "::ffff:127.0.0.1".parse().expect("an address")), Ok(()));
        assert_eq!(admit_change(&with, IpAddr::from([10, 0, 0, 1])), Err(Denial::Peer));
        assert_eq!(admit_change(&request("/reload", &[]), local), Err(Denial::Header));
    }
}
